"""How far regions depend on choices and data that should not matter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.method.regions import members as members_in
from captum_rdr.metrics._labels import counted, labels_and_targets
from captum_rdr.metrics._regions import found_in, jaccard


@dataclass(frozen=True, eq=False, repr=False)
class Stability:
    """Regions after one change each, compared with the given ones.

    Attributes:
        neurons: for each change float64 ``(Q,)``, Jaccard index of the principal
            neurons; NaN where neurons do not correspond.
        members: for each change float64 ``(Q,)``, Jaccard index of the members.
    """

    neurons: dict[str, Tensor]
    members: dict[str, Tensor]

    def __repr__(self) -> str:
        width = max(map(len, self.members), default=0)
        lines = [f"{'Jaccard index of':{width}}  neurons  members"]
        for name, members in self.members.items():
            neurons = float(self.neurons[name].mean())
            lines.append(f"{name:{width}}  {neurons:7.3f}  {members.mean():7.3f}")
        return "\n".join(lines)


def stability(
    regions: Sequence[Region],
    bank: ConfigurationBank,
    *,
    n_neighbors: Sequence[int] = (),
    n_neurons: Sequence[int] = (),
    n_bootstraps: int = 5,
    others: Mapping[str, Sequence[Region]] | None = None,
    generator: torch.Generator | None = None,
    show_progress: bool = True,
) -> Stability:
    """Compare regions with those that other choices give for the same queries.

    Members are compared over the rows of ``bank``, in whatever bank a region was found.

    Args:
        regions: regions of ``bank``; the changes start from their own rules.
        bank: the bank they were found in.
        n_neighbors: sizes k of S to try.
        n_neurons: numbers t of principal neurons to try.
        n_bootstraps: banks to draw, each as many rows of ``bank`` with replacement.
        others: named regions of the same queries from other models, say one trained from
            another seed, over the same data in the same order; only members are compared.
        generator: draws the bootstrap banks; None for one seeded with 0.
        show_progress: draw a progress bar when it takes more than a second.

    Raises:
        ValueError: a region is that of another bank, lacks its rule, or its S was given
            by rows; a size is out of range; or ``others`` has another number of regions.

    Source: Kalousis, Prados and Hilario, *Stability of feature selection algorithms*,
    Knowledge and Information Systems 2007.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> drawing = torch.Generator().manual_seed(0)
    >>> centers = torch.randn(6, 64, generator=drawing).repeat_interleave(30, 0)
    >>> data = centers + torch.randn(180, 64, generator=drawing) / 2
    >>> model = torch.nn.Identity()
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> regions = rdr.attribute_members(range(0, 180, 9), n_neurons=5)
    >>> stability(regions, rdr.bank, n_neighbors=[6, 12], n_neurons=[10], n_bootstraps=2)
    Jaccard index of  neurons  members
    n_neighbors=6     0.843    0.886
    n_neighbors=12    0.748    0.854
    n_neurons=10      0.500    0.798
    bootstrap 1       0.601    0.778
    bootstrap 2       0.520    0.779
    """
    generator = generator or torch.Generator().manual_seed(0)
    changes: dict[str, dict[str, Any]] = {
        **{f"n_neighbors={k}": {"n_neighbors": k} for k in n_neighbors},
        **{f"n_neurons={t}": {"n_neurons": t} for t in n_neurons},
        **{f"bootstrap {i + 1}": {} for i in range(n_bootstraps)},
    }
    progress = tqdm(changes.items(), "Varying", disable=not show_progress, delay=1)
    own_neurons = [region.neurons for region in regions]
    own = [region.members for region in regions]
    neurons, members = {}, {}
    for name, change in progress:
        searched = bank
        if not change:
            rows = torch.randint(len(bank), (len(bank),), generator=generator)
            searched = bank.take(rows).to(bank.device)
        again = found_in(searched, regions, bank, **change)
        neurons[name] = _jaccards(own_neurons, [region.neurons for region in again])
        members[name] = _jaccards(own, members_in(again, bank))
    for name, theirs in (others or {}).items():
        if len(theirs) != len(regions):
            raise ValueError(
                f"others[{name!r}] has {len(theirs)} regions for {len(regions)}; give "
                "those of the same queries"
            )
        neurons[name] = torch.full((len(regions),), torch.nan, dtype=torch.float64)
        members[name] = _jaccards(own, [region.members for region in theirs])
    return Stability(neurons, members)


def _jaccards(sets: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    values = [jaccard(one, other) for one, other in zip(sets, others, strict=True)]
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True, eq=False, repr=False)
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
    labels: Any,
    targets: Any = None,
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
        labels: as in `captum_rdr.metrics.purity`.
        targets: as there.
        generator: splits the rows; None for one seeded with 0.
        show_progress: draw a progress bar when it takes more than a second.

    Raises:
        TypeError: labels are neither whole numbers nor names.
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
    labels, wanted = labels_and_targets(regions, labels, targets)
    generator = generator or torch.Generator().manual_seed(0)
    order = torch.randperm(len(bank), generator=generator)
    half = len(bank) // 2
    rows = (order[:half].sort().values, order[half:].sort().values)
    fitted, held_out = (bank.take(part).to(bank.device) for part in rows)
    again = found_in(fitted, regions, bank, show_progress=show_progress)
    counts = [
        [
            counted(labels, label, region, of_part, of_part[inside])
            for region, label, inside in zip(
                regions, wanted, members_in(again, part), strict=True
            )
        ]
        for part, of_part in zip((fitted, held_out), rows, strict=True)
    ]
    by_part = torch.tensor(counts, dtype=torch.float64).reshape(2, -1, 4)
    _, n_members, n_having, n_hits = by_part.movedim(1, 0).unbind(2)
    return Generalization(n_hits / n_members, n_hits / n_having, n_members.long())
