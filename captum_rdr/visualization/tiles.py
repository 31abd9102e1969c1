"""Rows of small captioned pictures: a query, and members of its region."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np
from matplotlib.axes import Axes

from captum_rdr.visualization import sheet
from captum_rdr.visualization.reference import Classes, Picture

_SIDE, _GAP, _LINE = 0.64, 0.1, 0.14


@dataclass(frozen=True)
class Tile:
    """A picture with what is said of it.

    Attributes:
        picture: RGB array ``(H, W, 3)``.
        classes: its class and the predicted one.
        notes: further lines of the caption.
        is_query: whether it is the query.
        row: its bank row, where known.
    """

    picture: Picture
    classes: Classes
    notes: tuple[str, ...] = ()
    is_query: bool = False
    row: int | None = None

    @property
    def lines(self) -> tuple[str, ...]:
        """The caption: who it is, its label, the prediction behind an arrow, notes."""
        return (*["query"] * self.is_query, *self.classes.lines, *self.notes)


@dataclass(frozen=True)
class Row:
    """A heading and the tiles below it.

    Attributes:
        heading: what the tiles are; it may be empty.
        tiles: the pictures.
        is_warning: whether the heading warns.
    """

    heading: str
    tiles: Sequence[Tile] = ()
    is_warning: bool = False

    @property
    def block(self) -> sheet.Block:
        """What draws the row, in as many lines as it needs."""
        per_line = int((sheet.WIDTH + _GAP) / (_SIDE + _GAP))
        color = sheet.ORANGE if self.is_warning else sheet.INK
        found = [sheet.paragraph(self.heading, color=color)] if self.heading else []
        for start in range(0, len(self.tiles), per_line):
            found.append(block(self.tiles[start : start + per_line]))
        return sheet.stacked(found)


Part = Row | sheet.Block
"""What a figure is made of."""


def draw(
    parts: Sequence[Part], **figure: Unpack[sheet.FigureOptions]
) -> sheet.FigureAxes:
    """Draw rows and blocks, one below the other."""
    blocks = [part.block if isinstance(part, Row) else part for part in parts]
    return sheet.draw(blocks, **figure)


def block(
    tiles: Sequence[Tile],
    side: float = _SIDE,
    gap: float = _GAP,
    lower: Sequence[Callable[[Axes, int], None]] = (),
) -> sheet.Block:
    """Tiles side by side.

    Args:
        tiles: the tiles.
        side: width and height of each picture, in inches.
        gap: between two pictures, in inches.
        lower: each draws a further picture, below those of the tile of the given number.
    """
    step = side + gap
    depth = side + step * len(lower)

    def draw(canvas: sheet.Canvas, x: float, y: float) -> None:
        for number, tile in enumerate(tiles):
            left = x + number * step
            frame = sheet.BLUE if tile.is_query else None
            frame = sheet.ORANGE if tile.classes.is_wrong else frame
            show_picture(canvas.inset(left, y, side, side), tile.picture, frame)
            for level, further in enumerate(lower, 1):
                further(canvas.inset(left, y + level * step, side, side), number)
            for index, line in enumerate(tile.lines):
                color = sheet.GRAY if line in tile.notes else sheet.INK
                if tile.classes.is_wrong and line.startswith("→ "):
                    color = sheet.ORANGE
                below = y + depth + 0.04 + index * _LINE
                text = sheet.shortened(line, side + 0.2 * gap)
                canvas.text(left + side / 2, below, text, 8, ha="center", color=color)

    n_lines = max(len(tile.lines) for tile in tiles)
    return sheet.Block(depth + _LINE * n_lines + 0.13, draw)


def show_picture(ax: Axes, picture: Picture, frame: str | None = None) -> None:
    """Draw a picture without ticks, framed where a color is given."""
    # Small pictures keep their pixels, large ones are averaged.
    method = "nearest" if max(picture.shape[:2]) <= 64 else "antialiased"
    ax.imshow(np.clip(picture, 0, 1), interpolation=method)
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=frame is not None, color=frame or sheet.GRAY, linewidth=2)
