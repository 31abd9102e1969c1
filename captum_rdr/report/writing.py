"""Write a report on many regions to one HTML file."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_rdr._arguments import check_whole, checked_rows, positional
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.metrics import significance
from captum_rdr.report.contents import Asked, Method, bank_maps, query_part
from captum_rdr.report.page import Album, write_page
from captum_rdr.visualization.reference import as_reference
from captum_rdr.visualization.subjects import banks_of


def write_report(
    path: str | os.PathLike[str],
    rdr: RelaxedDecisionRegion,
    queries: Tensor | Sequence[int],
    dataset: Any,
    *,
    regions: Sequence[Any] | None = None,
    query_labels: Any = None,
    query_predictions: Any = None,
    query_names: Any = None,
    names: Any = None,
    method: Method | None = None,
    n_members: int = 16,
    title: str = "Relaxed decision regions",
    show_progress: bool = True,
) -> None:
    """Write one HTML file that shows the regions of many queries.

    The file needs neither network nor server. It begins with what was found in words and
    a table of all queries. Of each query it has: who the members of its region are, its
    neighbors and members, where in them the evidence lies (where the layer has places),
    principal neurons, where the concept is (with ``method``), the overlap between layers
    (for a list of layers) and the nearest by several distances (where the bank has
    features). Pictures open larger, the table sorts by column, and filters choose by
    class, predicted class and significance. An old file is replaced at the end, in one
    step.

    Args:
        path: the file.
        rdr: fitted.
        queries: bank rows, whole numbers ``(Q,)``; or a tensor of inputs ``(Q, ...)``.
        dataset: the reference set that was fitted, or a
            `captum_rdr.visualization.Reference` of it, which also knows labels,
            predictions, class names and how to make an image of an input.
        regions: one `Region` a query, for a list of layers a list of such lists. Where
            they are not given they are made with the defaults of ``rdr`` and tested by
            `captum_rdr.metrics.significance`, corrected for the number of queries; those
            that are given are shown as they are, with what their tests found.
        query_labels: class of each input by position, a whole number or a name; not for
            bank rows.
        query_predictions: class that the model predicts for each input.
        query_names: what each input is called, such as its file's name; else "New input
            1".
        names: what each bank row is called; None for the names of the files, where the
            data set has ``samples`` as torchvision's folders do, else "Row 12".
        method: from a concept score to what attributes it to inputs, e.g.
            ``lambda score: Saliency(score).attribute``; None to leave that out.
        n_members: neighbors, and further members, to show of each region at most.
        title: the report's title.
        show_progress: draw a progress bar when it takes more than a second.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: there is no query, regions or labels are not one a query, or a figure
            cannot be drawn.

    >>> import tempfile
    >>> from pathlib import Path
    >>> model = torch.nn.Flatten()
    >>> data = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> rdr = RelaxedDecisionRegion(model, model, threshold=0.5)
    >>> rdr = rdr.fit(data, show_progress=False)
    >>> regions = rdr.attribute_members([0, 3], n_neighbors=3, n_neurons=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_report(f"{folder}/report.html", rdr, [0, 3], data, regions=regions)
    ...     Path(f"{folder}/report.html").read_text().count("<article")
    2
    """
    check_whole("n_members", n_members)
    known = {"labels": query_labels, "predictions": query_predictions}
    if query_names is None and not _are_rows(queries):
        query_names = [f"New input {number + 1}" for number in range(len(queries))]
    asked = _asked(rdr, queries, {**known, "names": query_names})
    album = Album(as_reference(dataset), names, len(queries) * (2 * n_members + 1))
    by_query = _by_query(rdr, queries, regions, len(asked), show_progress)
    bar = tqdm(asked, "Drawing", unit="query", disable=not show_progress, delay=1)
    parts = [
        query_part(rdr, found, query, album, method, n_members)
        for query, found in zip(bar, by_query, strict=True)
    ]
    maps = bank_maps(rdr, by_query, album)
    values = {"layers": rdr.reader.names, "queries": parts, "maps": maps}
    write_page(path, "report.html", title, album, **values)


def _asked(
    rdr: RelaxedDecisionRegion, queries: Tensor | Sequence[int], known: dict[str, Any]
) -> list[Asked]:
    """The queries, each with its classes and name."""
    if not len(queries):
        raise ValueError("queries is empty; give one bank row or input, or more")
    columns = []
    for name, of_all in known.items():
        if of_all is not None and _are_rows(queries):
            raise ValueError(
                f"query_{name} is for inputs, but queries are bank rows; give what is "
                "known of the reference set: dataset=Reference(dataset, labels, "
                "predictions), or names"
            )
        given = [None] * len(queries) if of_all is None else of_all
        columns.append(positional(given, f"query_{name}"))
        if len(columns[-1]) != len(queries):
            raise ValueError(
                f"query_{name} has {len(columns[-1])} items for {len(queries)} queries; "
                "give one each"
            )
    if _are_rows(queries):
        fewest = min(len(bank) for bank in banks_of(rdr))
        return list(checked_rows(queries, fewest, "queries").tolist())
    return list(zip(torch.as_tensor(queries), *columns, strict=True))


def _are_rows(queries: Tensor | Sequence[int]) -> bool:
    if not isinstance(queries, Tensor):
        return True
    return queries.dim() == 1 and not queries.is_floating_point()


def _by_query(
    rdr: RelaxedDecisionRegion,
    queries: Tensor | Sequence[int],
    given: Sequence[Any] | None,
    count: int,
    show_progress: bool,
) -> list[list[Region]]:
    """The regions of each query, one a layer."""
    found: Any = given
    if found is None and _are_rows(queries):
        options: Any = {"weighting": "evidence", "show_progress": show_progress}
        found = rdr.attribute_members(queries, **options)
    elif found is None:
        _, found = rdr.attribute(queries, weighting="evidence")
    by_layer = list(found) if isinstance(rdr.layer, list) else [found]
    banks = banks_of(rdr)
    if given is None:
        by_layer = [
            significance(regions, bank, show_progress=show_progress)
            if bank.n_neurons > 1  # half of them judge
            else regions
            for regions, bank in zip(by_layer, banks, strict=True)
        ]
    if len(by_layer) != len(banks) or any(len(one) != count for one in by_layer):
        raise ValueError(
            f"regions has {[len(one) for one in by_layer]} items for {count} queries in "
            f"{len(banks)} layers; give what attribute or attribute_members returned for "
            "these queries"
        )
    return [list(of_query) for of_query in zip(*by_layer, strict=True)]
