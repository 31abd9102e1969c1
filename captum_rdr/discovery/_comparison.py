"""The same data through two models: which regions survive, which are new."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array
from torch import Tensor

from captum_rdr._arguments import check_level, distinct_rows
from captum_rdr.bank import ConfigurationBank
from captum_rdr.discovery._recipe import bank_regions, table
from captum_rdr.method.region import Region

Ints = npt.NDArray[np.int64]

LEAST_JACCARD = 1 / 3
"""Two regions of one size with this Jaccard index share half of their members."""


class Matches(NamedTuple):
    """The best match of each region among the regions of the other bank.

    Attributes:
        match: int64 ``(Q,)``, position of the region that it overlaps most, ties to the
            lower one.
        jaccard: float64 ``(Q,)``, their Jaccard index, shared members over all members.
        chance: float64 ``(Q,)``, the Jaccard index of two random sets of these sizes, at
            their expected overlap.
        p_value: float64 ``(Q,)``, chance that any of the other regions overlaps as
            improbably much, if it was drawn at random (Bonferroni's bound over them).
    """

    match: Tensor
    jaccard: Tensor
    chance: Tensor
    p_value: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Regions of the same instances in two banks, matched by their members.

    A region *survives* in the other bank if it shares at least a third of all members
    with a region there, and more than chance at these sizes.

    Attributes:
        rows: int64 ``(Q,)``, bank rows whose regions were compared.
        regions_a: their regions in the first bank.
        regions_b: their regions in the second bank.
        forward: for each region of the first bank its best match among those of the
            second, p-values corrected for the number of regions (Benjamini-Hochberg).
        backward: for each region of the second bank its best match among those of the
            first.
        level: corrected p-values up to this are more than chance.
    """

    rows: Tensor
    regions_a: tuple[Region, ...]
    regions_b: tuple[Region, ...]
    forward: Matches
    backward: Matches
    level: float

    @property
    def survived(self) -> Tensor:
        """Rows whose region in the first bank has a match in the second, int64."""
        return self.rows[self._matched(self.forward)]

    @property
    def lost(self) -> Tensor:
        """Rows whose region in the first bank has none, int64."""
        return self.rows[~self._matched(self.forward)]

    @property
    def new(self) -> Tensor:
        """Rows whose region in the second bank has none in the first, int64."""
        return self.rows[~self._matched(self.backward)]

    def _matched(self, matches: Matches) -> Tensor:
        enough = matches.jaccard >= LEAST_JACCARD - 1e-12
        return enough & (matches.p_value <= self.level)

    def __repr__(self) -> str:
        both = (self.forward, self.backward)
        regions = (self.regions_a, self.regions_b)
        members = [np.median([len(one.members) for one in some]) for some in regions]
        columns: dict[str, Sequence[Any]] = {
            "": ["a in b", "b in a"],
            "regions": list(map(len, regions)),
            "members": [f"{median:.0f}" for median in members],
            "jaccard": [float(np.median(matches.jaccard)) for matches in both],
            "chance": [float(np.median(matches.chance)) for matches in both],
            "p passed": [int((one.p_value <= self.level).sum()) for one in both],
            "matched": [int(self._matched(matches).sum()) for matches in both],
        }
        title = (
            f"Comparison: {len(self.survived)} regions survived, {len(self.lost)} were lost, "
            f"{len(self.new)} are new (medians of members, jaccard and chance)"
        )
        return table(title, columns)


def compare(
    bank_a: ConfigurationBank,
    bank_b: ConfigurationBank,
    rows: Sequence[int] | Tensor | None = None,
    *,
    level: float = 0.05,
    show_progress: bool = True,
    **choices: Any,
) -> Comparison:
    """Match the regions of the same data in two models, checkpoints or layers.

    Row i of both banks must be the same instance. Neurons need not correspond: regions
    are compared by their members.

    Args:
        bank_a: the first bank, say of the earlier checkpoint.
        bank_b: the second, of as many instances in the same order.
        rows: bank rows whose regions are compared, each once; None for all. A region is
            matched only with regions of these rows.
        level: share of false matches beyond chance that is put up with.
        show_progress: draw progress bars when it takes more than a second.
        **choices: how regions are made in either bank, as in
            `captum_rdr.discovery.subclasses`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the banks differ in length, or an argument is out of range.

    Source: this package; the test of an overlap is the hypergeometric one.

    >>> drawing = torch.Generator().manual_seed(0)
    >>> centers = torch.randn(5, 32, generator=drawing).repeat_interleave(20, 0)
    >>> data = centers + torch.randn(100, 32, generator=drawing) / 2
    >>> model = torch.nn.Identity()
    >>> changed = torch.cat([torch.randn(20, 32, generator=drawing), data[20:]])
    >>> bank_a, bank_b = ConfigurationBank((32,)), ConfigurationBank((32,))
    >>> bank_a.append(data > 0)
    >>> bank_b.append(changed > 0)
    >>> compare(bank_a, bank_b, n_neighbors=8)
    Comparison: 80 regions survived, 20 were lost, 1 are new (medians of members,
    jaccard and chance)
              regions  members  jaccard  chance  p passed  matched
      a in b      100       12    0.900   0.070        80       80
      b in a      100       13    0.909   0.072        99       99
    """
    for name, bank in (("bank_a", bank_a), ("bank_b", bank_b)):
        if not isinstance(bank, ConfigurationBank):
            raise TypeError(
                f"{name} is a {type(bank).__name__}; give a ConfigurationBank, e.g. "
                "rdr.bank"
            )
    if len(bank_a) != len(bank_b):
        raise ValueError(
            f"bank_a has {len(bank_a)} instances, bank_b {len(bank_b)}; fit both on the "
            "same data in the same order"
        )
    check_level(level)
    every = range(len(bank_a)) if rows is None else rows
    picked = distinct_rows(every, len(bank_a), "rows")
    regions_a, regions_b = (
        bank_regions(bank, picked, choices, show_progress=show_progress)
        for bank in (bank_a, bank_b)
    )
    own, n_rows = picked.numpy(), len(bank_a)
    members_a = [region.members for region in regions_a]
    members_b = [region.members for region in regions_b]
    return Comparison(
        picked,
        tuple(regions_a),
        tuple(regions_b),
        _corrected(best_matches(members_a, members_b, own, own, n_rows)),
        _corrected(best_matches(members_b, members_a, own, own, n_rows)),
        level,
    )


def _corrected(matches: Matches) -> Matches:
    """The p-values, corrected for the number of regions."""
    from scipy.stats import false_discovery_control

    adjusted = false_discovery_control(matches.p_value.numpy())
    return matches._replace(p_value=torch.from_numpy(adjusted))


def best_matches(
    sets: Sequence[Tensor],
    others: Sequence[Tensor],
    own: Ints,
    own_of_others: Ints,
    n_rows: int,
) -> Matches:
    """Match each set of bank rows with the other that it overlaps most.

    Every set holds a row of its own by construction, its query, which is no evidence of
    anything: the test takes the own rows of both sets away, and asks how likely random
    sets of what is left of their sizes share as many of the other rows
    (hypergeometric tail, exact).

    Args:
        sets: Q sets of bank rows, ascending.
        others: W such sets.
        own: int64 ``(Q,)``, own row of each set.
        own_of_others: int64 ``(W,)``, own row of each of the others.
        n_rows: number of rows N that sets are drawn from.

    >>> found = best_matches([torch.tensor([0, 1, 2])], [torch.tensor([1, 2, 3])],
    ...                      np.array([0]), np.array([3]), 100)
    >>> float(found.jaccard), float(found.chance), float(found.p_value)
    (0.5, 0.0152..., 0.00021...)
    """
    from scipy.stats import hypergeom

    first, second = incidence(sets, n_rows), incidence(others, n_rows)
    shared = (first @ second.T).tocoo()
    one, other = shared.coords  # of each two sets that share a row
    sizes, other_sizes = (np.diff(matrix.indptr) for matrix in (first, second))
    similarity = shared.data / (sizes[one] + other_sizes[other] - shared.data)
    order = np.lexsort((other, -np.round(similarity, 12), one))
    meeting, starts = np.unique(one[order], return_index=True)
    best = order[starts]  # the first of each set's pairs
    match, jaccard = np.zeros(len(sets), np.int64), np.zeros(len(sets))
    match[meeting], jaccard[meeting] = other[best], similarity[best]
    expected = sizes * other_sizes[match] / n_rows
    chance = expected / (sizes + other_sizes[match] - expected)
    # The own rows are taken away: of both sets, and of what they share.
    holds = first[:, own_of_others][one, other].astype(np.int64)
    is_held = second[:, own].T[one, other].astype(np.int64)
    same = (own[one] == own_of_others[other]).astype(np.int64)
    tails = hypergeom.sf(
        shared.data - (holds + is_held - same) - 1,
        n_rows - 2 + same,
        sizes[one] - 1 - holds + same,
        other_sizes[other] - 1 - is_held + same,
    )
    p_value = np.ones(len(sets))
    np.minimum.at(p_value, one, len(others) * tails)
    return Matches(*map(torch.from_numpy, (match, jaccard, chance, p_value)))


def incidence(sets: Sequence[Tensor], n_rows: int) -> Any:
    """Which rows lie in which sets, ``(Q, N)``."""
    ends = np.cumsum([0, *map(len, sets)])
    rows = torch.cat(list(sets)).numpy()
    return csr_array((np.ones(len(rows)), rows, ends), shape=(len(sets), n_rows))
