"""Time series of a query and members of its region, and where in time they agree."""

from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
from torch import Tensor

from captum_rdr._arguments import check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.visualization import sheet, tiles
from captum_rdr.visualization.neurons import bank_axes, bars_block, neuron_layout
from captum_rdr.visualization.reference import Classes, as_reference, input_of

Floats = npt.NDArray[np.float64]

_HEIGHT = 0.7
_LINES = ("-", "--", ":", "-.")
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
            `captum_rdr.visualization.Reference` of it. An input is a series ``(L,)``, or
            several, ``(C, L)``.
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
    check_whole("n_members", n_members, 0)
    _, bank = tiles.layer_of(region, rdr)
    reference = as_reference(dataset)
    if query is None and region.query is None:
        raise ValueError(
            "the bank does not hold the region's query; pass it as query, the input "
            "without the batch dimension"
        )
    own = reference.dataset[region.query] if query is None else query
    classes = reference.classes_of(own)
    if query is None and region.query is not None:
        classes = reference.classes(region.query)
    rows = tiles.ranked(region, bank)[:n_members]
    notes = tiles.notes_on(region, bank, bank.states(rows))
    shown = [(_caption("query", classes), series_of(input_of(own)))]
    for row, note in zip(rows.tolist(), notes, strict=True):
        caption = _caption(f"row {row}", reference.classes(row), note)
        shown.append((caption, series_of(reference.input(row))))
    layout = neuron_layout(region, bank_axes(bank))
    times = layout.line if layout.line_unit == "time" else None
    few = f"Query and {len(rows)} of {len(region.members)} members"
    text = f"{tiles.described(region)} {few}, {tiles.order_name(region)}."

    def content(width: float) -> list[sheet.Block]:
        blocks = tiles.headed(region, text, width)
        blocks += [_series_block(*one, times, width) for one in shown]
        blocks.append(_key(len(shown[0][1]), width))
        if len(region.neurons):
            blocks.append(bars_block(layout, width, 1.3, sheet.SIGNED))
        return blocks

    return sheet.draw(content, **figure)


def _caption(who: str, classes: Classes, *notes: str) -> str:
    return ", ".join([who, *classes.lines, *notes])


def series_of(value: Any) -> Floats:
    """An input as series ``(C, L)``.

    Raises:
        ValueError: it is none.

    >>> series_of([0, 1, 2]).shape
    (1, 3)
    """
    values = value.detach().cpu() if isinstance(value, Tensor) else value
    found = np.asarray(values, np.float64)
    if found.ndim not in (1, 2):
        raise ValueError(
            f"an input has shape {found.shape}; give series of shape (L,) or (C, L)"
        )
    return np.atleast_2d(found)


def _series_block(
    caption: str, series: Floats, times: Floats | None, width: float
) -> sheet.Block:
    """An instance's series over the times at which principal neurons sit."""
    length = series.shape[1]

    def draw(canvas: sheet.Canvas, x: float, y: float) -> None:
        canvas.text(x + 0.4, y, sheet.shortened(caption, width - 0.45, 8))
        ax = canvas.plot(x + 0.4, y + 0.17, width - 0.45, _HEIGHT)
        for number, one in enumerate(series):
            style = _LINES[number % len(_LINES)]
            color = sheet.PALETTE[-1 - number % len(sheet.PALETTE)]
            ax.plot(one, style, color=color, linewidth=canvas.scale)
        ax.set_xlim(0, length - 1)
        if times is None:
            return
        edges = np.linspace(0, length - 1, times.shape[1] + 1)
        colors = (sheet.BLUE, sheet.ORANGE)
        for half, (scores, color) in enumerate(zip(times, colors, strict=True)):
            for time in np.flatnonzero(scores):
                low, alpha = 0.5 * (1 - half), 0.6 * scores[time] / times.max()
                span = edges[time], edges[time + 1]
                ax.axvspan(*span, low, low + 0.5, color=color, alpha=alpha, linewidth=0)

    return sheet.Block(_HEIGHT + 0.42, draw)


def _key(count: int, width: float) -> sheet.Block:
    """Which line is which of an instance's series, and what the shades mean."""
    names = [f"{'─┄·╌'[i % 4]} series {i}" for i in range(min(count, _NAMED))]
    shades = "shaded above: must be active, below: must be inactive"
    return sheet.paragraph(", ".join([*names * (count > 1), shades]), width)
