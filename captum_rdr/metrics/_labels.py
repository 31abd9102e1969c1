"""How members of regions share labels that the model never saw."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_rdr._arguments import checked_labels, coded_labels
from captum_rdr.method.region import Region


def purity(regions: Sequence[Region], labels: Any, targets: Any = None) -> Tensor:
    """Share of each region's members, the query left out, that have the query's label.

    Args:
        regions: regions of one bank.
        labels: whole numbers or names ``(N,)``, one for each row of the bank, by position.
        targets: the same ``(Q,)``, the label to count for each region; None for that of
            the query, which must then be a row of the bank.

    Returns:
        float64 tensor ``(Q,)``, NaN for a region without another member than the query.

    Raises:
        TypeError: labels are neither whole numbers nor names.
        ValueError: there are too few labels, or no target for a new input.

    Source: Manning, Raghavan and Schuetze, *Introduction to Information Retrieval*, 16.3.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model = torch.nn.Identity()
    >>> data = torch.tensor([[1.0, 1, -1], [1, 1, 1], [1, -1, 1], [-1, 1, 1]])
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> regions = rdr.attribute_members([0], n_neighbors=2, n_neurons=1)
    >>> regions[0].members
    tensor([0, 1, 2])
    >>> purity(regions, [7, 7, 5, 7])
    tensor([0.5000], dtype=torch.float64)
    """
    n_members, _, n_hits = _counts(regions, labels, targets)
    return n_hits / n_members


def coverage(regions: Sequence[Region], labels: Any, targets: Any = None) -> Tensor:
    """Share of the rows with the query's label that each region holds, the query left out.

    Args:
        regions: as in `purity`.
        labels: as in `purity`.
        targets: as in `purity`.

    Returns:
        float64 tensor ``(Q,)``, NaN where no other row has the label.

    Raises:
        TypeError: as `purity`.
        ValueError: as `purity`.

    Source: the recall of information retrieval; Manning, Raghavan and Schuetze, 8.3.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model = torch.nn.Identity()
    >>> data = torch.tensor([[1.0, 1, -1], [1, 1, 1], [1, -1, 1], [-1, 1, 1]])
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> regions = rdr.attribute_members([0], n_neighbors=2, n_neurons=1)
    >>> coverage(regions, [7, 7, 5, 7])
    tensor([0.5000], dtype=torch.float64)
    """
    _, n_having, n_hits = _counts(regions, labels, targets)
    return n_hits / n_having


def _counts(regions: Sequence[Region], labels: Any, targets: Any) -> Sequence[Tensor]:
    """Numbers of members, of rows with the label, and of members with it.

    The query is none of them; float64 ``(Q,)`` each.
    """
    labels, wanted = _labels_and_targets(regions, labels, targets)
    found = []
    for region, label in zip(regions, wanted, strict=True):
        members = without_query(region.members, region)
        having = without_query((labels == label).nonzero().flatten(), region)
        n_hits = int((labels[members] == label).sum())
        found.append((len(members), len(having), n_hits))
    return torch.tensor(found, dtype=torch.float64).reshape(-1, 3).unbind(1)


def _labels_and_targets(
    regions: Sequence[Region], labels: Any, targets: Any
) -> tuple[Tensor, Tensor]:
    """Labels of the rows, and the label to count for each region.

    Raises:
        TypeError: labels or targets are neither whole numbers nor names.
        ValueError: there are too few labels, or a query has none.
    """
    given = {"labels": labels}
    if targets is not None:
        given["targets"] = targets
    of_rows, *wanted = coded_labels(**given)
    last = max((int(r.members[-1]) for r in regions if len(r.members)), default=-1)
    if last >= len(of_rows):
        raise ValueError(
            f"labels has {len(of_rows)} items, but a region has member {last}; give one "
            "label for each row of the bank"
        )
    if targets is not None:
        return of_rows, checked_labels(wanted[0], "targets", len(regions))
    rows = [region.query for region in regions]
    if None in rows:
        raise ValueError(
            f"region {rows.index(None)} is of a new input, whose label is unknown; give "
            "targets, one label for each region"
        )
    return of_rows, of_rows[torch.tensor(rows, dtype=torch.int64)]


def without_query(rows: Tensor, region: Region) -> Tensor:
    """Rows but the query's own."""
    return rows if region.query is None else rows[rows != region.query]
