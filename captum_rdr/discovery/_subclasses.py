"""Unlabeled subclasses of one class."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from captum_rdr._arguments import check_whole, distinct_rows
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.discovery._recipe import recipe, table
from captum_rdr.discovery._walks import cover, links, reach
from captum_rdr.method.region import Region
from captum_rdr.metrics import significance
from captum_rdr.metrics._explainers import fitted_banks

LINKED = 16
"""Instances of the class that one region links to its own, at most: the most evident."""

AT_MOST = 20
"""Subclasses that are looked for where their number is not given."""

LEAST_GAIN = 0.02
"""Share of the class that a further subclass must newly cover, where none is given."""


@dataclass(frozen=True, eq=False, repr=False)
class Subclass:
    """Instances of a class that share regions.

    Attributes:
        region: the region of the instance that stands for the subclass, its members
            restricted to the class.
        members: int64 ``(M,)``, bank rows of the subclass, ascending.
        exemplars: int64, those with the most evidence for the region, most evident
            first.
        gain: coverage that would be lost without it, see `Subclasses`.
    """

    region: Region
    members: Tensor
    exemplars: Tensor
    gain: float

    def __repr__(self) -> str:
        return (
            f"Subclass({len(self.members)} instances, gain={self.gain:.3f}, "
            f"exemplars={self.exemplars.tolist()}, {self.region!r})"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Subclasses(Sequence[Subclass]):
    """The subclasses of one class.

    Attributes:
        subclasses: the subclasses.
        rows: int64 ``(n,)``, the bank rows of the class, as given.
        labels: int64 ``(n,)``, the number of each row's subclass; -1 for a row that no
            walk leads to any of them.
        coverage: mean likeness of the rows to the instance that stands for their
            subclass, from 0 to 1.
    """

    subclasses: tuple[Subclass, ...]
    rows: Tensor
    labels: Tensor
    coverage: float

    def __getitem__(self, index: Any) -> Any:
        return self.subclasses[index]

    def __len__(self) -> int:
        return len(self.subclasses)

    def __repr__(self) -> str:
        title = (
            f"Subclasses: {len(self)} of {len(self.rows)} instances, coverage "
            f"{self.coverage:.3f}, {int((self.labels < 0).sum())} in none"
        )
        columns = {
            "subclass": range(len(self)),
            "size": [len(one.members) for one in self],
            "gain": [one.gain for one in self],
            "region": [len(one.region.members) for one in self],
            "significance": [one.region.significance or "not tested" for one in self],
            "exemplars": [" ".join(map(str, one.exemplars.tolist())) for one in self],
        }
        return table(title, columns)


def subclasses(
    rdr: RelaxedDecisionRegion,
    class_indices: Sequence[int] | Tensor,
    n_subclasses: int | None = None,
    *,
    walk_length: int = 16,
    n_exemplars: int = 8,
    tested: bool = True,
    show_progress: bool = True,
    **choices: Any,
) -> Subclasses:
    """Find subclasses of a class that nobody labeled.

    1. The region of every instance of the class is found, members restricted to the
       class.
    2. Two instances are linked when one lies in the other's region, among the 16 most
       evident members of the class. A random walk along these links tells how alike two
       instances are: by the cosine between what ``walk_length`` steps from each reach. So
       overlapping regions merge.
    3. The few instances are chosen that stand for all: those whose subclasses cover the
       class best. *Coverage* is the mean likeness of an instance to the one that stands
       for it. Greedy choice with exchanges reaches at least ``1 - 1/e`` (63 %) of the
       best coverage that as many instances can.
    4. Every instance belongs to the subclass of the one that it is most like.

    Args:
        rdr: fitted explainer of one layer.
        class_indices: bank rows of the class, each once: int64 ``(n,)`` or a sequence.
        n_subclasses: how many to find; fewer are found where fewer cover all. None to
            stop before one that newly covers less than 0.02 of the class, and at 20.
        walk_length: steps of the random walk: more merge more.
        n_exemplars: exemplars of each subclass.
        tested: test the regions of the subclasses for significance, corrected for their
            number.
        show_progress: draw progress bars when it takes more than a second.
        **choices: how regions are made, as in
            `captum_rdr.RelaxedDecisionRegion.attribute_members`, by evidence if
            ``weighting`` is left out.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: ``rdr`` is not fitted or explains several layers, or an argument is
            out of range.

    Source: this package; the walk is Coifman and Lafon's (2006), the cover Nemhauser,
    Wolsey and Fisher's (1978).

    >>> drawing = torch.Generator().manual_seed(0)
    >>> centers = torch.randn(4, 32, generator=drawing).repeat_interleave(30, 0)
    >>> data = centers + torch.randn(120, 32, generator=drawing)
    >>> model = torch.nn.Identity()
    >>> rdr = RelaxedDecisionRegion(model, model)
    >>> rdr = rdr.fit(data, keep_features=True, show_progress=False)
    >>> found = subclasses(rdr, range(60), tested=False, n_exemplars=3)
    >>> found.labels.unique_consecutive(return_counts=True)
    (tensor([0, 1]), tensor([30, 30]))
    >>> found
    Subclasses: 2 of 60 instances, coverage 1.000, 0 in none
      subclass  size   gain  region  significance  exemplars
             0    30  0.500      23  not tested    22 0 20
             1    30  0.500      25  not tested    30 53 48
    """
    (bank,) = fitted_banks(rdr)
    rows = distinct_rows(class_indices, len(bank), "class_indices")
    check_whole("walk_length", walk_length)
    check_whole("n_exemplars", n_exemplars)
    if n_subclasses is not None:
        check_whole("n_subclasses", n_subclasses)
    made = rdr.attribute_members(rows, show_progress=show_progress, **recipe(choices))
    parts = reach(links(made, rows, bank, LINKED), walk_length)
    if n_subclasses is None:
        covered = cover(parts, AT_MOST, LEAST_GAIN)
    else:
        covered = cover(parts, n_subclasses, 0.0)
    standing = [made[position] for position in covered.chosen.tolist()]
    if tested:
        standing = significance(standing, bank, show_progress=show_progress)
    labels = torch.from_numpy(covered.labels)
    found = []
    for number, region in enumerate(standing):
        members = rows[labels == number].sort().values
        evidence = region.evidence(bank.states(members))
        exemplars = members[evidence.argsort(descending=True, stable=True)]
        of_class = region.members[torch.isin(region.members, rows)]
        found.append(
            Subclass(
                replace(region, members=of_class),
                members,
                exemplars[:n_exemplars],
                float(covered.gains[number]),
            )
        )
    return Subclasses(tuple(found), rows, labels, covered.coverage)
