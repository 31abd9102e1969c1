"""Where in a layer's grid and channels the principal neurons sit."""

from typing import Any

import matplotlib
import numpy as np
import torch
from captum.attr import LayerAttribution
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from captum_rdr.method.region import Region
from captum_rdr.visualization.canvas import (
    BLUE,
    GRAY,
    ORANGE,
    Block,
    Canvas,
    FigureAxes,
    draw_sheet,
    paragraph,
)
from captum_rdr.visualization.layout import Floats, NeuronLayout, neuron_layout
from captum_rdr.visualization.members import described, significance_rows
from captum_rdr.visualization.pictures import as_picture
from captum_rdr.visualization.tiles import row_blocks, show_picture

_MAP, _MAP_GAP = 1.65, 0.15
_NAMED = 10  # columns that are named one by one, at most
_BARS = 256  # columns of which some are bars and not lines, at most
_SIGNED = LinearSegmentedColormap.from_list("signed", [ORANGE, "white", BLUE])


def visualize_principal_neurons(
    region: Region,
    image: Any = None,
    *,
    grid: tuple[int, int] | None = None,
    plt_fig_axis: FigureAxes | None = None,
    use_pyplot: bool = True,
    fig_size: tuple[float, float] | None = None,
    title: str | None = None,
    cmap: Any = None,
) -> FigureAxes:
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
        plt_fig_axis: figure and Axes to draw in, as for Captum's visualizers.
        use_pyplot: make a new figure known to pyplot; it is never shown.
        fig_size: size of a new figure, in inches; None for 6 wide and as high as needed.
        title: a heading.
        cmap: diverging colormap from inactive to active; orange to blue by default.

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

    def content(width: float) -> list[Block]:
        blocks = [paragraph(f"{described(region)}.", width)]
        blocks += row_blocks(significance_rows(region), width)
        if not len(region.neurons):
            return [*blocks, paragraph("The region has no principal neuron.", width)]
        if layout.active is None:
            return [*blocks, _bars_block(layout, width, colors)]
        return [*blocks, _maps_block(layout, width, colors, picture)]

    return draw_sheet(content, plt_fig_axis, use_pyplot, fig_size, title)


def _maps_block(
    layout: NeuronLayout, width: float, colors: Any, picture: Floats | None
) -> Block:
    """Both maps and, beside them or below, the bars."""
    side = min(_MAP, (width - _MAP_GAP) / 2)
    beside = width - 2 * (side + _MAP_GAP)
    wide = beside > 1.6
    height = side + 0.25

    def draw(canvas: Canvas, x: float, y: float) -> None:
        for index, (name, sign, values) in enumerate(_maps(layout)):
            edge = x + index * (side + _MAP_GAP)
            canvas.text(edge, y, name, color=colors(0.5 + sign * 0.5))
            ax = canvas.inset(edge, y + 0.2, side, side)
            _draw_map(ax, sign * values, _largest(layout), colors, picture)
        if wide:
            start = x + 2 * (side + _MAP_GAP)
            _draw_bars(canvas, start, y, beside, side + 0.2, layout, colors)
        else:
            _draw_bars(canvas, x, y + height + 0.1, width, 1.2, layout, colors)

    return Block(height if wide else height + 1.4, draw)


def _maps(layout: NeuronLayout) -> list[tuple[str, int, Floats]]:
    """Name, sign and values of each map; none for a vector."""
    if layout.active is None or layout.inactive is None:
        return []
    return [
        ("must be active", 1, layout.active),
        ("must be inactive", -1, layout.inactive),
    ]


def _largest(layout: NeuronLayout) -> float:
    return max(float(values.max()) for _, _, values in _maps(layout)) or 1.0


def _draw_map(
    ax: Axes, values: Floats, largest: float, colors: Any, picture: Floats | None
) -> None:
    """Signed scores of each place, over the image where there is one."""
    scores = torch.from_numpy(values)[None, None]
    if picture is not None:
        scores = LayerAttribution.interpolate(scores, picture.shape[:2])
        show_picture(
            ax, 0.35 + 0.65 * picture.mean(2, keepdims=True).repeat(3, 2), GRAY
        )
    flat = scores[0, 0].numpy()
    overlay = colors(0.5 + 0.5 * flat / largest)
    if picture is not None:
        overlay[..., 3] = 0.8 * (flat != 0)
    ax.imshow(overlay, interpolation="nearest", aspect="equal")
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=True, color=GRAY, linewidth=0.8)


def _bars_block(layout: NeuronLayout, width: float, colors: Any) -> Block:
    return Block(
        1.7,
        lambda canvas, x, y: _draw_bars(canvas, x, y, width, 1.6, layout, colors),
    )


def _draw_bars(
    canvas: Canvas,
    x: float,
    y: float,
    width: float,
    height: float,
    layout: NeuronLayout,
    colors: Any,
) -> None:
    """Summed scores of each channel, and of each token before the grid."""
    n_prefix = layout.prefix.shape[1]
    canvas.text(x + 0.4, y, f"score by {layout.unit}")
    room = 0.5 + 0.1 * n_prefix if n_prefix else 0.0
    ax = canvas.plot(x + 0.4, y + 0.2, width - 0.45 - room, height - 0.55)
    _bars(ax, layout.channels, colors)
    ax.set_xlabel(layout.unit, size=7 * canvas.scale, labelpad=1)
    if n_prefix:
        beside = canvas.plot(
            x + width - room + 0.3, y + 0.2, room - 0.32, height - 0.55
        )
        _bars(beside, layout.prefix, colors)
        beside.set_xticks([])
        name = "class\ntoken" if n_prefix == 1 else "other\ntokens"
        beside.set_xlabel(name, size=7 * canvas.scale, labelpad=2)


def _bars(ax: Axes, values: Floats, colors: Any) -> None:
    used = np.flatnonzero(values.sum(0))
    if len(used) <= _NAMED:
        positions = np.arange(len(used))
        ax.set_xticks(positions, [str(channel) for channel in used], rotation=60)
        ax.set_xlim(-0.7, max(len(used), 4) - 0.3)
    else:
        positions = used
        ax.set_xlim(-0.7, values.shape[1] - 0.3)
    for heights, color in ((values[0], colors(1.0)), (-values[1], colors(0.0))):
        if len(used) <= _NAMED or values.shape[1] <= _BARS:
            ax.bar(positions, heights[used], color=color)
        else:  # bars would be too narrow to see, and thousands take minutes
            ax.vlines(positions, 0, heights[used], color=color, linewidth=1)
    ax.axhline(0, color=GRAY, linewidth=0.6)
