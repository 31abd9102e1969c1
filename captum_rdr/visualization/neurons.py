"""Where in a layer's grid and channels the principal neurons sit."""

import math
from typing import Any, NamedTuple, Unpack

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from captum.attr import LayerAttribution
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from captum_rdr.method.region import Region
from captum_rdr.visualization import sheet, tiles
from captum_rdr.visualization.reference import Picture, as_picture

_MAP, _MAP_GAP = 1.65, 0.15
_NAMED = 10  # columns that are named one by one, at most
_BARS = 256  # columns of which some are bars and not lines, at most
_SIGNED = LinearSegmentedColormap.from_list(
    "signed", [sheet.ORANGE, "white", sheet.BLUE]
)

Floats = npt.NDArray[np.float64]


def visualize_principal_neurons(
    region: Region,
    image: Any = None,
    *,
    grid: tuple[int, int] | None = None,
    cmap: Any = None,
    **figure: Unpack[sheet.FigureOptions],
) -> sheet.FigureAxes:
    """Draw where in a layer the principal neurons sit.

    The maps show the summed scores at each place of the layer, over the image where it
    is given (`captum.attr.LayerAttribution.interpolate`, nearest): on one map the
    neurons that must be active, on the other those that must be inactive, so that
    neither hides the other. The bars show the summed scores of each channel: upwards
    what must be active, downwards what must be inactive.

    Args:
        region: its layer has shape ``(C, H, W)``; ``(T, E)``, tokens by features; or
            ``(D,)``, which has no maps.
        image: the query's image: an array ``(H, W, C)`` or a tensor ``(C, H, W)`` as in
            `captum_rdr.visualization.Reference`; None for maps alone.
        grid: height and width of the tokens' grid. Tokens before it, a class token for
            one, are bars of their own. None for a square behind no or one token, or
            else one row.
        cmap: diverging colormap from inactive to active; orange to blue by default.
        **figure: see `FigureOptions`.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        ValueError: the layer has another shape, ``grid`` does not fit it, or the image
            cannot be drawn.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model = torch.nn.Conv2d(1, 6, 3)
    >>> data = torch.rand(30, 1, 8, 8)
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> region = rdr.attribute_members([3], 4, 5, weighting="evidence")[0]
    >>> fig, ax = visualize_principal_neurons(region, data[3], use_pyplot=False)
    >>> len(ax.child_axes)  # two maps and the channels
    3
    """
    layout = neuron_layout(region, grid)
    colors = matplotlib.colormaps.get_cmap(_SIGNED if cmap is None else cmap)
    picture = None if image is None else as_picture(image)

    def content(width: float) -> list[sheet.Block]:
        blocks = tiles.headed(region, tiles.described(region), width)
        if not len(region.neurons):
            blocks.append(sheet.paragraph("The region has no principal neuron.", width))
            return blocks
        if layout.places is None:
            return [*blocks, _bars_block(layout, width, 1.6, colors)]
        return [*blocks, _maps_block(layout, layout.places, width, colors, picture)]

    return sheet.draw(content, **figure)


class NeuronLayout(NamedTuple):
    """Scores of the neurons that must be active and of those that must be inactive.

    Attributes:
        places: summed at each place, ``(2, H, W)``; None for a layer without places.
        prefix: summed for each token before the grid, ``(2, P)``.
        channels: summed for each channel, ``(2, C)``.
        unit: what a channel is called.
    """

    places: Floats | None
    prefix: Floats
    channels: Floats
    unit: str


def neuron_layout(region: Region, grid: tuple[int, int] | None = None) -> NeuronLayout:
    """Sum the scores of a region's principal neurons by place and by channel.

    Args:
        region: as in `visualize_principal_neurons`.
        grid: as in `visualize_principal_neurons`.

    Raises:
        ValueError: the layer has another shape, or the grid does not fit it.
    """
    shape = tuple(region.layer_shape)
    if len(shape) not in (1, 2, 3):
        raise ValueError(
            f"region's layer has shape {shape}; only channels with places (C, H, W), "
            "tokens (T, E) and vectors (D,) can be drawn: pool the layer, see "
            "captum_rdr.pooling"
        )
    if grid is not None and len(shape) != 2:
        raise ValueError(
            f"grid={grid} is for tokens (T, E), but the region's layer has shape {shape}"
            "; leave it out"
        )
    mask = region.mask().double()
    signed = torch.stack([mask.clamp(min=0), -mask.clamp(max=0)]).numpy()
    none = np.zeros((2, 0))
    if len(shape) == 1:
        return NeuronLayout(None, none, signed, "neuron")
    if len(shape) == 3:
        return NeuronLayout(signed.sum(1), none, signed.sum((2, 3)), "channel")
    height, width = grid or _token_grid(shape[0])
    n_prefix = shape[0] - height * width
    if min(height, width) < 1 or n_prefix < 0:
        raise ValueError(
            f"grid={grid} holds {height * width} tokens, but the layer has {shape[0]}; "
            "give a height and width whose product is no more"
        )
    tokens = signed.sum(2)
    places = tokens[:, n_prefix:].reshape(2, height, width)
    return NeuronLayout(places, tokens[:, :n_prefix], signed.sum(1), "feature")


def _token_grid(n_tokens: int) -> tuple[int, int]:
    """A square grid, behind a class token where that makes one; else one row."""
    for n_patches in (n_tokens - 1, n_tokens):
        side = math.isqrt(n_patches)
        if side > 1 and side * side == n_patches:
            return side, side
    return 1, n_tokens


def _maps_block(
    layout: NeuronLayout,
    places: Floats,
    width: float,
    colors: Any,
    picture: Picture | None,
) -> sheet.Block:
    """Both maps and, beside them or below, the bars."""
    side = min(_MAP, (width - _MAP_GAP) / 2)
    left = 2 * (side + _MAP_GAP)
    is_wide = width - left > 1.6
    size = (width - left, side + 0.2) if is_wide else (width, 1.2)
    bars = _bars_block(layout, *size, colors)

    def draw(canvas: sheet.Canvas, x: float, y: float) -> None:
        kinds = (("must be active", 1), ("must be inactive", -1))
        for index, (name, sign) in enumerate(kinds):
            edge = x + index * (side + _MAP_GAP)
            canvas.text(edge, y, name, color=colors(0.5 + sign * 0.5))
            ax = canvas.inset(edge, y + 0.2, side, side)
            shares = sign * places[index] / (places.max() or 1.0)
            _draw_map(ax, shares, colors, picture)
        bars.draw(canvas, *((x + left, y) if is_wide else (x, y + side + 0.35)))

    return sheet.Block(side + (0.25 if is_wide else 0.35 + bars.height), draw)


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


def _bars_block(
    layout: NeuronLayout, width: float, height: float, colors: Any
) -> sheet.Block:
    """Summed scores of each channel, and of each token before the grid."""
    n_prefix = layout.prefix.shape[1]
    room = 0.5 + 0.1 * n_prefix if n_prefix else 0.0

    def draw(canvas: sheet.Canvas, x: float, y: float) -> None:
        canvas.text(x + 0.4, y, f"score by {layout.unit}")
        ax = canvas.plot(x + 0.4, y + 0.2, width - 0.45 - room, height - 0.55)
        _draw_bars(ax, layout.channels, colors)
        ax.set_xlabel(layout.unit)
        if n_prefix:
            left = x + width - room + 0.3
            ax = canvas.plot(left, y + 0.2, room - 0.32, height - 0.55)
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
