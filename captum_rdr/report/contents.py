"""What a report says of each query and of all of them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.metrics._labels import without_query
from captum_rdr.metrics._regions import query_states
from captum_rdr.report.images import figure_uri
from captum_rdr.report.looks import neurons_of, veils_of
from captum_rdr.report.page import Album, Item, Strip
from captum_rdr.visualization import tiles, visualize_bank, visualize_concept
from captum_rdr.visualization.region import neighbor_rows, region_rows
from captum_rdr.visualization.subjects import Subject, banks_of

Method = Callable[[Callable[..., Tensor]], Callable[[Tensor], Tensor]]
"""Makes of a concept score what attributes it to inputs."""

_OUTLINED = 6  # regions on the map of a bank, at most

ALL = 200
"""Members that are shown when all are asked for, at most."""

Asked = int | tuple[Any, ...]
"""A query: a bank row, or an input with its class, the predicted one, and its name."""


def query_part(
    rdr: RelaxedDecisionRegion,
    regions: Sequence[Region],
    asked: Asked,
    album: Album,
    method: Method | None,
    n_members: int,
    by_distances: bool,
) -> dict[str, Any]:
    """What a report says of one query.

    Args:
        rdr: fitted.
        regions: the query's region in each layer.
        asked: the query.
        album: what bank rows look like, and what the page shows.
        method: see `captum_rdr.report.write_report`.
        n_members: members to show at most.
        by_distances: whether to show the nearest by several distances.

    Returns:
        ``item``, its picture; ``layers``, of each the region, strips of pictures, the
        first principal neurons, and where the concept is by an attribution; and
        ``neighbors``, the nearest by several distances where the bank has features.
    """
    reference, several = album.reference, isinstance(rdr.layer, list)
    query, banks, neighbors = None, banks_of(rdr), []
    if isinstance(asked, int):
        own = album.row(asked)
    else:
        query, classes = asked, reference.classes_of(asked)
        own = album.add(reference.picture_of(asked), classes, str(asked[3]))
    subjects = [
        Subject(region, bank, reference, query)
        for region, bank in zip(regions, banks, strict=True)
    ]
    layers = [_layer_part(subject, album, own, n_members) for subject in subjects]
    if method is not None and all(len(region.neurons) for region in regions):
        scores: Any = rdr.concept_score(list(regions) if several else regions[0])
        for part, score in zip(layers, scores if several else [scores], strict=True):
            options: Any = {"attribute": method(score), "use_pyplot": False}
            shown = (part["region"], rdr, reference, query)
            fig, _ = visualize_concept(*shown, **options)
            part["drawing"] = figure_uri(fig, on_any=True)
    if by_distances and not several and banks[0].features is not None:
        rows = neighbor_rows(subjects[0], rdr)
        neighbors = [_strip(one, own, album) for one in rows]
    return {"item": Item(own, "", "", True), "layers": layers, "neighbors": neighbors}


def _layer_part(
    subject: Subject, album: Album, own: int, n_members: int
) -> dict[str, Any]:
    """What a report says of a query's region in one layer."""
    region, bank = subject.region, subject.bank
    rows = region_rows(subject, n_members)
    strips = [_strip(one, own, album, (region, bank)) for one in rows]
    rest = without_query(region.members, region)
    far = rest[~torch.isin(rest, region.neighbors)]
    if len(far) > n_members:
        said = f"Show {'all' if len(far) <= ALL else f'{ALL} of'} {len(far)}"
        more = [album.row(row) for row in subject.ranked(ALL, far).tolist()]
        strips[-1] = strips[-1]._replace(more=more, more_said=said)
    neurons = neurons_of(region, bank, album)
    return {"region": region, "strips": strips, "neurons": neurons}


def _strip(
    row: tiles.Row,
    own: int,
    album: Album,
    where: tuple[Region, ConfigurationBank] | None = None,
) -> Strip:
    """A row of a figure as one of a page; with a region, where in each its concept is."""
    numbers = [tile.row or 0 for tile in row.tiles]
    of = [own if one.is_query else album.row(one.row or 0) for one in row.tiles]
    veils = [""] * len(numbers)
    if where is not None and numbers:
        region, bank = where
        states = bank.states(numbers)
        if row.tiles[0].is_query:
            states[0] = query_states(bank, [region])[0]
        height, width = row.tiles[0].picture.shape[:2]
        veils = veils_of(region, bank, states, height / width)
    items = [
        Item(number, tile.notes, "", tile.is_query, veil)
        for number, tile, veil in zip(of, row.tiles, veils, strict=True)
    ]
    return Strip(row.heading, items, row.is_warning)


def bank_maps(
    rdr: RelaxedDecisionRegion, by_query: Sequence[Sequence[Region]], album: Album
) -> dict[str, str]:
    """A map of each layer's bank; regions are outlined where they are few."""
    maps, banks = {}, zip(rdr.reader.names, banks_of(rdr), strict=True)
    for number, (name, bank) in enumerate(banks):
        regions = [one[number] for one in by_query if len(by_query) <= _OUTLINED]
        fig, _ = visualize_bank(regions, bank, album.reference, use_pyplot=False)
        maps[name] = figure_uri(fig)
    return maps
