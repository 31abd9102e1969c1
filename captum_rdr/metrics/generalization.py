"""Whether a region means the same on data that did not make it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.metrics.membership import at_rows, members_in, targets_of
from captum_rdr.metrics.requery import found_in


@dataclass(frozen=True)
class Generalization:
    """Purity and coverage of regions on the rows that made them and on others.

    Attributes:
        purity: float64 ``(Q, 2)``, share of members with the query's label: among the rows
            that the region was found in, and among the held-out ones; NaN without a
            member.
        coverage: float64 ``(Q, 2)``, share of the rows with that label that are members.
        n_members: int64 ``(Q, 2)``.
    """

    purity: Tensor
    coverage: Tensor
    n_members: Tensor

    def __repr__(self) -> str:
        inside, held_out = self.purity.nanmean(0).tolist()
        covered, also = self.coverage.nanmean(0).tolist()
        return (
            f"Generalization({len(self.purity)} regions: purity {inside:.3f}, held out "
            f"{held_out:.3f}; coverage {covered:.3f}, held out {also:.3f})"
        )


def generalization(
    regions: Sequence[Region],
    bank: ConfigurationBank,
    labels: Tensor,
    targets: Tensor | None = None,
    *,
    generator: torch.Generator | None = None,
    show_progress: bool = True,
) -> Generalization:
    """Find each region anew in one half of the bank's rows, and tell members in the other.

    The rows are split at random. The query belongs to S but to neither half: it is left
    out of what is counted.

    Args:
        regions: regions of ``bank``; each is found by its own rule.
        bank: the bank.
        labels: int64 ``(N,)``, one for each row of the bank.
        targets: int64 ``(Q,)``, the label to count for each region; None for that of the
            query, which must then be a row of the bank.
        generator: splits the rows; None for one seeded with 0.
        show_progress: draw a progress bar when it takes more than a second.

    Raises:
        TypeError: labels are no whole numbers.
        ValueError: a region is that of another bank, lacks its rule, or its S was given
            by rows; there are too few rows or labels.

    Source: hold-out validation; Hastie, Tibshirani and Friedman, *The Elements of
    Statistical Learning*, 7.2.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> drawing = torch.Generator().manual_seed(0)
    >>> labels = torch.arange(6).repeat_interleave(30)
    >>> data = torch.randn(6, 64, generator=drawing)[labels]
    >>> data = data + torch.randn(180, 64, generator=drawing) / 2
    >>> model = torch.nn.Identity()
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> regions = rdr.attribute_members(range(0, 180, 9), n_neurons=5)
    >>> generalization(regions, rdr.bank, labels)
    Generalization(20 regions: purity 1.000, held out 1.000; coverage 0.793, held out
     0.794)
    """
    wanted = targets_of(regions, labels, targets)
    generator = generator or torch.Generator().manual_seed(0)
    order = torch.randperm(len(bank), generator=generator)
    half = len(bank) // 2
    rows = (order[:half].sort().values, order[half:].sort().values)
    fitted, held_out = (at_rows(bank, part) for part in rows)
    progress = tqdm(
        found_in(fitted, regions, bank, show_progress=show_progress),
        total=len(regions),
        desc="Holding out",
        unit="region",
        disable=not show_progress,
        delay=1,
    )
    counted = [
        [
            _counted(again, part, at, region.query, labels, label)
            for part, at in zip((fitted, held_out), rows, strict=True)
        ]
        for again, region, label in zip(progress, regions, wanted, strict=True)
    ]
    table = torch.tensor(counted, dtype=torch.float64).reshape(-1, 2, 3)
    purity, coverage, n_members = table.unbind(2)
    return Generalization(purity, coverage, n_members.long())


def _counted(
    region: Region,
    bank: ConfigurationBank,
    rows: Tensor,
    query: int | None,
    labels: Tensor,
    label: Tensor,
) -> tuple[float, float, int]:
    """Purity, coverage and number of a region's members among some rows."""
    members = rows[members_in(region, bank)]
    having = rows[labels[rows] == label]
    if query is not None:
        members, having = members[members != query], having[having != query]
    same = labels[members] == label
    covered = float(same.sum()) / len(having) if len(having) else torch.nan
    return float(same.double().mean()), covered, len(members)
