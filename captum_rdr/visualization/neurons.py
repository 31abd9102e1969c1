"""Where in a layer's grid and channels the principal neurons sit."""

from typing import Any, NamedTuple, Unpack

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from captum.attr import LayerAttribution
from matplotlib.axes import Axes
from torch import Tensor

from captum_rdr._arguments import check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.axes import KINDS, LayerAxes, guessed_axes
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.model.inputs import input_arguments
from captum_rdr.visualization import sheet, tiles
from captum_rdr.visualization.reference import (
    Picture,
    Reference,
    as_batch,
    as_reference,
)

_MAP, _MAP_GAP = 1.65, 0.15
_NAMED = 10  # columns that are named one by one, at most
_BARS = 256  # columns of which some are bars and not lines, at most
_CANDIDATES, _SHOWN = 32, 8  # instances that the model runs on, and shown, of a neuron
_CROP = 0.3  # of an image around a neuron's place, at least

Floats = npt.NDArray[np.float64]


def visualize_principal_neurons(
    region: Region,
    rdr: RelaxedDecisionRegion,
    dataset: Any = None,
    query: Any = None,
    *,
    n_neurons: int = 4,
    cmap: Any = None,
    **figure: Unpack[sheet.FigureOptions],
) -> sheet.FigureAxes:
    """Draw where in a layer the principal neurons sit, and what the first respond to.

    The maps show the summed scores at each place of the layer, over the query's image
    where it is known (`captum.attr.LayerAttribution.interpolate`, nearest): on one map
    the neurons that must be active, on the other those that must be inactive, so that
    neither hides the other. The bars show the summed scores of each channel, and of each
    time or token where those have no grid: upwards what must be active, downwards what
    must be inactive.

    Below are the instances at which each of the first principal neurons is most active,
    cropped to what lies around its place: of the whole bank where it keeps features, else
    of 32 in which the neuron is active, which the model runs on again.

    Args:
        region: the region to show.
        rdr: fitted; the region is one of its own. `ConfigurationBank.axes` of the bank
            say what the layer's axes mean.
        dataset: the reference set that was fitted, or a `Reference` of it; None for maps
            and bars alone.
        query: the input, without the batch dimension; not needed where the bank holds it.
        n_neurons: neurons to show by their own instances at most, the highest score
            first.
        cmap: diverging colormap from inactive to active; orange to blue by default.
        **figure: see `FigureOptions`.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the region is not that of ``rdr``, the data set is too small, or an
            image cannot be drawn.

    Source: the instances stand for a neuron as in Achtibat et al., *From attribution maps
    to human-understandable explanations through Concept Relevance Propagation*, 2023.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Conv2d(1, 6, 3)
    >>> data = torch.rand(30, 1, 8, 8)
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> region = rdr.attribute_members([3], 4, 5, weighting="evidence")[0]
    >>> fig, ax = visualize_principal_neurons(region, rdr, use_pyplot=False)
    >>> ax.child_axes[-1].get_xlabel()
    'channel'
    """
    check_whole("n_neurons", n_neurons, 0)
    _, bank = tiles.layer_of(region, rdr)
    reference = as_reference(() if dataset is None else dataset)
    picture = None
    if query is not None:
        picture = reference.picture_of(query)
    elif dataset is not None and region.query is not None:
        picture = reference.picture(region.query)
    aspect = 1.0 if picture is None else picture.shape[0] / picture.shape[1]
    layout = neuron_layout(region, bank_axes(bank), aspect)
    colors = matplotlib.colormaps.get_cmap(sheet.SIGNED if cmap is None else cmap)
    rows: list[tiles.Row] = []
    if dataset is not None:
        rows = top_rows(region, rdr, reference, n_neurons, aspect)

    def content(width: float) -> list[sheet.Block]:
        blocks = tiles.headed(region, tiles.described(region), width)
        if not len(region.neurons):
            blocks.append(sheet.paragraph("The region has no principal neuron.", width))
            return blocks
        if layout.places is None:
            blocks.append(bars_block(layout, width, 1.6, colors))
        else:
            maps = _maps_block(layout, layout.places, width, colors, picture)
            blocks.append(maps)
        if layout.line is not None:
            blocks.append(_line_block(layout.line, layout.line_unit, width, colors))
        return [*blocks, *tiles.blocks(rows, width)]

    return sheet.draw(content, **figure)


class NeuronLayout(NamedTuple):
    """Scores of the neurons that must be active and of those that must be inactive.

    Attributes:
        places: summed at each place, ``(2, H, W)``; None for a layer without a grid.
        prefix: summed for each token before the grid, ``(2, P)``.
        channels: summed for each channel, ``(2, C)``.
        unit: what a channel is called.
        line: summed for each time, or token that has no grid, ``(2, T)``; None for none.
        line_unit: what those are called.
    """

    places: Floats | None
    prefix: Floats
    channels: Floats
    unit: str
    line: Floats | None
    line_unit: str


def bank_axes(bank: ConfigurationBank) -> LayerAxes:
    """What a bank's axes mean, or by its shape probably mean."""
    return bank.axes or guessed_axes(bank.layer_shape)


def neuron_layout(region: Region, axes: LayerAxes, aspect: float = 1.0) -> NeuronLayout:
    """Sum the scores of a region's principal neurons by place, time and channel.

    Args:
        region: the region.
        axes: what its layer's axes mean.
        aspect: height of the image in shares of its width.
    """
    mask = region.mask().double()
    signed = torch.stack([mask.clamp(min=0), -mask.clamp(max=0)])
    found, prefix = (part.numpy() for part in axes.arranged(signed, aspect))
    places, times = found.sum((1, 2)), found.sum((1, 3, 4))
    line, line_unit = (times, "time") if times.shape[1] > 1 else (None, "time")
    if places.shape[1] == 1 and "height" not in axes.kinds:
        line, line_unit = (
            (line, "time") if places.shape[2] == 1 else (places[:, 0], "token")
        )
    has_grid = line_unit != "token" and places[0].size > 1
    unit = "feature" if "token" in axes.kinds else "channel"
    return NeuronLayout(
        places if has_grid else None,
        prefix.sum(1),
        found.sum((2, 3, 4)) + prefix.sum(2),
        unit if len(axes.kinds) > 1 else "neuron",
        line,
        line_unit,
    )


def top_rows(
    region: Region,
    rdr: RelaxedDecisionRegion,
    reference: Reference,
    n_neurons: int,
    aspect: float,
) -> list[tiles.Row]:
    """What `visualize_principal_neurons` shows of single neurons, row by row."""
    _, bank = tiles.layer_of(region, rdr)
    index = next(i for i, one in enumerate(tiles.banks_of(rdr)) if one is bank)
    first = region.scores.argsort(descending=True, stable=True)[:n_neurons]
    rows = []
    for which in first.tolist():
        neuron, coordinates = region.neurons[which], region.unravel()[which]
        near = _window(bank, int(neuron), aspect)
        shown, values = _most_active(rdr, index, neuron, reference)
        wanted = "active" if region.states[which] else "inactive"
        named = bank_axes(bank).named(coordinates)
        parts = [f"{kind} {named[kind]}" for kind in KINDS if kind in named]
        found = [
            tiles.Tile(
                _crop(reference.picture(row), near), reference.classes(row), (note,)
            )
            for row, note in zip(shown.tolist(), values, strict=True)
        ]
        text = f"{', '.join(parts).capitalize()}, must be {wanted}; most active in:"
        rows.append(tiles.Row(text, found))
    return rows


def _most_active(
    rdr: RelaxedDecisionRegion, index: int, neuron: Tensor, reference: Reference
) -> tuple[Tensor, list[str]]:
    """Bank rows in which a neuron is most active, and its activations there."""
    bank = tiles.banks_of(rdr)[index]
    if bank.features is not None:
        rows = torch.arange(len(bank))
        values = bank.features[:, neuron.to(bank.device)].cpu().double()
    else:
        active = bank.members(neuron[None], torch.tensor([True]))
        count = min(len(active), _CANDIDATES)
        rows = active[torch.linspace(0, len(active) - 1, count).long()]
        if not count:
            return rows, []
        inputs = as_batch([reference.input(row) for row in rows.tolist()])
        with rdr.reader.only(index).reading(
            lambda _, found: (found.flatten(1)[:, neuron].double().cpu(),),
            attribute_to_layer_input=bank.attribute_to_layer_input,
        ) as read:
            ((values,),) = read(input_arguments(inputs, None), "rows", leave_early=True)
    order = values.argsort(descending=True, stable=True)[:_SHOWN]
    order = order[values[order] > bank.threshold.expand(bank.n_neurons)[neuron]]
    return rows[order], [f"{value:.3g}" for value in values[order].tolist()]


def _window(
    bank: ConfigurationBank, neuron: int, aspect: float
) -> tuple[float, float, float, float]:
    """Top, left, height and width of the surroundings of a neuron, in shares."""
    only = torch.zeros(1, bank.n_neurons)
    only[0, neuron] = 1
    places, _ = bank_axes(bank).arranged(only.reshape(1, *bank.layer_shape), aspect)
    flat = places.sum((0, 1, 2))
    if flat.shape[0] == 1 or not bool(flat.any()):  # a vector, a series, a class token
        return 0.0, 0.0, 1.0, 1.0
    place = flat.nonzero()[0].tolist()
    parts = [
        (min(1.0, max(3 / size, _CROP)), (at + 0.5) / size)
        for at, size in zip(place, flat.shape, strict=True)
    ]
    top, left = (min(max(0.0, middle - side / 2), 1 - side) for side, middle in parts)
    return top, left, parts[0][0], parts[1][0]


def _crop(picture: Picture, near: tuple[float, float, float, float]) -> Picture:
    """The part of a picture that a window, in shares of it, shows."""
    size = np.array(picture.shape[:2])
    low = np.floor(near[:2] * size).astype(int)
    high = np.maximum(
        low + 1, np.ceil((np.array(near[:2]) + near[2:]) * size).astype(int)
    )
    return picture[low[0] : high[0], low[1] : high[1]]


def _maps_block(
    layout: NeuronLayout,
    places: Floats,
    width: float,
    colors: Any,
    picture: Picture | None,
) -> sheet.Block:
    """The maps that are not empty and, beside them or below, the bars."""
    kinds = [
        (name, sign, shares / places.max())
        for name, sign, shares in (
            ("must be active", 1, places[0]),
            ("must be inactive", -1, -places[1]),
        )
        if shares.any()
    ]
    side = min(_MAP, (width - _MAP_GAP) / 2)
    left = len(kinds) * (side + _MAP_GAP)
    is_wide = width - left > 1.6
    size = (width - left, side + 0.2) if is_wide else (width, 1.2)
    bars = bars_block(layout, *size, colors)

    def draw(canvas: sheet.Canvas, x: float, y: float) -> None:
        for index, (name, sign, shares) in enumerate(kinds):
            edge = x + index * (side + _MAP_GAP)
            canvas.text(edge, y, name, color=colors(0.5 + sign * 0.5))
            ax = canvas.inset(edge, y + 0.2, side, side)
            _draw_map(ax, shares, colors, picture)
        bars.draw(canvas, *((x + left, y) if is_wide else (x, y + side + 0.35)))

    return sheet.Block(side + (0.3 if is_wide else 0.35 + bars.height), draw)


def _line_block(line: Floats, unit: str, width: float, colors: Any) -> sheet.Block:
    """Summed scores of each time or token."""

    def draw(canvas: sheet.Canvas, x: float, y: float) -> None:
        canvas.text(x + 0.4, y, f"score by {unit}")
        ax = canvas.plot(x + 0.4, y + 0.2, width - 0.45, 0.7)
        for heights, color in ((line[0], colors(1.0)), (-line[1], colors(0.0))):
            ax.bar(range(line.shape[1]), heights, 1.0, color=color)
        ax.axhline(0, color=sheet.GRAY, linewidth=0.6)
        ax.set_xlim(-0.5, line.shape[1] - 0.5)
        ax.set_xlabel(unit)

    return sheet.Block(1.25, draw)


def _draw_map(ax: Axes, shares: Floats, colors: Any, picture: Picture | None) -> None:
    """Signed shares of the largest score, over the image where there is one."""
    if picture is not None:
        scores = torch.from_numpy(shares)[None, None]
        shares = LayerAttribution.interpolate(scores, picture.shape[:2])[0, 0].numpy()
        pale = 0.35 + 0.65 * picture.mean(2, keepdims=True).repeat(3, 2)
        tiles.show_picture(ax, pale)
    overlay = colors(0.5 + 0.5 * shares)
    if picture is not None:
        overlay[..., 3] = 0.8 * (shares != 0)
    ax.imshow(overlay, interpolation="nearest", aspect="equal")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=True, color=sheet.GRAY, linewidth=0.8)


def bars_block(
    layout: NeuronLayout, width: float, height: float, colors: Any
) -> sheet.Block:
    """Summed scores of each channel, and of each token before the grid."""
    n_prefix = layout.prefix.shape[1]
    room = 0.5 + 0.1 * n_prefix if n_prefix else 0.0

    def draw(canvas: sheet.Canvas, x: float, y: float) -> None:
        canvas.text(x + 0.4, y, f"score by {layout.unit}")
        ax = canvas.plot(x + 0.4, y + 0.2, width - 0.45 - room, height - 0.7)
        _draw_bars(ax, layout.channels, colors)
        ax.set_xlabel(layout.unit)
        if n_prefix:
            left = x + width - room + 0.3
            ax = canvas.plot(left, y + 0.2, room - 0.32, height - 0.7)
            _draw_bars(ax, layout.prefix, colors)
            ax.set_xticks([])
            ax.set_xlabel("class\ntoken" if n_prefix == 1 else "other\ntokens")

    return sheet.Block(height + 0.1, draw)


def _draw_bars(ax: Axes, values: Floats, colors: Any) -> None:
    used = np.flatnonzero(values.sum(0))
    are_named = len(used) <= _NAMED
    if are_named:
        positions = np.arange(len(used))
        ax.set_xticks(positions, [str(channel) for channel in used], rotation=60)
        ax.set_xlim(-0.7, max(len(used), 4) - 0.3)
    else:
        positions = used
        ax.set_xlim(-0.7, values.shape[1] - 0.3)
    for heights, color in ((values[0], colors(1.0)), (-values[1], colors(0.0))):
        if are_named or values.shape[1] <= _BARS:
            ax.bar(positions, heights[used], color=color)
        else:  # bars would be too narrow to see, and thousands take minutes
            ax.vlines(positions, 0, heights[used], color=color, linewidth=1)
    ax.axhline(0, color=sheet.GRAY, linewidth=0.6)
