"""A query with its neighbors and the members of its region."""

import warnings
from typing import Any, Unpack

import torch
from torch import Generator

from captum_rdr._arguments import check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.method.rule import Metric
from captum_rdr.metrics._explainers import fitted_banks
from captum_rdr.metrics._labels import without_query
from captum_rdr.visualization import sheet, subjects, tiles
from captum_rdr.visualization.reference import as_batch

METRICS: tuple[Metric, ...] = ("configuration", "cosine", "euclidean")


def visualize_region(
    region: Region,
    rdr: RelaxedDecisionRegion,
    dataset: Any,
    query: Any = None,
    *,
    n_members: int = 16,
    generator: Generator | None = None,
    **figure: Unpack[sheet.FigureOptions],
) -> sheet.FigureAxes:
    """Draw a query, its neighbors in S and the further members of its region.

    Below each picture stand its label, the model's prediction (behind an arrow), how far
    it is away (in neurons, for neighbors by the distance that chose them) or how evident,
    and where some may differ, in how many principal neurons it does. A wrong prediction
    is framed in orange, the query in blue. The figure says how many members are shown,
    and what a test of the region found.

    Args:
        region: the region to show.
        rdr: fitted; the region is one of its own.
        dataset: the reference set that was fitted, or a `Reference` of it, which also
            knows labels and predictions.
        query: the input, without the batch dimension, or a tuple of it, its class and
            the class that the model predicts; not needed where the bank holds it.
        n_members: neighbors, and further members, to show at most.
        generator: draws the further members at random; None for the nearest first.
        **figure: see `FigureOptions`.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the region is not that of ``rdr``, the query is missing, the data set
            is too small, or an image cannot be drawn.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model = torch.nn.Flatten()
    >>> data = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> rdr = RelaxedDecisionRegion(model, model, threshold=0.5)
    >>> region = rdr.fit(data, show_progress=False).attribute_members([3], 4, 5)[0]
    >>> fig, ax = visualize_region(region, rdr, data, use_pyplot=False)
    >>> [text.get_text() for text in ax.texts][:2]
    ['5 principal neurons of 16 (3 active, 2 inactive), all must agree. 4 of 4 members
     shown.', 'Query and 3 of 3 neighbors, nearest first']
    """
    subject = subjects.of(region, rdr, dataset, query)
    return tiles.draw(region_rows(subject, n_members, generator), **figure)


def region_rows(
    subject: subjects.Subject, n_members: int, generator: Generator | None = None
) -> list[tiles.Row]:
    """What `visualize_region` shows, row by row."""
    region = subject.region
    near = without_query(region.neighbors, region)
    rest = without_query(region.members, region)
    rest = rest[~torch.isin(rest, near)]
    far, first = subject.ranked(n_members, rest, generator), near[:n_members]
    form = "at {:.3g}" if region.distances.is_floating_point() else "{} away"
    away = dict(zip(region.neighbors.tolist(), region.distances.tolist(), strict=True))
    neighbors = subject.tiles(first, [form.format(away[row]) for row in first.tolist()])
    hidden = torch.isin(near[n_members:], region.members).sum() + len(rest) - len(far)
    shown = f"{len(region.members) - hidden} of {len(region.members)} members shown."
    few = f"Query and {len(first)} of {len(near)} neighbors, nearest first"
    order = subject.order if generator is None else "drawn at random"
    further = f"{len(far)} of {len(rest)} further members, {order}"
    return [
        *subject.headed(f"{subject.described} {shown}"),
        tiles.Row(few, [subject.tile, *neighbors]),
        tiles.Row(further, subject.tiles(far)),
    ]


def visualize_neighbors(
    region: Region,
    rdr: RelaxedDecisionRegion,
    dataset: Any,
    query: Any = None,
    *,
    n_neighbors: int = 7,
    **figure: Unpack[sheet.FigureOptions],
) -> sheet.FigureAxes:
    """Draw what is nearest to a region's query by each of three distances, in rows.

    Args:
        region: the region of the query.
        rdr: fitted for one layer, with ``keep_features=True``; the region is one of its
            own.
        dataset: the reference set that was fitted, or a `Reference` of it.
        query: the input, without the batch dimension, or a tuple of it, its class and
            the class that the model predicts; not needed where the bank holds it.
        n_neighbors: neighbors in a row.
        **figure: see `FigureOptions`.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: there are several layers, the region is not that of ``rdr``, the query
            is missing, the bank is smaller or holds no features, or an image cannot be
            drawn.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model = torch.nn.Flatten()
    >>> data = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> rdr = RelaxedDecisionRegion(model, model, threshold=0.5)
    >>> rdr = rdr.fit(data, keep_features=True, show_progress=False)
    >>> (region,) = rdr.attribute_members([3], 4, 5)
    >>> fig, ax = visualize_neighbors(region, rdr, data, n_neighbors=4, use_pyplot=False)
    >>> [text.get_text() for text in ax.texts if "Nearest" in text.get_text()]
    ['Nearest by configuration distance', 'Nearest by cosine distance: 3 of 4 as in the
     first row', 'Nearest by euclidean distance: 3 of 4 as in the first row']
    """
    check_whole("n_neighbors", n_neighbors)
    fitted_banks(rdr)  # refuses several layers
    subject = subjects.of(region, rdr, dataset, query)
    return tiles.draw(neighbor_rows(subject, rdr, n_neighbors), **figure)


def neighbor_rows(
    subject: subjects.Subject, rdr: RelaxedDecisionRegion, n_neighbors: int = 7
) -> list[tiles.Row]:
    """What `visualize_neighbors` shows, row by row."""
    first: set[int] = set()
    rows: list[tiles.Row] = []
    for metric in METRICS:
        options: Any = {"n_neighbors": n_neighbors + 1, "neighbors": metric}
        with warnings.catch_warnings():
            # Only S is wanted, so it does not matter that no neuron is unanimous in it.
            warnings.filterwarnings("ignore", ".*fewer unanimous neurons", UserWarning)
            if subject.query is None and subject.region.query is not None:
                row = subject.region.query
                (found,) = rdr.attribute_members([row], n_neurons=1, **options)
            else:
                inputs = as_batch([subject.item])
                _, (found,) = rdr.attribute(inputs, n_neurons=1, **options)
        form = "{:.0f} away" if metric == "configuration" else "at {:.3g}"
        pairs = zip(found.neighbors.tolist(), found.distances.tolist(), strict=True)
        notes = {one: [form.format(far)] for one, far in pairs if one != found.query}
        heading = f"Nearest by {metric} distance"
        if rows:
            shared = len(first & notes.keys())
            heading += f": {shared} of {len(notes)} as in the first row"
        first = first or set(notes)
        near = subjects.tiles_of(subject.reference, notes)
        rows.append(tiles.Row(heading, [subject.tile, *near]))
    return rows
