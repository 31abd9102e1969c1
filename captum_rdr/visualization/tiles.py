"""Rows of small captioned pictures: a query, and members of its region."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from torch import Generator, Tensor
from torch.nn import Module

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.method.regions import evidence
from captum_rdr.metrics._explainers import fitted_banks
from captum_rdr.metrics._labels import without_query
from captum_rdr.metrics._regions import query_states
from captum_rdr.visualization import sheet
from captum_rdr.visualization.reference import Classes, Picture, Reference

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


def blocks(rows: Sequence[Row], width: float) -> list[sheet.Block]:
    """Blocks that draw rows, each in as many lines as the width needs."""
    per_line = max(1, int((width + _GAP) / (_SIDE + _GAP)))
    found = []
    for row in rows:
        if row.heading:
            color = sheet.ORANGE if row.is_warning else sheet.INK
            found.append(sheet.paragraph(row.heading, width, color=color))
        for start in range(0, len(row.tiles), per_line):
            found.append(block(row.tiles[start : start + per_line]))
        found.append(sheet.spacer(0.04))
    return found


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
            upper = canvas.inset(left, y, side, side)
            show_picture(upper, tile.picture, _frame_of(tile))
            for level, further in enumerate(lower, 1):
                further(canvas.inset(left, y + level * step, side, side), number)
            for index, line in enumerate(tile.lines):
                color = sheet.GRAY if line in tile.notes else sheet.INK
                if tile.classes.is_wrong and line.startswith("→ "):
                    color = sheet.ORANGE
                below = y + depth + 0.04 + index * _LINE
                text = sheet.shortened(line, side + 0.2 * gap, 8)
                canvas.text(left + side / 2, below, text, 8, ha="center", color=color)

    n_lines = max(len(tile.lines) for tile in tiles)
    return sheet.Block(depth + _LINE * n_lines + 0.09, draw)


def _frame_of(tile: Tile) -> str | None:
    """Color of a tile's frame: orange for a wrong prediction, blue for the query."""
    if tile.classes.is_wrong:
        return sheet.ORANGE
    return sheet.BLUE if tile.is_query else None


def show_picture(ax: Axes, picture: Picture, frame: str | None = None) -> None:
    """Draw a picture without ticks, framed where a color is given."""
    # Small pictures keep their pixels, large ones are averaged.
    method = "nearest" if max(picture.shape[:2]) <= 64 else "antialiased"
    ax.imshow(np.clip(picture, 0, 1), interpolation=method)
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(frame is not None)
        spine.set(color=frame or sheet.GRAY, linewidth=2)


def banks_of(rdr: RelaxedDecisionRegion) -> list[ConfigurationBank]:
    """The banks of all layers, of an explainer of one or of several."""
    return fitted_banks(rdr, several=isinstance(rdr.layer, list))


def layer_of(
    region: Region, rdr: RelaxedDecisionRegion
) -> tuple[Module, ConfigurationBank]:
    """The layer that a region belongs to, and its bank.

    Raises:
        TypeError: it is no region.
        ValueError: it belongs to none.
    """
    if not isinstance(region, Region):
        raise TypeError(
            f"region is a {type(region).__name__}; give a Region, e.g. the first that "
            "attribute returned"
        )
    layers = rdr.layer if isinstance(rdr.layer, list) else [rdr.layer]
    banks = banks_of(rdr)
    for layer, bank in zip(layers, banks, strict=True):
        with suppress(ValueError):
            region.check_layer(bank.layer_shape, bank.fingerprint)
            return layer, bank
    shapes = ", ".join(str(tuple(bank.layer_shape)) for bank in banks)
    raise ValueError(
        f"region belongs to a layer of shape {tuple(region.layer_shape)}, which is not "
        f"that of rdr ({shapes}), or to another state of the model; give a region that "
        "rdr made"
    )


def of_query(row: int | None, reference: Reference, query: Any = None) -> Tile:
    """A query's tile.

    Args:
        row: its bank row; None if the bank does not hold it.
        reference: what bank rows look like.
        query: the input, or a tuple of it and its classes; None for bank row ``row``.

    Raises:
        ValueError: the bank does not hold the query and it is not given.
    """
    if query is not None:
        picture, classes = reference.picture_of(query), reference.classes_of(query)
    elif row is not None:
        picture, classes = reference.picture(row), reference.classes(row)
    else:
        raise ValueError(
            "the bank does not hold the region's query; pass it as query, the input "
            "without the batch dimension"
        )
    return Tile(picture, classes, is_query=True, row=row)


def ranked(
    region: Region,
    bank: ConfigurationBank,
    rows: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Members in the order in which they are shown.

    Args:
        region: the region.
        bank: its bank.
        rows: int64 ``(M,)``, some of its members; None for all but the query.
        generator: shuffles them; None for the nearest by configuration distance first,
            or the most evident first in a region that has an evidence cut. Ties go to
            the lower row.
    """
    rows = without_query(region.members, region) if rows is None else rows
    if generator is not None:
        return rows[torch.randperm(len(rows), generator=generator)]
    if region.evidence_cut is None:
        keys = bank.distances(query_states(bank, [region])[0])
    else:
        keys = -evidence([region], bank)[0]
    return rows[keys[rows].argsort(stable=True)]


def order_name(region: Region, generator: Generator | None = None) -> str:
    """What `ranked` does, in words."""
    if generator is not None:
        return "drawn at random"
    return "nearest first" if region.evidence_cut is None else "most evident first"


def notes_on(region: Region, bank: ConfigurationBank, states: Tensor) -> list[str]:
    """What `ranked` goes by: evidence, or the number of neurons unlike the query's.

    Args:
        region: the region.
        bank: its bank.
        states: bool ``(M, D)``.
    """
    if region.evidence_cut is not None:
        return [f"{nats:.3g} nats" for nats in region.evidence(states).tolist()]
    counts = (states != query_states(bank, [region])).sum(1).tolist()
    return [f"{count} away" for count in counts]


def disagreements(region: Region, states: Tensor) -> list[str]:
    """In how many principal neurons instances differ; empty where that decides nothing.

    Args:
        region: the region.
        states: bool ``(M, D)``.
    """
    counts = (states[:, region.neurons] != region.states).sum(1).tolist()
    if region.evidence_cut is not None or not (region.tolerance or any(counts)):
        return [""] * len(counts)
    return [f"{count} differ{'s' * (count == 1)}" for count in counts]


def of_members(
    region: Region,
    bank: ConfigurationBank,
    rows: Tensor,
    reference: Reference,
    notes: Sequence[str] | None = None,
) -> list[Tile]:
    """Tiles of bank rows with their classes, and notes on them or what ranks them."""
    states = bank.states(rows)
    ranks = notes_on(region, bank, states) if notes is None else notes
    pairs = zip(ranks, disagreements(region, states), strict=True)
    return of_rows(
        rows.tolist(), [tuple(filter(None, pair)) for pair in pairs], reference
    )


def of_rows(
    rows: Sequence[int], notes: Sequence[tuple[str, ...]], reference: Reference
) -> list[Tile]:
    """Tiles of bank rows with their classes and notes on each."""
    return [
        Tile(reference.picture(row), reference.classes(row), own, row=row)
        for row, own in zip(rows, notes, strict=True)
    ]


def described(region: Region) -> str:
    """A region's neurons and rule, in words."""
    active = int(region.states.sum())
    rule = f"{region.tolerance:g} may differ" if region.tolerance else "all must agree"
    if region.evidence_cut is not None:
        rule = f"evidence of at least {region.evidence_cut:.3g} nats"
    return (
        f"{len(region.neurons)} principal neurons of {region.layer_shape.numel()} "
        f"({active} active, {len(region.neurons) - active} inactive), {rule}."
    )


def significance_rows(region: Region) -> list[Row]:
    """What the test of a region found; nothing if it was not tested."""
    tested = region.significance
    if tested is None:
        return []
    if tested.passed:
        return [Row(f"Significant: {tested}, effect {tested.effect:.2g}")]
    doubt = f"{tested.verdict.capitalize()}: {tested.found}"
    if tested.verdict == "not significant":
        doubt += f" (level {tested.level:g}), so this may be a chance find"
    elif tested.verdict == "a mixture":
        doubt += ", so members need not show one thing"
    return [Row(doubt, is_warning=True)]


def headed(region: Region, text: str, width: float) -> list[sheet.Block]:
    """Blocks above a picture of a region: a text, and what the region's test found."""
    return [sheet.paragraph(text, width), *blocks(significance_rows(region), width)]
