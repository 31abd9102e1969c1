"""The same data through two models: which regions survive, which are new."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from captum_rdr._arguments import distinct_rows
from captum_rdr.bank import ConfigurationBank
from captum_rdr.discovery._recipe import bank_regions

LEAST_JACCARD = 1 / 3
"""Two regions of one size with this Jaccard index share half of their members."""

LEVEL = 0.05
"""Share of false matches beyond chance that is put up with."""


class Matches(NamedTuple):
    """The best match of each region among the regions of the other bank.

    Attributes:
        match: int64 ``(Q,)``, position in ``rows`` of the one whose region it overlaps
            most, ties to the lower one.
        jaccard: float64 ``(Q,)``, their Jaccard index, shared members over all members.
        p_value: float64 ``(Q,)``, chance that any of the other regions overlaps as
            improbably much, if it was drawn at random (Bonferroni's bound over them),
            corrected for the number of regions (Benjamini and Hochberg).
    """

    match: Tensor
    jaccard: Tensor
    p_value: Tensor

    @property
    def survived(self) -> Tensor:
        """Whether each region has a match that is like it, and more than chance, bool."""
        enough = self.jaccard >= LEAST_JACCARD - 1e-12
        return enough & (self.p_value <= LEVEL)


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Regions of the same instances in two banks, matched by their members.

    A region *survives* in the other bank if it shares at least a third of all members
    with a region there, and more than chance at these sizes.

    Attributes:
        rows: int64 ``(Q,)``, bank rows whose regions were compared.
        forward: for the region of each in the first bank the best match in the second.
        backward: for the region of each in the second bank the best match in the first.
    """

    rows: Tensor
    forward: Matches
    backward: Matches

    @property
    def survived(self) -> Tensor:
        """Rows whose region in the first bank has a match in the second, int64."""
        return self.rows[self.forward.survived]

    @property
    def lost(self) -> Tensor:
        """Rows whose region in the first bank has none, int64."""
        return self.rows[~self.forward.survived]

    @property
    def new(self) -> Tensor:
        """Rows whose region in the second bank has none in the first, int64."""
        return self.rows[~self.backward.survived]

    def __repr__(self) -> str:
        return (
            f"Comparison: {len(self.survived)} regions survived, {len(self.lost)} were lost, "
            f"{len(self.new)} are new (median Jaccard index "
            f"{np.median(self.forward.jaccard):.3f}, back {np.median(self.backward.jaccard):.3f})"
        )


def compare(
    bank_a: ConfigurationBank,
    bank_b: ConfigurationBank,
    rows: Sequence[int] | Tensor | None = None,
    *,
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
    Comparison: 80 regions survived, 20 were lost, 1 are new (median Jaccard index 0.900,
    back 0.909)
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
    every = range(len(bank_a)) if rows is None else rows
    picked = distinct_rows(every, len(bank_a), "rows")
    sets = []
    for bank in (bank_a, bank_b):
        made = bank_regions(bank, picked, choices, show_progress=show_progress)
        sets.append(incidence([region.members for region in made], len(bank)))
    a, b = sets
    return Comparison(picked, best_matches(a, b, picked), best_matches(b, a, picked))


def incidence(sets: Sequence[Tensor], n_rows: int) -> Any:
    """Which bank rows lie in which sets, a sparse array ``(Q, N)``."""
    ends = np.cumsum([0, *map(len, sets)])
    rows = torch.cat(list(sets)).numpy()
    return csr_array((np.ones(len(rows)), rows, ends), shape=(len(sets), n_rows))


def best_matches(sets: Any, others: Any, own: Tensor) -> Matches:
    """Match each set of bank rows with the other that it overlaps most.

    Every set holds a row of its own by construction, its query, which is no evidence of
    anything: the test takes the own rows of both sets away, and asks how likely random
    sets of what is left of their sizes share as many of the other rows
    (hypergeometric tail, exact).

    Args:
        sets: which rows lie in each of Q sets, sparse ``(Q, N)``.
        others: the same for Q others.
        own: int64 ``(Q,)``, own row of each set, and of the other at its place.

    >>> sets = [torch.tensor([0, 1, 2]), torch.tensor([7])]
    >>> others = [torch.tensor([0, 1, 2, 3]), torch.tensor([7, 8])]
    >>> found = best_matches(
    ...     incidence(sets, 100), incidence(others, 100), torch.tensor([0, 7]))
    >>> found.jaccard.tolist(), found.survived.tolist()
    ([0.75, 0.5], [True, False])
    """
    from scipy.stats import false_discovery_control, hypergeom

    shared, rows = (sets @ others.T).tocoo(), own.numpy()
    one, other = shared.coords  # of each two sets that share a row
    size, other_size = sets.sum(1)[one], others.sum(1)[other]
    overlaps = shared.data / (size + other_size - shared.data)
    overlaps = csr_array((overlaps, (one, other)), shape=shared.shape)
    # The own rows are taken away: of both sets, and of what they share.
    holds, is_held = sets[:, rows][one, other], others[:, rows][other, one]
    same = one == other
    tails = hypergeom.sf(
        shared.data - (holds + is_held - same) - 1,
        sets.shape[1] - 2 + same,
        size - 1 - holds + same,
        other_size - 1 - is_held + same,
    )
    p_value = np.ones(len(rows))
    np.minimum.at(p_value, one, len(rows) * tails)
    return Matches(
        torch.from_numpy(overlaps.argmax(axis=1)).long(),
        torch.from_numpy(overlaps.max(axis=1).toarray()),
        torch.from_numpy(false_discovery_control(p_value)),
    )
