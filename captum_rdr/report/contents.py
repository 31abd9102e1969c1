"""What a report says of each query and of all of them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.metrics._regions import jaccard
from captum_rdr.report.images import figure_uri
from captum_rdr.visualization import (
    Reference,
    tiles,
    visualize_bank,
    visualize_concept,
    visualize_principal_neurons,
)
from captum_rdr.visualization.region import neighbor_rows, region_rows
from captum_rdr.visualization.subjects import Subject, banks_of

Method = Callable[[Callable[..., Tensor]], Callable[[Tensor], Tensor]]
"""Makes of a concept score what attributes it to inputs."""

_OUTCOMES = {
    "not significant": "failed",
    "a mixture": "mixture",
    "not testable": "untestable",
    "significant": "passed",
}
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
        significance: ``"passed"``, ``"failed"``, ``"mixture"``, ``"untestable"`` or
            ``"untested"``.
        rows: summary, significance, neighbors and members.
        drawings: the figures.
    """

    name: str
    region: Region
    significance: str
    rows: list[tiles.Row]
    drawings: list[Drawing]


class QueryPart(NamedTuple):
    """What is said of a query.

    Attributes:
        number: its place in the report, from 1.
        name: what it is called.
        tile: its picture and classes.
        layers: its region in each layer.
        overlaps: Jaccard indices of the layers' members, row by row.
        neighbors: nearest by several distances, where the bank has features.
        significance: as that of a layer; the worst of all layers.
    """

    number: int
    name: str
    tile: tiles.Tile
    layers: list[LayerPart]
    overlaps: list[list[float]]
    neighbors: list[tiles.Row]
    significance: str


Asked = int | tuple[Tensor, int | None, int | None]
"""A query: a bank row, or an input with its class and the predicted one."""


def query_part(
    rdr: RelaxedDecisionRegion,
    regions: Sequence[Region],
    asked: Asked,
    reference: Reference,
    number: int,
    method: Method | None,
    n_members: int,
) -> QueryPart:
    """What a report says of one query.

    Args:
        rdr: fitted.
        regions: the query's region in each layer.
        asked: the query.
        reference: what bank rows look like.
        number: its place in the report, from 1.
        method: see `captum_rdr.report.write_report`.
        n_members: members to show at most.
    """
    query = None if isinstance(asked, int) else asked
    banks, several = banks_of(rdr), isinstance(rdr.layer, list)
    names = rdr.reader.names if several else [""]
    attributes: list[Any] = [None] * len(regions)
    if method is not None and all(len(region.neurons) for region in regions):
        scores = rdr.concept_score(list(regions) if several else regions[0])
        attributes = [method(score) for score in (scores if several else [scores])]
    layers = []
    for name, region, bank, attribute in zip(
        names, regions, banks, attributes, strict=True
    ):
        subject = Subject(region, bank, reference, query)
        rows = region_rows(subject, n_members)
        drawings = [_neurons(region, rdr, reference, query)]
        if attribute is not None:
            drawings.append(_concept(region, rdr, attribute, reference, query))
        layers.append(LayerPart(name, region, _outcome([region]), rows, drawings))
    overlaps = [[jaccard(a.members, b.members) for b in regions] for a in regions]
    neighbors = []
    if not several and banks[0].features is not None:
        neighbors = neighbor_rows(subject, rdr)
    return QueryPart(
        number,
        f"Row {asked}" if query is None else f"New input {number}",
        subject.tile,
        layers,
        overlaps if several else [],
        neighbors,
        _outcome(regions),
    )


def _outcome(regions: Sequence[Region]) -> str:
    tested = [one.significance for one in regions if one.significance is not None]
    verdicts = {one.verdict for one in tested}
    worst = (name for verdict, name in _OUTCOMES.items() if verdict in verdicts)
    return next(worst, "untested")


def _neurons(
    region: Region,
    rdr: RelaxedDecisionRegion,
    reference: Reference,
    query: Any,
) -> Drawing:
    fig, _ = visualize_principal_neurons(
        region, rdr, reference, query, use_pyplot=False
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
    maps = []
    by_layer = zip(*by_query, strict=True)
    for name, bank, regions in zip(
        rdr.reader.names, banks_of(rdr), by_layer, strict=True
    ):
        fig, _ = visualize_bank(
            regions if len(regions) <= _OUTLINED else (),
            bank,
            reference,
            use_pyplot=False,
        )
        heading = f"Map of the reference set in layer {name}"
        text = "The first two principal components of the reference set's states"
        maps.append(Drawing(heading, text, figure_uri(fig)))
    return maps
