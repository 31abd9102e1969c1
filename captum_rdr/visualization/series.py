"""Time series of a query and members of its region, and where in time they agree."""

from typing import Any, Unpack

import numpy as np
from torch import Tensor

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.visualization import sheet, subjects, tiles
from captum_rdr.visualization.neurons import bank_axes, bars_block, neuron_layout
from captum_rdr.visualization.reference import Floats, input_of

_HEIGHT = 0.7
_NAMED = 8  # series of an instance that the key names, at most


def visualize_time_series_region(
    region: Region,
    rdr: RelaxedDecisionRegion,
    dataset: Any,
    query: Any = None,
    *,
    n_members: int = 4,
    **figure: Unpack[sheet.FigureOptions],
) -> sheet.FigureAxes:
    """Draw a query's time series and members', and where in time principal neurons sit.

    The times at which neurons must be active are shaded in the upper half, in blue,
    those at which neurons must be inactive in the lower, in orange, darker where the
    scores are higher; a layer without a time axis, as a pooled one, has no shades. The
    bars below show the layer's channels.

    Args:
        region: the region to show.
        rdr: fitted; the region is one of its own.
        dataset: the reference set that was fitted, or a
            `Reference` of it. An input is a series ``(L,)``, or several, ``(C, L)``.
        query: the input, without the batch dimension, or a tuple of it, its class and
            the class that the model predicts; not needed where the bank holds it.
        n_members: members to show at most, the nearest first.
        **figure: see `FigureOptions`.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the region is not that of ``rdr``, the query is missing, or an input
            is no series.

    >>> import torch
    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model, data = torch.nn.Conv1d(2, 6, 3), torch.randn(30, 2, 20)
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> region = rdr.attribute_members([3], 4, 5, weighting="evidence")[0]
    >>> fig, ax = visualize_time_series_region(
    ...     region, rdr, data, n_members=0, use_pyplot=False
    ... )
    >>> len(ax.child_axes)  # the query, and the channels
    2
    """
    subject = subjects.of(region, rdr, dataset, query)
    reference, rows = subject.reference, subject.ranked(n_members)
    shown = [(["query", *subject.classes.lines], series_of(subject.item))]
    for row, note in zip(rows.tolist(), subject.ranks(rows), strict=True):
        caption = [f"row {row}", *reference.classes(row).lines, note]
        shown.append((caption, series_of(reference.item(row))))
    _, bars = neuron_layout(region, bank_axes(subject.bank))
    text = f"{subject.described} Query and {subject.counted(rows)}."
    parts: list[tiles.Part] = [*subject.headed(text)]
    for caption, series in shown:
        parts.append(_series_block(", ".join(caption), series, bars.get("time")))
    n_named = min(len(shown[0][1]), _NAMED)
    names = [f"{'─┄·╌'[i % 4]} series {i}" for i in range(n_named)]
    shades = "shaded above: must be active, below: must be inactive"
    parts.append(tiles.Row(", ".join([*names * (len(names) > 1), shades])))
    if len(region.neurons):
        parts.append(bars_block(*next(iter(bars.items()))))
    return tiles.draw(parts, **figure)


def series_of(item: Any) -> Floats:
    """An item's input as series ``(C, L)``.

    Raises:
        ValueError: it is none.

    >>> series_of(np.arange(3)).shape
    (1, 3)
    """
    value = input_of(item)
    values = value.detach().cpu() if isinstance(value, Tensor) else value
    found = np.asarray(values, np.float64)
    if found.ndim not in (1, 2):
        raise ValueError(
            f"an input has shape {found.shape}; give series of shape (L,) or (C, L)"
        )
    return np.atleast_2d(found)


def _series_block(caption: str, series: Floats, times: Floats | None) -> sheet.Block:
    """An instance's series over the times at which principal neurons sit."""
    length, width = series.shape[1], sheet.WIDTH - 0.45

    def draw(canvas: sheet.Canvas, x: float, y: float) -> None:
        canvas.text(x + 0.4, y, sheet.shortened(caption, width))
        ax = canvas.plot(x + 0.4, y + 0.17, width, _HEIGHT)
        for number, one in enumerate(series):
            color = sheet.PALETTE[-1 - number % len(sheet.PALETTE)]
            ax.plot(one, sheet.LINES[number % 4], color=color, linewidth=canvas.scale)
        ax.set_xlim(0, length - 1)
        if times is None:
            return
        edges = np.linspace(0, length - 1, times.shape[1] + 1)
        halves = ((0.5, times[0], sheet.BLUE), (0, times[1], sheet.ORANGE))
        for low, scores, color in halves:
            for time in np.flatnonzero(scores):
                start, end = edges[time : time + 2]
                alpha = 0.6 * scores[time] / times.max()
                ax.axvspan(start, end, low, low + 0.5, color=color, alpha=alpha, lw=0)

    return sheet.Block(_HEIGHT + 0.42, draw)
