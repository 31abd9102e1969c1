"""Regions as sets of rows, the rules that made them, and their queries."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from captum_rdr.bank import ConfigurationBank, bits
from captum_rdr.method.region import Region
from captum_rdr.method.rule import Rule


def jaccard(first: Tensor, second: Tensor) -> float:
    """Size of the intersection of two sets over that of their union; 1 for two empty ones.

    Source: Jaccard, *The distribution of the flora in the alpine zone*, 1912.

    >>> jaccard(torch.tensor([1, 2, 3]), torch.tensor([2, 3, 4]))
    0.5
    """
    shared = int(torch.isin(first, second).sum())
    union = len(first) + len(second) - shared
    return shared / union if union else 1.0


def rules_of(regions: Sequence[Region], bank: ConfigurationBank) -> list[Rule]:
    """The rules that made regions of a bank.

    Raises:
        TypeError: something is no region.
        ValueError: a region is that of another bank, or does not hold its rule.
    """
    rules = []
    for region in regions:
        if not isinstance(region, Region):
            raise TypeError(
                f"regions holds a {type(region).__name__}; give a list of Region"
            )
        region.check_layer(bank.layer_shape, bank.fingerprint)
        if region.rule is None:
            raise ValueError(
                f"{region!r} does not hold the rule that made it; make it with attribute "
                "or attribute_members"
            )
        rules.append(region.rule)
    return rules


def query_states(bank: ConfigurationBank, regions: Sequence[Region]) -> Tensor:
    """Boolean states ``(Q, D)`` of the queries of regions, one or more, of a bank.

    Raises:
        ValueError: a query is neither a bank row nor kept in its region.
    """
    packed = _of_queries(regions, "states", lambda row: bank.rows[row])
    return bits.unpack(packed, bank.n_neurons)


def query_features(bank: ConfigurationBank, regions: Sequence[Region]) -> Tensor:
    """Float activations ``(Q, D)`` of the queries of regions, one or more, of a bank.

    Raises:
        ValueError: as in `query_states`, or the bank holds none.
    """
    return _of_queries(regions, "features", lambda row: bank.features_of([row])[0])


def _of_queries(
    regions: Sequence[Region], name: str, held: Callable[[int], Tensor]
) -> Tensor:
    """What the bank holds of each query, or the region of one that is no bank row."""
    found = []
    for region in regions:
        one = getattr(region, f"query_{name}")
        if region.query is not None:
            one = held(region.query)
        if one is None:
            raise ValueError(
                f"{region!r} does not hold its query's {name}; make it with attribute"
            )
        found.append(one.cpu())
    return torch.stack(found)
