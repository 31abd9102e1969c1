"""Purity of a number of rows that are ranked for each query: by evidence, or by distance."""

from collections.abc import Sequence

import torch
from torch import Tensor

from captum_rdr import ConfigurationBank, Region, RelaxedDecisionRegion
from captum_rdr.method.regions import evidence
from captum_rdr.method.rule import Metric


def by_evidence(regions: Sequence[Region], bank: ConfigurationBank) -> Tensor:
    """All rows, the most evident for each region first, ties to the lower row."""
    return evidence(regions, bank).argsort(descending=True, stable=True)


def by_distance(
    rdr: RelaxedDecisionRegion, queries: Tensor, size: int, metric: Metric
) -> list[Tensor]:
    """Each query's row and the nearest others, one more than ``size`` in all."""
    found: list[Region] = rdr.attribute_members(
        queries,
        size + 1,
        1,
        weighting="evidence",
        neighbors=metric,
        show_progress=False,
    )
    return [region.neighbors for region in found]


def precision(
    ranked: Tensor | Sequence[Tensor], queries: Tensor, labels: Tensor, size: int
) -> Tensor:
    """Share of the first ``size`` rows but the query's own that have its label.

    Args:
        ranked: for each query bank rows, best first.
        queries: int64 ``(Q,)``, the queries' own rows.
        labels: int64 ``(N,)``.
        size: rows to count, the query left out.

    Returns:
        float64 ``(Q,)``.
    """
    shares = []
    for rows, query in zip(ranked, queries.tolist(), strict=True):
        taken = rows[rows != query][:size]
        shares.append(float((labels[taken] == labels[query]).double().mean()))
    return torch.tensor(shares, dtype=torch.float64)
