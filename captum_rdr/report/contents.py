"""What a report says of each query and of all of them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.report.images import figure_uri
from captum_rdr.report.page import Album, Item, Shown, Strip
from captum_rdr.visualization import (
    Reference,
    tiles,
    visualize_bank,
    visualize_concept,
    visualize_principal_neurons,
)
from captum_rdr.visualization.layers import overlaps
from captum_rdr.visualization.neighbors import neighbor_rows
from captum_rdr.visualization.region import region_rows

Method = Callable[[Callable[..., Tensor]], Callable[[Tensor], Tensor]]
"""Makes of a concept score what attributes it to inputs."""

_WORST_FIRST = ("not significant", "a mixture", "not testable", "significant")
_OUTLINED = 6  # regions on the map of a bank, at most


class Drawing(NamedTuple):
    """A figure of a page.

    Attributes:
        heading: what it shows, in a few words.
        description: the same for who does not see it.
        uri: the image.
    """

    heading: str
    description: str
    uri: str


class LayerPart(NamedTuple):
    """What is said of a query's region in one layer.

    Attributes:
        name: the layer's name; empty where there is one layer.
        region: the region.
        verdict: of its test, or ``"not tested"``.
        strips: summary, significance, neighbors and members.
        drawings: the figures.
    """

    name: str
    region: Region
    verdict: str
    strips: list[Strip]
    drawings: list[Drawing]


class QueryPart(NamedTuple):
    """What is said of a query.

    Attributes:
        number: its place in the report, from 1.
        name: what it is called.
        item: its picture.
        shown: its classes.
        layers: its region in each layer.
        overlaps: Jaccard indices of the layers' members, row by row.
        neighbors: nearest by several distances, where the bank has features.
        verdict: as that of a layer; the worst of all layers.
    """

    number: int
    name: str
    item: Item
    shown: Shown
    layers: list[LayerPart]
    overlaps: list[list[float]]
    neighbors: list[Strip]
    verdict: str


Asked = int | tuple[Tensor, int | None, int | None]
"""A query: a bank row, or an input with its class and the predicted one."""


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
    reference = album.reference
    tile = tiles.of_query(row, reference, query)
    if row is None:
        own = album.add(tile.picture, tile.classes, f"New input {number}")
    else:
        own = album.row(row)
    banks, several = tiles.banks_of(rdr), isinstance(rdr.layer, list)
    names = rdr.reader.names if several else [""]
    attributes: list[Any] = [None] * len(regions)
    if method is not None and all(len(region.neurons) for region in regions):
        scores = rdr.concept_score(list(regions) if several else regions[0])
        attributes = [method(score) for score in (scores if several else [scores])]
    layers = []
    for name, region, bank, attribute in zip(
        names, regions, banks, attributes, strict=True
    ):
        rows = region_rows(region, bank, reference, tile, n_members)
        strips = [_strip(one, own, album) for one in rows]
        drawings = [_neurons(region, rdr, bank, reference, query)]
        if attribute is not None:
            drawings.append(_concept(region, rdr, attribute, reference, query))
        layers.append(LayerPart(name, region, _verdict([region]), strips, drawings))
    neighbors = []
    if not several and banks[0].features is not None:
        rows = neighbor_rows(rdr, asked, reference, tile)
        neighbors = [_strip(one, own, album) for one in rows]
    return QueryPart(
        number,
        album.shown[own].name,
        Item(own, is_query=True),
        album.shown[own],
        layers,
        overlaps(regions) if several else [],
        neighbors,
        _verdict(regions),
    )


def _strip(row: tiles.Row, own: int, album: Album) -> Strip:
    """A row of a figure as one of a page."""
    items = []
    for tile in row.tiles:
        number = own if tile.is_query else album.row(tile.row or 0)
        items.append(Item(number, tile.notes, is_query=tile.is_query))
    return Strip(row.heading, items, row.is_warning)


def _verdict(regions: Sequence[Region]) -> str:
    tested = [one.significance for one in regions if one.significance is not None]
    verdicts = {one.verdict for one in tested}
    return next((one for one in _WORST_FIRST if one in verdicts), "not tested")


def _neurons(
    region: Region,
    rdr: RelaxedDecisionRegion,
    bank: ConfigurationBank,
    reference: Reference,
    query: Any,
) -> Drawing:
    # Without features the model would run anew for each neuron of each query.
    count = 4 if bank.features is not None else 0
    fig, _ = visualize_principal_neurons(
        region, rdr, reference, query, n_neurons=count, use_pyplot=False
    )
    active = int(region.states.sum())
    return Drawing(
        "Principal neurons",
        f"Where the {len(region.neurons)} principal neurons sit: {active} must be active,"
        f" {len(region.neurons) - active} inactive",
        figure_uri(fig),
    )


def _concept(
    region: Region,
    rdr: RelaxedDecisionRegion,
    attribute: Callable[[Tensor], Tensor],
    reference: Reference,
    query: Any,
) -> Drawing:
    fig, _ = visualize_concept(
        region, rdr, reference, query, attribute=attribute, use_pyplot=False
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
