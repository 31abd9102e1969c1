"""A sheet of blocks, one below the other, drawn within one Axes."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypedDict

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
"""Required active; required inactive and errors; members."""

GRAY, INK = "#666666", "#111111"
"""Secondary text; text."""

PALETTE = ("#D55E00", "#56B4E9", "#009E73", "#332288", "#000000")
"""Colors that also differ for those who see no red or no green."""

SIGNED = LinearSegmentedColormap.from_list("signed", [ORANGE, "white", BLUE])

_WIDTH = 6.0  # of a figure that is made without fig_size, in inches
_MARGIN = 0.08
_SCALES = [step / 40 for step in range(60, 3, -1)]

FigureAxes = tuple[Figure, Axes]


class FigureOptions(TypedDict, total=False):
    """How a visualizer makes its figure: the options that Captum's visualizers have too.

    Attributes:
        plt_fig_axis: figure and Axes to draw in; None for a new figure.
        use_pyplot: make a new figure known to pyplot, True by default; it is never
            shown.
        fig_size: width and height of a new figure, in inches; None for 6 wide and as
            high as needed. What is drawn is scaled to a size that is given.
        title: a heading.

    >>> options = FigureOptions(title="A map", use_pyplot=False)
    """

    plt_fig_axis: FigureAxes | None
    use_pyplot: bool
    fig_size: tuple[float, float] | None
    title: str | None


class Canvas:
    """Draws in inches from the top left corner of an Axes, which it turns off.

    Args:
        ax: the Axes to draw in.
        width: its width, in inches of the sheet.
        height: its height, in inches of the sheet.
        scale: inches on paper for each of them.
    """

    def __init__(self, ax: Axes, width: float, height: float, scale: float) -> None:
        self.ax, self.width, self.height, self.scale = ax, width, height, scale

    def text(
        self, x: float, y: float, string: str, size: float = 8, **kwargs: Any
    ) -> None:
        """Write a string, which is never read as mathematics, below and right of a point."""
        self.ax.text(
            x / self.width,
            1 - y / self.height,
            string,
            size=size * self.scale,
            transform=self.ax.transAxes,
            parse_math=False,
            **{"va": "top", "color": INK, **kwargs},
        )

    def inset(self, x: float, y: float, width: float, height: float) -> Axes:
        """New Axes with the given top left corner and size."""
        bounds = (
            x / self.width,
            1 - (y + height) / self.height,
            width / self.width,
            height / self.height,
        )
        return self.ax.inset_axes(bounds)

    def plot(self, x: float, y: float, width: float, height: float) -> Axes:
        """New Axes with ticks and labels sized for the sheet."""
        ax = self.inset(x, y, width, height)
        ax.tick_params(labelsize=8 * self.scale, length=2 * self.scale)
        for axis in (ax.xaxis, ax.yaxis):
            axis.label.set_fontsize(8 * self.scale)
            axis.labelpad = 1
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        return ax


class Block(NamedTuple):
    """One part of a sheet.

    Attributes:
        height: in inches.
        draw: called with the canvas and the block's left and top edge, in inches.
    """

    height: float
    draw: Callable[[Canvas, float, float], None]


Part = Callable[[float], Block]
"""Makes a block for a width in inches."""

Content = Callable[[float], Sequence[Block]]
"""Makes blocks for a width in inches."""


def draw(
    content: Content,
    plt_fig_axis: FigureAxes | None = None,
    use_pyplot: bool = True,
    fig_size: tuple[float, float] | None = None,
    title: str | None = None,
) -> FigureAxes:
    """Draw blocks in the given Axes, or in a figure of their own.

    Args:
        content: makes the blocks.
        plt_fig_axis: see `FigureOptions`, as for the others.
        use_pyplot: whether pyplot knows a new figure.
        fig_size: that of a new figure.
        title: above everything.

    Returns:
        the figure and the Axes that holds everything.
    """

    def blocks(width: float) -> list[Block]:
        inner = width - 2 * _MARGIN
        heading = [paragraph(title, inner, size=10, weight="bold")] if title else []
        return [spacer(_MARGIN), *heading, *content(inner), spacer(_MARGIN)]

    if plt_fig_axis is not None:
        fig, ax = plt_fig_axis
        size = ax.bbox.width / ax.figure.dpi, ax.bbox.height / ax.figure.dpi
    else:
        size = fig_size or (_WIDTH, sum(block.height for block in blocks(_WIDTH)))
        fig = _new_figure(size, use_pyplot)
        ax = fig.add_axes((0, 0, 1, 1))
    is_given = plt_fig_axis is not None or fig_size is not None
    scale = _fitting_scale(blocks, *size) if is_given else 1.0
    canvas = Canvas(ax, size[0] / scale, size[1] / scale, scale)
    ax.set_axis_off()
    y = 0.0
    for block in blocks(canvas.width):
        block.draw(canvas, _MARGIN, y)
        y += block.height
    return fig, ax


def _new_figure(size: tuple[float, float], use_pyplot: bool) -> Figure:
    if not use_pyplot:
        return Figure(figsize=size)
    from matplotlib import pyplot  # looks for a display, so only where it is wanted

    return pyplot.figure(figsize=size)


def _fitting_scale(blocks: Content, width: float, height: float) -> float:
    """The largest scale at which the blocks fit."""
    for scale in _SCALES:
        needed = sum(block.height for block in blocks(width / scale))
        if width / scale >= 2 and needed * scale <= height + 1e-9:
            return scale
    return _SCALES[-1]


def spacer(height: float) -> Block:
    """Empty space."""
    return Block(height, lambda canvas, x, y: None)


def beside(left: Block, used: float, right: Part, width: float) -> Block:
    """Two blocks side by side, or one below the other where there is little room.

    Args:
        left: the first block.
        used: how much of the width it needs, in inches.
        right: makes the second, for the rest of the width or for all of it.
        width: of both.
    """
    is_wide = width - used > 1
    further = right(width - used if is_wide else width)

    def draw(canvas: Canvas, x: float, y: float) -> None:
        left.draw(canvas, x, y)
        further.draw(canvas, *((x + used, y) if is_wide else (x, y + left.height)))

    heights = (left.height, further.height)
    return Block(max(heights) if is_wide else sum(heights), draw)


def key(entries: Sequence[tuple[str, str, str]], width: float) -> Block:
    """What each sign means: its name beside it, in as many columns as there is room for.

    Args:
        entries: sign, name and color of each.
        width: in inches.
    """
    columns = max(1, int(width / 1.9))
    step = width / columns

    def draw(canvas: Canvas, x: float, y: float) -> None:
        for index, (sign, name, color) in enumerate(entries):
            left, top = x + index % columns * step, y + index // columns * 0.16
            canvas.text(left, top, sign, color=color)
            canvas.text(left + 0.25, top, shortened(name, step - 0.3, 8))

    return Block(0.16 * -(-len(entries) // columns) + 0.04, draw)


def paragraph(string: str, width: float, size: float = 8, **kwargs: Any) -> Block:
    """Text, wrapped at words to a width in inches."""
    lines = wrapped(string, width, size, kwargs.get("weight", "normal"))
    step = size * 1.4 / 72

    def draw(canvas: Canvas, x: float, y: float) -> None:
        for number, line in enumerate(lines):
            canvas.text(x, y + number * step, line, size, **kwargs)

    return Block(step * len(lines) + 0.03, draw)


def wrapped(
    string: str, width: float, size: float, weight: str = "normal"
) -> list[str]:
    """Lines of a string, broken at words; a word that is too long is shortened."""
    lines: list[str] = []
    for word in string.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size, weight) <= width:
            lines[-1] = longer
        else:
            lines.append(shortened(word, width, size, weight))
    return lines or [""]


def shortened(string: str, width: float, size: float, weight: str = "normal") -> str:
    """A string cut off, with an ellipsis, at a width in inches."""
    string = " ".join(string.split())
    if text_width(string, size, weight) <= width:
        return string
    for length in range(min(len(string), 200) - 1, 0, -1):
        shorter = f"{string[:length].rstrip()}…"
        if text_width(shorter, size, weight) <= width:
            return shorter
    return "…"


def text_width(string: str, size: float, weight: str = "normal") -> float:
    """Width of a string in inches, for the font that matplotlib is set to.

    With some room: hinting makes letters wider on a screen.
    """
    return _text_width(string, size, weight, *matplotlib.rcParams["font.family"])


@lru_cache(maxsize=4096)
def _text_width(string: str, size: float, weight: str, *family: str) -> float:
    font = FontProperties(family=list(family), size=size, weight=weight)
    width, _, _ = TextToPath().get_text_width_height_descent(string, font, False)
    return 1.05 * float(width) / 72
