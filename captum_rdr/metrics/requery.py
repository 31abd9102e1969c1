"""Find regions anew, from the same queries, in another bank or by another rule."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.neighbors import Queries
from captum_rdr.method.region import Region
from captum_rdr.method.regions import regions as construct
from captum_rdr.method.rule import Rule


def rule_of(region: Region) -> Rule:
    """The rule that made a region.

    Raises:
        ValueError: the region does not hold it.
    """
    if region.rule is None:
        raise ValueError(
            f"{region!r} does not hold the rule that made it; make it with attribute or "
            "attribute_members"
        )
    return region.rule


def query_states(bank: ConfigurationBank, regions: Sequence[Region]) -> Tensor:
    """Boolean states ``(Q, D)`` of the regions' queries.

    Raises:
        ValueError: a query is neither a bank row nor kept in its region.
    """
    states = torch.empty(len(regions), bank.n_neurons, dtype=torch.bool)
    for index, region in enumerate(regions):
        if region.query is not None:
            packed = bank.rows[region.query]
        elif region.query_states is not None:
            packed = region.query_states
        else:
            raise ValueError(
                f"{region!r} does not hold its query's states; make it with attribute"
            )
        states[index] = bank.unpacked(packed)[0]
    return states


def states_inside(bank: ConfigurationBank, region: Region, own: Tensor) -> Tensor:
    """Boolean states of all of S: the rows that the bank holds, and a new query.

    Args:
        bank: the bank that the region was found in.
        region: the region, for its S.
        own: bool ``(D,)``, those of the query.
    """
    inside = bank.states(region.neighbors)
    return inside if region.query is not None else torch.cat([inside, own[None]])


def query_features(bank: ConfigurationBank, regions: Sequence[Region]) -> Tensor:
    """Float activations ``(Q, D)`` of the regions' queries.

    Raises:
        ValueError: a query's features are neither in the bank nor kept in its region.
    """
    rows = []
    for region in regions:
        if region.query is not None:
            rows.append(bank.features_of(torch.tensor([region.query]))[0])
        elif region.query_features is not None:
            rows.append(region.query_features)
        else:
            raise ValueError(
                f"{region!r} does not hold its query's features; make it with attribute"
            )
    return torch.stack(rows)


def found_by(
    searched: ConfigurationBank,
    regions: Sequence[Region],
    rules: Sequence[Rule],
    bank: ConfigurationBank,
    *,
    neurons: Tensor | slice = slice(None),
    are_rows: bool = False,
    show_progress: bool = False,
) -> list[Region]:
    """The region of each query by a rule of its own, in batches of equal rules.

    Args:
        searched: the bank to search.
        regions: regions of ``bank``, for their queries.
        rules: one for each.
        bank: the bank that holds the queries.
        neurons: the neurons of ``bank`` that ``searched`` has: bool ``(D,)``.
        are_rows: whether ``searched`` has the rows of ``bank``, so that a query that is
            one there is one here.
        show_progress: draw a progress bar when it takes more than a second.

    Raises:
        ValueError: a region lacks its query's states or features.
    """
    states = query_states(bank, regions)[:, neurons]
    found: list[Region] = []
    for start, stop in _same_rule(rules):
        part, rule = regions[start:stop], rules[start]
        queries = Queries(
            searched.as_packed(states[start:stop]),
            [region.query if are_rows else None for region in part],
            query_features(bank, part)[:, neurons] if rule.needs_features else None,
        )
        found += construct(searched, queries, rule, show_progress=show_progress)
    return found


def _same_rule(rules: Sequence[Rule]) -> list[tuple[int, int]]:
    """Stretches of equal rules; one with given rows stands alone."""
    stretches: list[tuple[int, int]] = []
    for index, rule in enumerate(rules):
        joins = (
            index > 0
            and not isinstance(rule.neighbors, Tensor)
            and not isinstance(rules[index - 1].neighbors, Tensor)
            and rule == rules[index - 1]
        )
        start = stretches.pop()[0] if joins else index
        stretches.append((start, index + 1))
    return stretches


def found_in(
    searched: ConfigurationBank,
    regions: Sequence[Region],
    bank: ConfigurationBank,
    change: Callable[[Rule], Rule] = lambda rule: rule,
    *,
    show_progress: bool = False,
) -> list[Region]:
    """The region of each query in another bank of the same layer.

    Args:
        searched: the bank to search; the queries are inputs to it, not rows.
        regions: regions of ``bank``, for their queries and rules.
        bank: the bank that holds the queries.
        change: makes of a region's rule the one to use.
        show_progress: draw a progress bar when it takes more than a second.

    Raises:
        ValueError: a region lacks its rule or query; its S was given by rows, which
            another bank does not have; or the rule does not fit the bank.
    """
    rules = []
    for region in regions:
        region.check_layer(bank.layer_shape, bank.fingerprint)
        rule = change(rule_of(region))
        if not isinstance(rule.neighbors, str):
            raise ValueError(
                f"{region!r} has neighbors that were given by rows, which another bank "
                'does not have; choose them by distance, e.g. neighbors="configuration"'
            )
        rule.check(searched, 1)
        rules.append(rule)
    return found_by(searched, regions, rules, bank, show_progress=show_progress)
