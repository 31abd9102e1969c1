"""Rows of small captioned pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from captum_rdr.visualization.canvas import (
    BLUE,
    GRAY,
    INK,
    ORANGE,
    Block,
    Canvas,
    paragraph,
    shortened,
    spacer,
)
from captum_rdr.visualization.pictures import Picture
from captum_rdr.visualization.reference import Classes

_TILE, _GAP, _LINE, _SIZE = 0.68, 0.054, 0.125, 7.0


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
        label, prediction = self.classes
        named = [] if label is None else [label]
        predicted = [] if prediction is None else [f"→ {prediction}"]
        query = ["query"] if self.is_query else []
        return (*query, *named, *predicted, *self.notes)


@dataclass(frozen=True)
class TileRow:
    """A heading and the tiles below it.

    Attributes:
        heading: what the tiles are; it may be empty.
        tiles: the pictures.
        is_warning: whether the heading warns.
    """

    heading: str
    tiles: tuple[Tile, ...] = ()
    is_warning: bool = False


def row_blocks(rows: Sequence[TileRow], width: float) -> list[Block]:
    """Blocks that draw rows, each in as many lines as the width needs."""
    return [block for row in rows for block in _blocks_of(row, width)]


def _blocks_of(row: TileRow, width: float) -> list[Block]:
    blocks = []
    if row.heading:
        color = ORANGE if row.is_warning else INK
        blocks.append(paragraph(row.heading, width, color=color))
    per_line = max(1, int((width + _GAP) / (_TILE + _GAP)))
    for start in range(0, len(row.tiles), per_line):
        blocks.append(_tile_block(row.tiles[start : start + per_line]))
    return [*blocks, spacer(0.04)]


def _tile_block(tiles: Sequence[Tile]) -> Block:
    n_lines = max(len(tile.lines) for tile in tiles)

    def draw(canvas: Canvas, x: float, y: float) -> None:
        for number, tile in enumerate(tiles):
            _draw_tile(canvas, x + number * (_TILE + _GAP), y, tile)

    return Block(_TILE + n_lines * _LINE + 0.09, draw)


def _draw_tile(canvas: Canvas, x: float, y: float, tile: Tile) -> None:
    show_picture(canvas.inset(x, y, _TILE, _TILE), tile.picture, frame_of(tile))
    for number, line in enumerate(tile.lines):
        wrong = tile.classes.is_wrong and line.startswith("→ ")
        color = ORANGE if wrong else GRAY if line in tile.notes else INK
        canvas.text(
            x + _TILE / 2,
            y + _TILE + 0.04 + number * _LINE,
            shortened(line, _TILE + 0.6 * _GAP, _SIZE),
            _SIZE,
            ha="center",
            color=color,
        )


def frame_of(tile: Tile) -> str | None:
    """Color of a tile's frame: orange for a wrong prediction, blue for the query."""
    if tile.classes.is_wrong:
        return ORANGE
    return BLUE if tile.is_query else None


def show_picture(ax: Any, picture: Picture, frame: str | None = None) -> None:
    """Draw a picture without ticks, framed where a color is given."""
    # Small pictures keep their pixels, large ones are averaged.
    method = "nearest" if max(picture.shape[:2]) <= 64 else "antialiased"
    ax.imshow(np.clip(picture, 0, 1), interpolation=method)
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(frame is not None)
        spine.set(color=frame or GRAY, linewidth=2)
