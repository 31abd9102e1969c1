"""The nearest reference instances by several distances, side by side."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, Unpack

import numpy as np

from captum_rdr._arguments import check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.rule import Metric
from captum_rdr.metrics._explainers import fitted_banks
from captum_rdr.visualization import sheet, tiles
from captum_rdr.visualization.reference import (
    Reference,
    as_batch,
    as_reference,
    input_of,
)

METRICS: tuple[Metric, ...] = ("configuration", "cosine", "euclidean")


def visualize_neighbors(
    rdr: RelaxedDecisionRegion,
    dataset: Any,
    query: Any,
    *,
    n_neighbors: int = 7,
    metrics: Sequence[Metric] = METRICS,
    **figure: Unpack[sheet.FigureOptions],
) -> sheet.FigureAxes:
    """Draw what is nearest to a query by each of several distances, in rows.

    Args:
        rdr: fitted for one layer, with ``keep_features=True`` for distances other than
            that of configurations.
        dataset: the reference set that was fitted, or a `Reference` of it.
        query: a bank row; or an input, without the batch dimension, or a tuple of it,
            its class and the class that the model predicts.
        n_neighbors: neighbors in a row.
        metrics: the distances, as for `RelaxedDecisionRegion.attribute`.
        **figure: see `FigureOptions`.

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
    >>> fig, ax = visualize_neighbors(rdr, data, 3, n_neighbors=4, use_pyplot=False)
    >>> [text.get_text() for text in ax.texts if "Nearest" in text.get_text()]
    ['Nearest by configuration distance', 'Nearest by cosine distance: 3 of 4 as in the
     first row', 'Nearest by euclidean distance: 3 of 4 as in the first row']
    """
    (bank,) = fitted_banks(rdr)
    row = int(query) if isinstance(query, (int, np.integer)) else None
    if row is not None and not 0 <= row < len(bank):
        raise ValueError(f"query={row} is not a row of the bank, 0 to {len(bank) - 1}")
    reference = as_reference(dataset)
    tile = tiles.of_query(row, reference, query if row is None else None)
    rows = neighbor_rows(rdr, query, reference, tile, n_neighbors, metrics)
    return sheet.draw(partial(tiles.blocks, rows), **figure)


def neighbor_rows(
    rdr: RelaxedDecisionRegion,
    query: Any,
    reference: Reference,
    tile: tiles.Tile,
    n_neighbors: int = 7,
    metrics: Sequence[Metric] = METRICS,
) -> list[tiles.Row]:
    """What `visualize_neighbors` shows, row by row."""
    check_whole("n_neighbors", n_neighbors)
    rows, first = [], None
    for metric in metrics:
        found = _nearest(rdr, query, n_neighbors, metric)
        heading = f"Nearest by {metric.replace('_', ' ')} distance"
        if first is None:
            first = found
        else:
            shared = len(first.keys() & found.keys())
            heading += f": {shared} of {len(found)} as in the first row"
        notes = [(note,) for note in found.values()]
        near = tiles.of_rows(list(found), notes, reference)
        rows.append(tiles.Row(heading, [tile, *near]))
    return rows


def _nearest(
    rdr: RelaxedDecisionRegion, query: Any, count: int, metric: Metric
) -> dict[int, str]:
    """Bank rows nearest to a query, without its own, and how far they are away."""
    with warnings.catch_warnings():
        # Only S is wanted, so it does not matter that no neuron is unanimous in it.
        warnings.filterwarnings("ignore", ".*fewer unanimous neurons", UserWarning)
        if isinstance(query, (int, np.integer)):
            (region,) = rdr.attribute_members(
                [int(query)], count + 1, 1, neighbors=metric
            )
        else:
            inputs = as_batch([input_of(query)])
            _, (region,) = rdr.attribute(inputs, count + 1, 1, neighbors=metric)
    form = "{:.0f} away" if metric == "configuration" else "at {:.3g}"
    pairs = zip(region.neighbors.tolist(), region.distances.tolist(), strict=True)
    return {row: form.format(away) for row, away in pairs if row != region.query}
