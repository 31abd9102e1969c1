"""The query of a region: its picture, its class and its states."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.visualization.reference import Reference, as_batch
from captum_rdr.visualization.tiles import Tile


class Query(NamedTuple):
    """What is known of a query.

    Attributes:
        tile: its picture and class.
        states: its states in each layer, bool ``(D,)``.
        row: its bank row, or None.
    """

    tile: Tile
    states: list[Tensor]
    row: int | None


def banks_of(rdr: RelaxedDecisionRegion) -> list[ConfigurationBank]:
    """The banks of all layers.

    Raises:
        ValueError: there is none.
    """
    if rdr.bank is None:
        raise ValueError("rdr has no bank yet; call rdr.fit first")
    return rdr.bank if isinstance(rdr.bank, list) else [rdr.bank]


def layer_index(rdr: RelaxedDecisionRegion, region: Region) -> int:
    """Which of the layers a region belongs to.

    Raises:
        TypeError: it is no region.
        ValueError: it belongs to none.
    """
    if not isinstance(region, Region):
        raise TypeError(
            f"region is a {type(region).__name__}; give a Region, e.g. the first that "
            "attribute returned"
        )
    banks = banks_of(rdr)
    for index, bank in enumerate(banks):
        unknown = "" in (bank.fingerprint, region.fingerprint)
        same = unknown or bank.fingerprint == region.fingerprint
        if same and bank.layer_shape == region.layer_shape:
            return index
    shapes = ", ".join(str(tuple(bank.layer_shape)) for bank in banks)
    raise ValueError(
        f"region belongs to a layer of shape {tuple(region.layer_shape)}, which is not "
        f"that of rdr ({shapes}), or to another state of the model; give a region that "
        "rdr made"
    )


def bank_of(rdr: RelaxedDecisionRegion, region: Region) -> ConfigurationBank:
    """The bank that a region belongs to."""
    return banks_of(rdr)[layer_index(rdr, region)]


def find_query(
    rdr: RelaxedDecisionRegion,
    row: int | None,
    reference: Reference,
    query: Any = None,
    label: int | None = None,
    prediction: int | None = None,
    cmap: Any = None,
) -> Query:
    """What is known of a query.

    Args:
        rdr: gives its states.
        row: its bank row; None if the bank does not hold it.
        reference: what bank rows look like.
        query: the input, without the batch dimension; None for bank row ``row``.
        label: class of the given input; None where it is unknown.
        prediction: class that the model predicts for the given input.
        cmap: colormap of images without color.

    Raises:
        ValueError: the bank does not hold the query and it is not given.
    """
    if query is not None:
        batch = as_batch(query)
        picture = reference.picture_of(query, cmap)  # refuses what is no single image
        classes = reference.named(label, prediction)
        found = rdr.states(batch)
        states = found if isinstance(found, list) else [found]
        flat = [one.flatten() for one in states]
        return Query(Tile(picture, classes, is_query=True, row=row), flat, row)
    if row is None:
        raise ValueError(
            "the bank does not hold the region's query; pass it as query, the input "
            "without the batch dimension"
        )
    rows = torch.tensor([row])
    picture, classes = reference.picture(row, cmap), reference.classes(row)
    tile = Tile(picture, classes, is_query=True, row=row)
    return Query(tile, [bank.states(rows)[0] for bank in banks_of(rdr)], row)
