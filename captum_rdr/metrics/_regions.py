"""Regions of the same queries on some of the neurons."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from captum_rdr.bank import ConfigurationBank, bits
from captum_rdr.method.neighbors import Queries
from captum_rdr.method.region import Region
from captum_rdr.method.regions import regions as construct
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


def found_by(
    searched: ConfigurationBank,
    regions: Sequence[Region],
    rules: Sequence[Rule],
    bank: ConfigurationBank,
    neurons: Tensor,
    show_progress: bool,
) -> list[Region]:
    """The region of each query by a rule of its own, in batches of equal rules.

    Args:
        searched: a bank of some of the neurons of ``bank``, with the same rows.
        regions: regions of ``bank``, for their queries.
        rules: one for each.
        bank: the bank that holds the queries.
        neurons: bool ``(D,)``, the neurons of ``bank`` that ``searched`` has.
        show_progress: draw a progress bar when it takes more than a second.

    Raises:
        ValueError: a region lacks its query's states or features.
    """

    def key(pair: tuple[Region, Rule]) -> Any:
        # Given rows are those of one query: such a rule stands alone.
        region, rule = pair
        return id(region) if isinstance(rule.neighbors, Tensor) else rule

    found: list[Region] = []
    of_rows = bank.features_of
    for _, group in groupby(zip(regions, rules, strict=True), key):
        some, (rule, *_) = zip(*group, strict=True)
        states = query_states(bank, some)[:, neurons]
        packed = bits.padded(states, searched.layer_shape).to(searched.device)
        features = None
        if rule.needs_features:
            features = _of_queries(some, "features", lambda row: of_rows([row])[0])
            features = features[:, neurons]
        queries = Queries(packed, [region.query for region in some], features)
        found += construct(searched, queries, rule, show_progress=show_progress)
    return found
