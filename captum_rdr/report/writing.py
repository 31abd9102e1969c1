"""Write a report on many regions to one HTML file."""

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from captum_rdr._arguments import check_whole, checked_rows, positional
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.discovery import Atlas, Misclassification
from captum_rdr.method.region import Region
from captum_rdr.metrics import significance
from captum_rdr.metrics._explainers import class_scores
from captum_rdr.model.inputs import BATCH_SIZE, input_arguments
from captum_rdr.report.atlas import atlas_part
from captum_rdr.report.contents import Asked, Method, bank_maps, query_part
from captum_rdr.report.errors import EXPECTED, errors_part, sampled_atlas
from captum_rdr.report.page import Album, write_page
from captum_rdr.visualization.reference import Reference, as_reference
from captum_rdr.visualization.subjects import banks_of


def write_report(
    path: str | os.PathLike[str],
    rdr: RelaxedDecisionRegion,
    queries: Tensor | Sequence[int] | DataLoader[Any] | Dataset[Any],
    dataset: Any,
    *,
    regions: Sequence[Any] | None = None,
    query_labels: Any = None,
    query_predictions: Any = None,
    query_names: Any = None,
    names: Any = None,
    atlas: Atlas | Literal["auto"] | None = "auto",
    method: Method | None = None,
    n_members: int = 16,
    title: str = "Relaxed decision regions",
    show_progress: bool = True,
) -> list[Misclassification] | None:
    """Write one HTML file on the regions of many queries, or on a classifier's errors.

    The file needs neither network nor server. It begins with what was found in words and
    a table of all queries. Of each query it has: who the members of its region are, its
    neighbors and members, where in them the evidence lies (where the layer has places),
    principal neurons, where the concept is (with ``method``), the overlap between layers
    (for a list of layers) and the nearest by several distances (where the bank has
    features). Pictures open larger, the table sorts by column, and filters choose by
    class, predicted class and significance.

    Of a labeled set it shows the errors, as `captum_rdr.discovery.misclassification`
    groups them by the layer that separates them best: a card for each group with its
    errors, where in them the region lies, reference rows in the region, those of odd
    labels, and principal neurons; then an atlas of that layer's concepts; then the first
    errors of each group as queries, 60 at most. The set is gone through once, and what is
    shown is read again.

    An old file is replaced at the end, in one step.

    Args:
        path: the file.
        rdr: fitted. For a labeled set its forward function gives class scores.
        queries: bank rows, whole numbers ``(Q,)``; or a tensor of inputs ``(Q, ...)``; or
            a labeled set: a DataLoader that does not shuffle, or a Dataset, of (inputs,
            labels).
        dataset: the reference set that was fitted, or a
            `captum_rdr.visualization.Reference` of it, which also knows labels,
            predictions, class names and how to make an image of an input.
        regions: one `Region` a query, for a list of layers a list of such lists. Where
            they are not given they are made with the defaults of ``rdr`` and tested by
            `captum_rdr.metrics.significance`, corrected for the number of queries; those
            that are given are shown as they are, with what their tests found. Not for a
            labeled set.
        query_labels: class of each input by position, a whole number or a name; not for
            bank rows. Of a labeled set whole numbers, in place of its own.
        query_predictions: class that the model predicts for each input; None to let it
            predict, where it gives a number for each class that ``dataset`` knows. Not
            for a labeled set.
        query_names: what each input is called, such as its file's name; None for "New
            input 1", or for a labeled set the names of its files where it has
            ``samples``, else "Input 12".
        names: what each bank row is called; None for the names of the files, where the
            data set has ``samples`` as torchvision's folders do, else "Row 12".
        atlas: what `captum_rdr.discovery.atlas` found, to be shown too; "auto" for that
            of 2,000 bank rows, drawn at random, where queries are a labeled set; None for
            none.
        method: from a concept score to what attributes it to inputs, e.g.
            ``lambda score: Saliency(score).attribute``; None to leave that out.
        n_members: neighbors, further members, and errors of a group to show at most,
            before all are asked for.
        title: the report's title.
        show_progress: draw a progress bar when it takes more than a second.

    Returns:
        for a labeled set the groups of errors, one `Misclassification` a layer;
        else None.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: there is no query, regions or labels are not one a query, something is
            given that is not for such queries, or a figure cannot be drawn.

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

    The errors of a classifier:

    >>> labels = data.flatten(1).argmax(1).where(torch.arange(30) > 9, 0)
    >>> tested = torch.utils.data.TensorDataset(data, labels)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/errors.html"
    ...     (found,) = write_report(
    ...         path, rdr, tested, data, atlas=None, show_progress=False
    ...     )
    >>> found
    Misclassification: 10 errors of 30 inputs, 1 group, ...
    """
    check_whole("n_members", n_members)
    known = {"query_labels": query_labels, "query_predictions": query_predictions}
    own = {"regions": regions, "query_predictions": query_predictions}
    known["query_names"], reference = query_names, as_reference(dataset)
    quietly: Any = {"show_progress": show_progress}
    if isinstance(queries, (DataLoader, Dataset)):
        _refuse("a labeled set, which has its own; leave it out", own)
        album = Album(reference, names, EXPECTED)
        asked, found = errors_part(rdr, queries, album, known, **quietly)
        queries = torch.stack([one[0] for one in asked]) if asked else torch.empty(0)
        if atlas == "auto":
            atlas = sampled_atlas(rdr, found["best"], album.reference, **quietly)
    else:
        album = Album(reference, names, len(queries) * (2 * n_members + 1))
        asked, found = _asked(rdr, queries, known, reference), {"errors": []}
    by_query = _by_query(rdr, queries, regions, len(asked), show_progress)
    bar = tqdm(asked, "Drawing", unit="query", disable=not show_progress, delay=1)
    found["queries"] = [
        query_part(rdr, regions_, query, album, method, n_members, not found["errors"])
        for query, regions_ in zip(bar, by_query, strict=True)
    ]
    found |= {"maps": bank_maps(rdr, by_query, album), "layers": rdr.reader.names}
    found["n_members"] = n_members
    found |= atlas_part(None if atlas == "auto" else atlas, show_progress)
    write_page(path, "report.html", title, album, **found)
    return found["errors"] or None


def _asked(
    rdr: RelaxedDecisionRegion,
    queries: Any,
    known: dict[str, Any],
    reference: Reference,
) -> list[Asked]:
    """The queries, each with its classes and name."""
    if not (count := len(queries)):
        raise ValueError("queries is empty; give one bank row or input, or more")
    if _are_rows(queries):
        remedy = "Reference(dataset, labels, predictions), or names"
        _refuse(f"bank rows; tell of the reference set: dataset={remedy}", known)
        fewest = min(len(bank) for bank in banks_of(rdr))
        return list(checked_rows(queries, fewest, "queries").tolist())
    if known["query_predictions"] is None:
        known["query_predictions"] = _predicted(rdr, queries, reference)
    if known["query_names"] is None:
        known["query_names"] = [f"New input {number + 1}" for number in range(count)]
    columns = [
        positional([None] * count if of_all is None else of_all, name, count, "queries")
        for name, of_all in known.items()
    ]
    return list(zip(torch.as_tensor(queries), *columns, strict=True))


def _refuse(kind: str, known: dict[str, Any]) -> None:
    """Refuse what was given but is not for this kind of queries."""
    for name, value in known.items():
        if value is not None:
            raise ValueError(f"{name} is for inputs, but queries are {kind}")


def _predicted(
    rdr: RelaxedDecisionRegion, inputs: Tensor, reference: Reference
) -> Tensor | None:
    """What the model predicts, if it gives one number for each of the known classes."""
    labels = [one for one in reference.labels or () if isinstance(one, int)]
    count = len(reference.class_names or ()) or 1 + max(labels, default=-1)
    with suppress(ValueError):  # it gives no class scores
        scores = class_scores(rdr, input_arguments(inputs, None).split(BATCH_SIZE))
        return scores.argmax(1) if scores.shape[1] == count else None
    return None


def _are_rows(queries: Tensor | Sequence[int]) -> bool:
    if not isinstance(queries, Tensor):
        return True
    return queries.dim() == 1 and not queries.is_floating_point()


def _by_query(
    rdr: RelaxedDecisionRegion,
    queries: Any,
    given: Sequence[Any] | None,
    count: int,
    show_progress: bool,
) -> list[list[Region]]:
    """The regions of each query, one a layer."""
    found: Any = given
    if not count:
        return []
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
            for regions, bank in zip(by_layer, banks, strict=True)
        ]
    if len(by_layer) != len(banks) or any(len(one) != count for one in by_layer):
        raise ValueError(
            f"regions has {[len(one) for one in by_layer]} items for {count} queries in "
            f"{len(banks)} layers; give what attribute or attribute_members returned for "
            "these queries"
        )
    return [list(of_query) for of_query in zip(*by_layer, strict=True)]
