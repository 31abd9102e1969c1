"""Membership of any bank's rows in regions, and what regions have in common."""

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region, evidence_rounding


def likeness(region: Region, bank: ConfigurationBank) -> Tensor:
    """How much each bank row is like the region: what ranks rows as members.

    Args:
        region: the region.
        bank: a bank of the same layer, not necessarily the region's own.

    Returns:
        float64 tensor ``(N,)``: evidence in nats for a region made with
        ``weighting="evidence"``, else minus the number of disagreeing principal neurons.
    """
    if region.evidence_cut is None:
        return -bank.disagreements(region.neurons, region.states).double()
    sums = bank.weighted_sum(region.neurons, region.weights[:, None])[:, 0]
    return sums + region.offsets.sum()


def members_in(region: Region, bank: ConfigurationBank) -> Tensor:
    """Rows of any bank of the layer that lie in the region, ascending."""
    if region.evidence_cut is None:
        return bank.members(region.neurons, region.states, int(region.tolerance))
    slack = evidence_rounding(region.weights, region.offsets)
    inside = likeness(region, bank) >= region.evidence_cut - slack
    return inside.nonzero().flatten()


def jaccard(first: Tensor, second: Tensor) -> float:
    """Size of the intersection of two sets over that of their union; 1 for two empty ones.

    Source: Jaccard, *The distribution of the flora in the alpine zone*, 1912.

    >>> jaccard(torch.tensor([1, 2, 3]), torch.tensor([2, 3, 4]))
    0.5
    """
    shared = int(torch.isin(first, second).sum())
    union = len(first) + len(second) - shared
    return shared / union if union else 1.0


def at_rows(bank: ConfigurationBank, rows: Tensor) -> ConfigurationBank:
    """Bank of some of a bank's rows, with their features.

    >>> bank = ConfigurationBank((2,))
    >>> bank.append(torch.tensor([[True, False], [False, False], [True, True]]))
    >>> at_rows(bank, torch.tensor([2, 2])).active_counts
    tensor([2, 2])
    """
    picked = bank.emptied(reserve=len(rows))
    features = None if bank.features is None else bank.features[rows]
    picked.append(bank.rows[rows], features)
    return picked


def targets_of(
    regions: Sequence[Region], labels: Tensor, targets: Tensor | None
) -> Tensor:
    """The label to count for each region: that of its query, unless given.

    Raises:
        TypeError: labels or targets are no whole numbers.
        ValueError: there are too few labels, or a query has none.
    """
    for name, given in (("labels", labels), ("targets", targets)):
        if given is not None and (given.is_floating_point() or given.dim() != 1):
            raise TypeError(
                f"{name} has dtype {given.dtype} and shape {tuple(given.shape)}; give a "
                "whole number for each"
            )
    last = max((int(r.members[-1]) for r in regions if len(r.members)), default=-1)
    if last >= len(labels):
        raise ValueError(
            f"labels has {len(labels)} items, but a region has member {last}; give one "
            "label for each row of the bank"
        )
    if targets is not None:
        if len(targets) != len(regions):
            raise ValueError(
                f"targets has {len(targets)} items for {len(regions)} regions; give one "
                "each"
            )
        return targets
    rows = [region.query for region in regions]
    if None in rows:
        raise ValueError(
            f"region {rows.index(None)} is of a new input, whose label is unknown; give "
            "targets, one label for each region"
        )
    return labels[torch.tensor(rows, dtype=torch.int64)]


def without_query(rows: Tensor, region: Region) -> Tensor:
    """Rows but the query's own."""
    return rows if region.query is None else rows[rows != region.query]
