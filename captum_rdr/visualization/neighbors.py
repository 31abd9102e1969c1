"""The nearest reference instances by several distances, side by side."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from captum_rdr._arguments import check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.rule import Metric
from captum_rdr.visualization.canvas import FigureAxes, draw_sheet
from captum_rdr.visualization.query import Query, banks_of, find_query
from captum_rdr.visualization.reference import Reference, as_batch, as_reference
from captum_rdr.visualization.tiles import Tile, TileRow, row_blocks

METRICS: tuple[Metric, ...] = ("configuration", "cosine", "euclidean")


def visualize_neighbors(
    rdr: RelaxedDecisionRegion,
    query: Any,
    dataset: Any,
    *,
    query_label: int | None = None,
    query_prediction: int | None = None,
    n_neighbors: int = 7,
    metrics: Sequence[Metric] = METRICS,
    plt_fig_axis: FigureAxes | None = None,
    use_pyplot: bool = True,
    fig_size: tuple[float, float] | None = None,
    title: str | None = None,
    cmap: Any = None,
) -> FigureAxes:
    """Draw what is nearest to a query by each of several distances, in rows.

    Args:
        rdr: fitted for one layer, with ``keep_features=True`` for distances other than
            that of configurations.
        query: a bank row, or an input without the batch dimension.
        dataset: the reference set that was fitted, or a `Reference` of it.
        query_label: class of the given query.
        query_prediction: class that the model predicts for the given query.
        n_neighbors: neighbors in a row.
        metrics: the distances, as for `RelaxedDecisionRegion.attribute`.
        plt_fig_axis: figure and Axes to draw in, as for Captum's visualizers.
        use_pyplot: make a new figure known to pyplot; it is never shown.
        fig_size: size of a new figure, in inches; None for 6 wide and as high as needed.
        title: a heading.
        cmap: colormap of images without color; gray by default.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: there are several layers, the bank is smaller or holds no features,
            or an image cannot be drawn.

    >>> import torch
    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model = torch.nn.Flatten()
    >>> data = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> rdr = RelaxedDecisionRegion(model, model, threshold=0.5)
    >>> rdr = rdr.fit(data, keep_features=True, show_progress=False)
    >>> fig, ax = visualize_neighbors(rdr, 3, data, n_neighbors=4, use_pyplot=False)
    >>> [text.get_text() for text in ax.texts if "Nearest" in text.get_text()]
    ['Nearest by configuration distance', 'Nearest by cosine distance: 3 of 4 as in the
     first row', 'Nearest by euclidean distance: 3 of 4 as in the first row']
    """
    reference = as_reference(dataset)
    row = int(query) if isinstance(query, (int, np.integer)) else None
    given = None if row is not None else query
    if row is not None and not 0 <= row < len(banks_of(rdr)[0]):
        raise ValueError(
            f"query={row} is not a row of the bank, 0 to {len(banks_of(rdr)[0]) - 1}"
        )
    asked = find_query(rdr, row, reference, given, query_label, query_prediction, cmap)
    rows = neighbor_rows(rdr, asked, given, reference, n_neighbors, metrics, cmap)
    return draw_sheet(
        partial(row_blocks, rows),
        plt_fig_axis,
        use_pyplot,
        fig_size,
        title,
    )


def neighbor_rows(
    rdr: RelaxedDecisionRegion,
    asked: Query,
    query: Any,
    reference: Reference,
    n_neighbors: int = 7,
    metrics: Sequence[Metric] = METRICS,
    cmap: Any = None,
) -> list[TileRow]:
    """What `visualize_neighbors` shows, row by row.

    Args:
        rdr: fitted for one layer.
        asked: the query.
        query: its input; None for a bank row.
        reference: what bank rows look like.
        n_neighbors: neighbors in a row.
        metrics: the distances.
        cmap: colormap of images without color.
    """
    check_whole("n_neighbors", n_neighbors)
    if isinstance(rdr.layer, list):
        raise ValueError(
            f"rdr has {len(rdr.layer)} layers; neighbors are those of one layer, so make "
            "a RelaxedDecisionRegion of that layer alone"
        )
    rows, first = [], None
    for metric in metrics:
        found, distances = _nearest(rdr, asked.row, query, n_neighbors, metric)
        first = found if first is None else first
        heading = f"Nearest by {metric.replace('_', ' ')} distance"
        if first is not found:
            shared = len(set(first) & set(found))
            heading += f": {shared} of {len(found)} as in the first row"
        tiles = tuple(
            Tile(
                reference.picture(row, cmap),
                reference.classes(row),
                (distance,),
                row=row,
            )
            for row, distance in zip(found, distances, strict=True)
        )
        rows.append(TileRow(heading, (asked.tile, *tiles)))
    return rows


def _nearest(
    rdr: RelaxedDecisionRegion, row: int | None, query: Any, count: int, metric: Metric
) -> tuple[list[int], list[str]]:
    """Bank rows nearest to a query, without its own, and their distances as texts."""
    with warnings.catch_warnings():
        # Only S is wanted, so it does not matter that no neuron is unanimous in it.
        warnings.filterwarnings("ignore", ".*fewer unanimous neurons", UserWarning)
        if query is None and row is not None:
            (region,) = rdr.attribute_members([row], count + 1, 1, neighbors=metric)
        else:
            _, (region,) = rdr.attribute(
                as_batch(query), count + 1, 1, neighbors=metric
            )
    near = [
        (int(neighbor), float(distance))
        for neighbor, distance in zip(region.neighbors, region.distances, strict=True)
        if neighbor != region.query
    ]
    form = "{:.0f} away" if metric == "configuration" else "{:.3g} away"
    return [one for one, _ in near], [form.format(distance) for _, distance in near]
