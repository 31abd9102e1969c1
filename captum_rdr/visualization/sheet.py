"""A sheet of blocks, one below the other, drawn within one Axes."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypedDict

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, get_font_names
from matplotlib.textpath import TextToPath

BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
"""Required active; required inactive and errors; members."""

GRAY, INK = "#666666", "#111111"
"""Secondary text; text."""

PALETTE = ("#D55E00", "#56B4E9", "#009E73", "#332288", "#000000")
"""Colors that also differ for those who see no red or no green."""

LINES = ("-", "--", ":", "-.")
"""Kinds of lines, which differ without colors."""

SIGNED = LinearSegmentedColormap.from_list("signed", [ORANGE, "white", BLUE])

# With letters that Matplotlib's own font lacks, on Linux, macOS and Windows.
_OTHER_SCRIPTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Devanagari", "Noto Sans Thai"),
    *("WenQuanYi Zen Hei", "Arial Unicode MS", "PingFang SC", "Hiragino Sans"),
    *("Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),
    *("Nirmala UI", "Leelawadee UI"),
)

_MARGIN = 0.08
WIDTH = 6.0 - 2 * _MARGIN
"""Width of what is drawn, in inches of the sheet."""

FigureAxes = tuple[Figure, Axes]


class FigureOptions(TypedDict, total=False):
    """How a visualizer makes its figure: the options that Captum's visualizers have too.

    Attributes:
        plt_fig_axis: figure and Axes to draw in, scaled to fit; None for a new figure,
            6 inches wide and as high as needed.
        use_pyplot: make a new figure known to pyplot, True by default; it is never
            shown.
        title: a heading.

    >>> options = FigureOptions(title="A map", use_pyplot=False)
    """

    plt_fig_axis: FigureAxes | None
    use_pyplot: bool
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
        options: Any = {"va": "top", "color": INK, "size": size * self.scale, **kwargs}
        options |= {"transform": self.ax.transAxes, "parse_math": False}
        self.ax.text(x / self.width, 1 - y / self.height, string, **options)

    def inset(self, x: float, y: float, width: float, height: float) -> Axes:
        """New Axes with the given top left corner and size."""
        left, low = x / self.width, 1 - (y + height) / self.height
        return self.ax.inset_axes((left, low, width / self.width, height / self.height))

    def plot(self, x: float, y: float, width: float, height: float) -> Axes:
        """New Axes with ticks and labels sized for the sheet."""
        ax = self.inset(x, y, width, height)
        ax.tick_params(labelsize=8 * self.scale, length=2 * self.scale)
        for axis in (ax.xaxis, ax.yaxis):
            axis.label.set_fontsize(8 * self.scale)
            axis.labelpad = 1
        ax.spines[["top", "right"]].set_visible(False)
        return ax


class Block(NamedTuple):
    """One part of a sheet.

    Attributes:
        height: in inches.
        draw: called with the canvas and the block's left and top edge, in inches.
    """

    height: float
    draw: Callable[[Canvas, float, float], None]


def draw(
    blocks: Sequence[Block],
    plt_fig_axis: FigureAxes | None = None,
    use_pyplot: bool = True,
    title: str | None = None,
) -> FigureAxes:
    """Draw blocks, one below the other, in the given Axes or in a figure of their own.

    Args:
        blocks: what to draw, `WIDTH` wide at most.
        plt_fig_axis: see `FigureOptions`, as for the others.
        use_pyplot: whether pyplot knows a new figure.
        title: above everything.

    Returns:
        the figure and the Axes that holds everything.
    """
    heading = [paragraph(title, size=10, weight="bold")] if title else []
    whole = stacked([*heading, *blocks])
    needed = WIDTH + 2 * _MARGIN, whole.height + 2 * _MARGIN
    if plt_fig_axis is None:
        fig = _new_figure(needed, use_pyplot)
        plt_fig_axis = fig, fig.add_axes((0, 0, 1, 1))
    fig, ax = plt_fig_axis
    width, height = ax.bbox.width / ax.figure.dpi, ax.bbox.height / ax.figure.dpi
    scale = min(width / needed[0], height / needed[1])
    ax.set_axis_off()
    canvas = Canvas(ax, width / scale, height / scale, scale)
    with matplotlib.rc_context({"font.family": _families()}):
        whole.draw(canvas, _MARGIN, _MARGIN)
    return fig, ax


def _new_figure(size: tuple[float, float], use_pyplot: bool) -> Figure:
    if not use_pyplot:
        return Figure(figsize=size)
    from matplotlib import pyplot  # looks for a display, so only where it is wanted

    return pyplot.figure(figsize=size)


def stacked(blocks: Sequence[Block]) -> Block:
    """Blocks one below the other."""

    def draw(canvas: Canvas, x: float, y: float) -> None:
        for block in blocks:
            block.draw(canvas, x, y)
            y += block.height

    return Block(sum(block.height for block in blocks), draw)


def beside(left: Block, used: float, right: Block) -> Block:
    """Two blocks side by side, of which the first needs so much of the width."""

    def draw(canvas: Canvas, x: float, y: float) -> None:
        left.draw(canvas, x, y)
        right.draw(canvas, x + used, y)

    return Block(max(left.height, right.height), draw)


def key(entries: Sequence[tuple[str, str, str]], width: float = WIDTH) -> Block:
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
            canvas.text(left + 0.25, top, shortened(name, step - 0.3))

    return Block(0.16 * -(-len(entries) // columns) + 0.04, draw)


def paragraph(string: str, size: float = 8, **kwargs: Any) -> Block:
    """Text, wrapped at words."""
    lines = wrapped(string, WIDTH, size, kwargs.get("weight", "normal"))
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


def shortened(
    string: str, width: float, size: float = 8, weight: str = "normal"
) -> str:
    """A string cut off, with an ellipsis, at a width in inches."""
    string = " ".join(string.split())
    if text_width(string, size, weight) <= width:
        return string
    for length in range(min(len(string), 200) - 1, 0, -1):
        shorter = f"{string[:length].rstrip()}…"
        if text_width(shorter, size, weight) <= width:
            return shorter
    return "…"


def _families() -> list[str]:
    """Matplotlib's fonts, and behind them what this system has for other scripts."""
    return [*matplotlib.rcParams["font.family"], *_other_scripts()]


@cache
def _other_scripts() -> list[str]:
    known = set(get_font_names())
    return [one for one in _OTHER_SCRIPTS if one in known]


def text_width(string: str, size: float, weight: str = "normal") -> float:
    """Width of a string in inches, for the font that matplotlib is set to.

    With some room: hinting makes letters wider on a screen.
    """
    font = FontProperties(family=_families(), size=size, weight=weight)
    width, _, _ = TextToPath().get_text_width_height_descent(string, font, False)
    return 1.05 * float(width) / 72
