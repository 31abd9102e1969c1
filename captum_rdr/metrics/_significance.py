"""Whether regions are more than chance: split the neurons, find on one half, judge on
the other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_rdr._arguments import check_level, check_whole
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region, Significance
from captum_rdr.method.rule import Rule
from captum_rdr.metrics._regions import found_by, query_states, rules_of

Ints = npt.NDArray[np.int64]

_BLOCK_BYTES = 1 << 26  # of states, distances or random orders held at a time
_SMALLEST_LOG = -700.0  # of a p-value, which is never quite 0


def significance(
    regions: Sequence[Region],
    bank: ConfigurationBank,
    *,
    level: float = 0.05,
    n_permutations: int = 999,
    generator: torch.Generator | None = None,
    show_progress: bool = True,
) -> list[Region]:
    """Test whether regions are more than chance finds, corrected for their number.

    The layer's neurons are split in two halves at random: whole units of the first
    dimension that has two or more (channels, tokens), since neighboring positions of one
    feature map are alike in any image. Each region is found anew from its query, by its
    own rule, on the first half: neighbors S, principal neurons and members. In the other
    half, S's consensus is the state of most of S (ties go to the query), and each member
    outside S agrees with it in some share of the neurons. The test compares their mean
    with that of random sets of as many rows outside S. If neurons are independent, the
    members are such a random set, and the p-value is exact.

    ``p = (1 + as good or better) / (1 + n_permutations)``. Where no random set is as
    good, that is all that sampling can say, and Hoeffding's bound may put p lower: still
    a valid p-value at every level, and fine enough to correct for thousands of regions.

    The p-values are adjusted for the number of regions by the method of Benjamini and
    Hochberg: of the regions that pass, at most a share of ``level`` are chance finds, on
    average.

    Args:
        regions: regions of ``bank``, of its rows or of inputs.
        bank: the bank they were found in.
        level: adjusted p-values up to this pass.
        n_permutations: number of random sets.
        generator: splits the neurons and draws the sets; None for one seeded with 0.
        show_progress: draw progress bars when it takes more than a second.

    Returns:
        the regions with ``region.significance`` set. Only the adjusted p-value depends
        on what other regions are tested; that of a region without a member outside S is 1.

    Raises:
        TypeError: something is no region.
        ValueError: a region is that of another bank or lacks its rule; ``level`` or
            ``n_permutations`` is out of range; the layer has a single neuron.

    Source: sample splitting, Cox, *A note on data-splitting for the evaluation of
    significance levels*, Biometrika 1975; Hoeffding, *Probability inequalities for sums
    of bounded random variables*, JASA 1963, Theorem 4; Benjamini and Hochberg,
    *Controlling the false discovery rate*, J. R. Stat. Soc. B 1995.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> drawing = torch.Generator().manual_seed(0)
    >>> centers = torch.randn(6, 64, generator=drawing).repeat_interleave(30, 0)
    >>> data = centers + torch.randn(180, 64, generator=drawing) / 2
    >>> data[-1] = torch.randn(64, generator=drawing)  # like nothing else
    >>> model = torch.nn.Identity()
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> regions = rdr.attribute_members([0, 179], n_neurons=5)
    >>> for region in significance(regions, rdr.bank, show_progress=False):
    ...     print(region.significance)
    adjusted p=...
    not significant: adjusted p=0.23
    """
    from scipy.stats import false_discovery_control

    check_level(level)
    check_whole("n_permutations", n_permutations)
    if not regions:
        return []
    split = split_and_find(regions, bank, generator, show_progress=show_progress)
    reached = as_good_by_chance(split, n_permutations, show_progress=show_progress)
    tests = [
        Significance(
            p_value=_p_value(region, judgment, count, n_permutations),
            effect=judgment.effect,
            n_outside=len(judgment.picked),
            level=level,
            agreement=judgment.agreement,
            expected=judgment.expected,
        )
        for region, judgment, count in zip(regions, judge(split), reached, strict=True)
    ]
    adjusted = false_discovery_control([test.p_value for test in tests])
    return [
        replace(region, significance=replace(test, adjusted_p_value=float(value)))
        for region, test, value in zip(regions, tests, adjusted, strict=True)
    ]


@dataclass(frozen=True)
class Split:
    """Regions that one half of the neurons found, for the other half to judge.

    Attributes:
        found: the regions.
        judging: bank of the neurons that judge.
        own: bool ``(Q, D')``, states of the queries in these.
        seed: of what is drawn at random.
    """

    found: list[Region]
    judging: ConfigurationBank
    own: Tensor
    seed: int


def split_and_find(
    regions: Sequence[Region],
    bank: ConfigurationBank,
    generator: torch.Generator | None = None,
    *,
    show_progress: bool = False,
) -> Split:
    """Split the neurons and find each region anew from its query on one half.

    Args:
        regions: regions of ``bank``, one or more.
        bank: the whole bank.
        generator: splits the neurons; None for one seeded with 0.
        show_progress: draw a progress bar when it takes more than a second.
    """
    rules = rules_of(regions, bank)
    generator = generator or torch.Generator().manual_seed(0)
    finding = split_neurons(bank.layer_shape, generator)
    with_features = any(rule.needs_features for rule in rules)
    searched = _part(bank, finding, with_features=with_features)
    found = found_by(
        searched,
        regions,
        [_for_fewer_neurons(rule, searched.n_neurons) for rule in rules],
        bank,
        neurons=finding,
        show_progress=show_progress,
    )
    own = query_states(bank, regions)[:, ~finding]
    seed = int(torch.randint(1 << 62, (), generator=generator))
    return Split(found, _part(bank, ~finding), own, seed)


def split_neurons(layer_shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Choose the half of the neurons that finds regions, in whole units.

    Args:
        layer_shape: shape of the layer's output per instance.
        generator: draws the units.

    Returns:
        bool tensor ``(D,)``: true for the neurons of the drawn half of the units, the
        smaller one if their number is odd.

    Raises:
        ValueError: the layer has a single neuron.

    >>> split_neurons(torch.Size([3, 2]), torch.Generator().manual_seed(0)).reshape(3, 2)
    tensor([[False, False],
            [False, False],
            [ True,  True]])
    """
    axis = next((axis for axis, size in enumerate(layer_shape) if size > 1), None)
    if axis is None:
        raise ValueError(
            f"the layer has shape {tuple(layer_shape)}; a single neuron cannot be split "
            "into a half that finds regions and a half that judges them"
        )
    size = layer_shape[axis]
    chosen = torch.zeros(size, dtype=torch.bool)
    chosen[torch.randperm(size, generator=generator)[: size // 2]] = True
    shape = [size if i == axis else 1 for i in range(len(layer_shape))]
    return chosen.reshape(shape).expand(layer_shape).flatten()


def _part(
    bank: ConfigurationBank, neurons: Tensor, *, with_features: bool = False
) -> ConfigurationBank:
    """A bank of some of the neurons, bool ``(D,)``."""
    part = ConfigurationBank((int(neurons.sum()),), reserve=len(bank))
    step = max(1, _BLOCK_BYTES // bank.n_neurons)
    for rows in torch.split(torch.arange(len(bank)), step):
        features = bank.features_of(rows)[:, neurons] if with_features else None
        part.append(bank.states(rows)[:, neurons], features)
    return part.to(bank.device)


def _for_fewer_neurons(rule: Rule, n_neurons: int) -> Rule:
    """The rule, with no more principal neurons than there are."""
    if rule.n_neurons is None:
        return rule
    n_neurons = min(rule.n_neurons, n_neurons)
    tolerance = rule.tolerance
    if not rule.is_evidence:
        tolerance = min(int(tolerance), n_neurons - 1)
    return replace(rule, n_neurons=n_neurons, tolerance=tolerance)


@dataclass(frozen=True)
class Judgment:
    """What the judging neurons say of one region.

    Attributes:
        agreements: int64 ``(N',)``, for each bank row outside S the number of judging
            neurons in which it agrees with S's consensus.
        picked: int64, positions in it of the region's members.
        n_judging: number of judging neurons.
    """

    agreements: Ints
    picked: Ints
    n_judging: int

    @property
    def total(self) -> int:
        """Agreements of all members outside S together."""
        return int(self.agreements[self.picked].sum())

    @property
    def agreement(self) -> float | None:
        """Mean share of judging neurons in which members outside S agree with S."""
        size = len(self.picked)
        return self.total / (size * self.n_judging) if size else None

    @property
    def expected(self) -> float | None:
        """That share for all rows outside S."""
        everyone = self.agreements
        return float(everyone.mean()) / self.n_judging if len(everyone) else None

    @property
    def effect(self) -> float:
        """How far the agreement lies above chance, in standard deviations.

        The deviation is that of the mean of a set of the same size, drawn without
        replacement from the rows outside S; 0 where nothing can vary.
        """
        size, everyone = len(self.picked), len(self.agreements)
        if not 0 < size < everyone:
            return 0.0
        variance = float(self.agreements.var()) / size * (everyone - size)
        deviation = (variance / (everyone - 1)) ** 0.5
        away = self.total / size - float(self.agreements.mean())
        return away / deviation if deviation > 0 else 0.0

    def as_good(self, orders: npt.NDArray[np.int32]) -> int:
        """How many random sets of as many rows agree at least as much as the members.

        Args:
            orders: random orders of the rows outside S, each at least as long as the set,
                or as the rows that it leaves out, if these are fewer.
        """
        size, everyone = len(self.picked), len(self.agreements)
        drawn = min(size, everyone - size)
        sums = self.agreements[orders[:, :drawn]].sum(1)
        if drawn < size:
            sums = self.agreements.sum() - sums
        return int((sums >= self.total).sum())


def judge(split: Split) -> Iterator[Judgment]:
    """Judge each region, some at a time."""
    bank = split.judging
    step = max(1, _BLOCK_BYTES // (8 * len(bank)))
    for start in range(0, len(split.found), step):
        some = split.found[start : start + step]
        owns = split.own[start : start + step]
        wanted = [_consensus(bank, *pair) for pair in zip(some, owns, strict=True)]
        distances = bank.distances(torch.stack(wanted))
        for region, away in zip(some, distances, strict=True):
            outside = torch.ones(len(bank), dtype=torch.bool)
            outside[region.neighbors] = False
            is_member = torch.zeros(len(bank), dtype=torch.bool)
            is_member[region.members] = True
            yield Judgment(
                (bank.n_neurons - away[outside]).numpy(),
                is_member[outside].nonzero().flatten().numpy(),
                bank.n_neurons,
            )


def _consensus(bank: ConfigurationBank, region: Region, own: Tensor) -> Tensor:
    """The state ``(D',)`` that most of S have in each neuron; ties go to the query."""
    inside = bank.states(region.neighbors)
    if region.query is None:
        inside = torch.cat([inside, own[None]])
    active = inside.sum(0)
    return torch.where(2 * active == len(inside), own, 2 * active > len(inside))


def as_good_by_chance(
    split: Split, n_permutations: int, *, show_progress: bool = False
) -> Ints:
    """How many random sets agree with each region's S at least as much as its members.

    The regions are judged anew for every block of permutations, so that few orders are
    held. Order i is the same whatever else is tested.
    """
    longest = 1
    for region in split.found:
        everyone = len(split.judging) - len(region.neighbors)
        size = _n_outside(region)
        longest = max(longest, min(size, everyone - size))
    block = max(1, _BLOCK_BYTES // (4 * longest))
    reached = np.zeros(len(split.found), np.int64)
    for start in range(0, n_permutations, block):
        numbers = range(start, min(start + block, n_permutations))
        orders = cache(partial(_orders, longest, split.seed, numbers))
        judged = tqdm(
            judge(split), "Testing", len(reached), disable=not show_progress, delay=1
        )
        reached += [one.as_good(orders(len(one.agreements))) for one in judged]
    return reached


def _orders(
    longest: int, seed: int, numbers: range, n_rows: int
) -> npt.NDArray[np.int32]:
    """Random orders of rows, cut after the longest needed; order i is always the same."""
    orders = np.empty((len(numbers), min(longest, n_rows)), np.int32)
    for index, number in enumerate(numbers):
        generator = torch.Generator().manual_seed((seed + number) % (1 << 63))
        order = torch.randperm(n_rows, generator=generator)
        orders[index] = order[: orders.shape[1]].numpy()
    return orders


def _n_outside(region: Region) -> int:
    """Number of members outside S."""
    return int((~torch.isin(region.members, region.neighbors)).sum())


def _p_value(
    region: Region, judgment: Judgment, as_good: int, n_permutations: int
) -> float:
    """The p-value; 1 without a member outside S, in the whole bank or on one half."""
    if not len(judgment.picked) or not _n_outside(region):
        return 1.0
    sampled = float(1 + as_good) / (1 + n_permutations)
    return sampled if as_good else min(sampled, hoeffding_bound(judgment))


def hoeffding_bound(judgment: Judgment) -> float:
    """Upper bound on the chance that a random set agrees as much as the members do.

    Sums of draws without replacement are no more spread than with it, so that
    ``exp(m (K(s) - s T))`` bounds the chance for every ``s >= 0``, with K the log of the
    mean of ``exp(s agreement)`` over the rows outside S and T the mean agreement of the m
    members: Hoeffding (1963), Theorem 4.

    >>> hoeffding_bound(Judgment(np.array([0, 0, 0, 4]), np.array([3]), 4))
    0.25
    """
    from scipy.optimize import minimize_scalar

    counts = np.bincount(judgment.agreements)
    values = np.flatnonzero(counts)
    size, target = len(judgment.picked), judgment.total / len(judgment.picked)
    away, shares = values - target, counts[values] / counts.sum()
    lowest, highest = float(away[0]), float(away[-1])
    if highest <= 0:  # every member has the largest agreement of all
        return float(shares[-1] ** size)

    def log_mean(slope: float) -> float:
        # The largest exponent is taken out, so that nothing overflows.
        return float(
            np.log(shares @ np.exp(slope * (away - highest))) + slope * highest
        )

    # From here on the largest agreement alone outweighs all below the target.
    steepest = np.log1p(-lowest / (shares[-1] * highest)) / highest
    least = minimize_scalar(log_mean, bounds=(0.0, float(steepest))).fun
    return float(np.exp(np.clip(size * least, _SMALLEST_LOG, 0.0)))
