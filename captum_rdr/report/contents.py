"""What a report says of each query and of all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.report.images import figure_uri
from captum_rdr.visualization import visualize_concept, visualize_principal_neurons
from captum_rdr.visualization.layers import overlaps
from captum_rdr.visualization.neighbors import neighbor_rows
from captum_rdr.visualization.query import Query, banks_of, find_query
from captum_rdr.visualization.reference import Reference
from captum_rdr.visualization.region import region_rows
from captum_rdr.visualization.tiles import Tile, TileRow

Method = Callable[[Callable[..., Tensor]], Callable[[Tensor], Tensor]]
"""Makes of a concept score what attributes it to inputs."""


@dataclass(frozen=True)
class Drawing:
    """A figure of a page.

    Attributes:
        heading: what it shows, in a few words.
        description: the same for who does not see it.
        uri: the image.
    """

    heading: str
    description: str
    uri: str


@dataclass(frozen=True)
class LayerPart:
    """What is said of a query's region in one layer.

    Attributes:
        name: the layer's name; empty where there is one layer.
        region: the region.
        rows: summary, significance, neighbors and members.
        drawings: the figures.
    """

    name: str
    region: Region
    rows: tuple[TileRow, ...]
    drawings: tuple[Drawing, ...]

    @property
    def significance(self) -> str:
        """The outcome of the region's test."""
        return _outcome([self.region])


@dataclass(frozen=True)
class QueryPart:
    """What is said of a query.

    Attributes:
        number: its place in the report, from 1.
        name: what it is called.
        tile: its picture and classes.
        layers: its region in each layer.
        overlaps: Jaccard indices of the layers' members, row by row.
        neighbors: nearest by several distances, where the bank has features.
        significance: ``"passed"``, ``"failed"`` (in any layer) or ``"untested"``.
    """

    number: int
    name: str
    tile: Tile
    layers: tuple[LayerPart, ...]
    overlaps: tuple[tuple[float, ...], ...]
    neighbors: tuple[TileRow, ...]
    significance: str


def _outcome(regions: Sequence[Region]) -> str:
    tested = [one.significance for one in regions if one.significance is not None]
    if not tested:
        return "untested"
    return "passed" if all(one.passed for one in tested) else "failed"


@dataclass(frozen=True)
class Asked:
    """A query as it was given.

    Attributes:
        input: the input without the batch dimension; None for a bank row.
        row: its bank row, where it was given.
        label: its class.
        prediction: the class that the model predicts.
    """

    input: Tensor | None
    row: int | None
    label: int | None = None
    prediction: int | None = None


def query_part(
    rdr: RelaxedDecisionRegion,
    regions: Sequence[Region],
    asked: Asked,
    reference: Reference,
    number: int,
    method: Method | None,
    n_members: int,
    cmap: Any,
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
        cmap: colormap of images without color.
    """
    query = find_query(
        rdr, asked.row, reference, asked.input, asked.label, asked.prediction, cmap
    )
    several = isinstance(rdr.layer, list)
    layer_names = rdr.reader.names if several else [""]
    scores: list[Any] = [None] * len(regions)
    if method is not None and all(len(region.neurons) for region in regions):
        found = rdr.concept_score(list(regions) if several else regions[0])
        scores = found if several else [found]
    layers = []
    for name, region, score in zip(layer_names, regions, scores, strict=True):
        rows = region_rows(rdr, region, reference, query, n_members, cmap=cmap)
        drawings = [_neurons(region, query)]
        if method is not None and score is not None:
            drawings.append(_concept(rdr, region, method(score), asked, reference))
        layers.append(LayerPart(name, region, tuple(rows), tuple(drawings)))
    neighbors = []
    if not several and banks_of(rdr)[0].features is not None:
        neighbors = neighbor_rows(rdr, query, asked.input, reference, cmap=cmap)
    table = [tuple(row) for row in overlaps(regions).tolist()] if several else []
    name = f"New input {number}" if asked.row is None else f"Row {asked.row}"
    return QueryPart(
        number,
        name,
        query.tile,
        tuple(layers),
        tuple(table),
        tuple(neighbors),
        _outcome(regions),
    )


def _neurons(region: Region, query: Query) -> Drawing:
    image = query.tile.picture if len(region.layer_shape) > 1 else None
    fig, _ = visualize_principal_neurons(region, image, use_pyplot=False)
    active = int(region.states.sum())
    return Drawing(
        "Principal neurons",
        f"Where the {len(region.neurons)} principal neurons sit: {active} must be active,"
        f" {len(region.neurons) - active} inactive",
        figure_uri(fig),
    )


def _concept(
    rdr: RelaxedDecisionRegion,
    region: Region,
    attribute: Callable[[Tensor], Tensor],
    asked: Asked,
    reference: Reference,
) -> Drawing:
    fig, _ = visualize_concept(
        rdr,
        region,
        attribute,
        reference,
        asked.input,
        query_label=asked.label,
        query_prediction=asked.prediction,
        use_pyplot=False,
    )
    return Drawing(
        "Where the concept is",
        "The query and members of its region, and below each where in it the region's "
        "concept is",
        figure_uri(fig),
    )
