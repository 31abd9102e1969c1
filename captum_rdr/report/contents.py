"""What a report says of each query and of all of them."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.metrics._regions import query_states
from captum_rdr.report.images import figure_uri
from captum_rdr.report.looks import Neuron, neurons_of, veils_of
from captum_rdr.report.page import Album, Item, Shown, Strip
from captum_rdr.visualization import (
    Reference,
    tiles,
    visualize_bank,
    visualize_concept,
)
from captum_rdr.visualization.layers import overlaps
from captum_rdr.visualization.neighbors import neighbor_rows
from captum_rdr.visualization.region import region_rows

Method = Callable[[Callable[..., Tensor]], Callable[[Tensor], Tensor]]
"""Makes of a concept score what attributes it to inputs."""

_WORST_FIRST = ("not significant", "a mixture", "not testable", "significant")
_OUTLINED = 6  # regions on the map of a bank, at most
_ALL = 200  # members that are shown when all are asked for, at most


class Drawing(NamedTuple):
    """A figure of a page: what it shows, the same for who does not see it, the image."""

    heading: str
    description: str
    uri: str


class LayerPart(NamedTuple):
    """What is said of a query's region in one layer.

    Attributes:
        name: the layer's name; empty where there is one layer.
        region: the region.
        verdict: of its test, or ``"not tested"``.
        said: who its members are, in words.
        strips: summary, significance, neighbors and members.
        neurons: the first principal neurons.
        drawing: where the concept is, by an attribution; None for none.
    """

    name: str
    region: Region
    verdict: str
    said: str
    strips: list[Strip]
    neurons: list[Neuron]
    drawing: Drawing | None = None


class QueryPart(NamedTuple):
    """What is said of a query.

    Attributes:
        number: its place in the report, from 1.
        item: its picture.
        shown: its name and classes.
        layers: its region in each layer.
        overlaps: Jaccard indices of the layers' members, row by row.
        neighbors: nearest by several distances, where the bank has features.
        verdict: as that of a layer; the worst of all layers.
    """

    number: int
    item: Item
    shown: Shown
    layers: list[LayerPart]
    overlaps: list[list[float]]
    neighbors: list[Strip]
    verdict: str


Asked = int | tuple[Any, ...]
"""A query: a bank row, or an input with its class, the predicted one, and its name."""


def query_part(
    rdr: RelaxedDecisionRegion,
    regions: Sequence[Region],
    asked: Asked,
    album: Album,
    number: int,
    method: Method | None,
    n_members: int,
) -> QueryPart:
    """What a report says of one query.

    Args:
        rdr: fitted.
        regions: the query's region in each layer.
        asked: the query.
        album: what bank rows look like, and what the page shows.
        number: its place in the report, from 1.
        method: see `captum_rdr.report.write_report`.
        n_members: members to show at most.
    """
    row, query = (asked, None) if isinstance(asked, int) else (None, asked)
    reference, several = album.reference, isinstance(rdr.layer, list)
    tile = tiles.of_query(row, reference, query)
    if isinstance(asked, int):
        own = album.row(asked)
    else:
        name = asked[3] or f"New input {number}"
        own = album.add(tile.picture, tile.classes, name)
    names = rdr.reader.names if several else [""]
    layers = []
    for name, region, bank in zip(names, regions, tiles.banks_of(rdr), strict=True):
        rows = region_rows(region, bank, reference, tile, n_members)
        strips = [_strip(one, own, album, region, bank) for one in rows]
        strips[-1] = _with_all(strips[-1], region, bank, album)
        neurons = neurons_of(region, bank, album, _aspect(tile))
        verdict, said = _verdict([region]), _said(region, album)
        layers.append(LayerPart(name, region, verdict, said, strips, neurons))
    if method is not None and all(len(region.neurons) for region in regions):
        scores = rdr.concept_score(list(regions) if several else regions[0])
        scores = scores if several else [scores]
        layers = [
            one._replace(drawing=_concept(one.region, rdr, method(score), album, query))
            for one, score in zip(layers, scores, strict=True)
        ]
    neighbors = []
    if not several and tiles.banks_of(rdr)[0].features is not None:
        rows = neighbor_rows(rdr, asked, reference, tile)
        neighbors = [_strip(one, own, album) for one in rows]
    shared = overlaps(regions) if several else []
    shown, verdict = album.shown[own], _verdict(regions)
    item = Item(own, is_query=True)
    return QueryPart(number, item, shown, layers, shared, neighbors, verdict)


def _aspect(tile: tiles.Tile) -> float:
    height, width = tile.picture.shape[:2]
    return height / width


def _strip(
    row: tiles.Row,
    own: int,
    album: Album,
    region: Region | None = None,
    bank: ConfigurationBank | None = None,
) -> Strip:
    """A row of a figure as one of a page; with a region, where in each its concept is."""
    veils = [""] * len(row.tiles)
    if region is not None and bank is not None and row.tiles:
        states = bank.states([tile.row or 0 for tile in row.tiles])
        if row.tiles[0].is_query:
            states[0] = query_states(bank, [region])[0]
        veils = veils_of(region, bank, states, _aspect(row.tiles[0]))
    items = []
    for tile, veil in zip(row.tiles, veils, strict=True):
        number = own if tile.is_query else album.row(tile.row or 0)
        items.append(Item(number, tile.notes, veil=veil, is_query=tile.is_query))
    return Strip(row.heading, items, row.is_warning)


def _with_all(
    strip: Strip, region: Region, bank: ConfigurationBank, album: Album
) -> Strip:
    """A strip of members outside S that can show all of them, or the first 200."""
    rows = tiles.ranked(region, bank)
    far = rows[~torch.isin(rows, region.neighbors)].tolist()
    if len(far) <= len(strip.items):
        return strip
    few = "all" if len(far) <= _ALL else f"{_ALL} of"
    more = [album.row(row) for row in far[:_ALL]]
    return strip._replace(more=more, more_said=f"Show {few} {len(far)}")


def _said(region: Region, album: Album) -> str:
    """Who the members of a region are, and how many of the model's errors."""
    count, reference = len(region.members), album.reference
    said = f"{count:,} member{'s' * (count != 1)}"
    if reference.labels is None and count > _ALL:
        return f"{said}."  # each image would be read for its label
    known = [reference.classes(row) for row in region.members.tolist()]
    labels = Counter(one.label for one in known if one.label is not None)
    parts = [f"{times:,} {label}" for label, times in labels.most_common(4)]
    if others := labels.total() - sum(dict(labels.most_common(4)).values()):
        parts.append(f"{others:,} others")
    wrong = sum(one.is_wrong for one in known)
    errors = ""
    if album.n_errors:
        errors = f" {wrong:,} of the {album.n_errors:,} errors are in this region."
    return f"{said}{': ' * bool(parts)}{', '.join(parts)}.{errors}"


def _verdict(regions: Sequence[Region]) -> str:
    tested = [one.significance for one in regions if one.significance is not None]
    verdicts = {one.verdict for one in tested}
    return next((one for one in _WORST_FIRST if one in verdicts), "not tested")


def _concept(
    region: Region,
    rdr: RelaxedDecisionRegion,
    attribute: Callable[[Tensor], Tensor],
    album: Album,
    query: Any,
) -> Drawing:
    fig, _ = visualize_concept(
        region, rdr, album.reference, query, attribute=attribute, use_pyplot=False
    )
    return Drawing(
        "Where the concept is",
        "The query and members of its region, and below each where in it the region's "
        "concept is",
        figure_uri(fig),
    )


def bank_maps(
    rdr: RelaxedDecisionRegion,
    by_query: Sequence[Sequence[Region]],
    reference: Reference,
) -> list[Drawing]:
    """A map of each layer's bank; regions are outlined where they are few."""
    maps, labels = [], reference.labels
    by_layer = zip(*by_query, strict=True)
    for name, bank, regions in zip(
        rdr.reader.names, tiles.banks_of(rdr), by_layer, strict=True
    ):
        fig, _ = visualize_bank(
            bank,
            regions if len(regions) <= _OUTLINED else (),
            labels=None if labels is None else labels[: len(bank)],
            class_names=reference.class_names,
            use_pyplot=False,
        )
        heading = f"Map of the reference set in layer {name}"
        text = "The first two principal components of the reference set's states"
        maps.append(Drawing(heading, text, figure_uri(fig)))
    return maps
