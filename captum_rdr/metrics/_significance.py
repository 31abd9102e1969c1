"""Whether regions are more than chance: split the neurons, find on one half, judge on
the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_rdr._arguments import check_level, check_whole
from captum_rdr.bank import ConfigurationBank, bits
from captum_rdr.method.neighbors import Queries
from captum_rdr.method.region import Region, Significance
from captum_rdr.method.regions import regions as construct
from captum_rdr.method.rule import Rule
from captum_rdr.metrics._coherence import Activity, coherence, votes_of
from captum_rdr.metrics._regions import query_features, query_states, rules_of
from captum_rdr.metrics._units import split_neurons, units_of

Ints = npt.NDArray[np.int64]
Finder = Callable[[Tensor], tuple[ConfigurationBank, list[Region]]]
Orders = npt.NDArray[np.int32]

_BLOCK_BYTES = 1 << 26  # of states, or of what random sets agree, held at a time
_SMALLEST_LOG = -700.0  # of a p-value, which is never quite 0
_FINE = 1 << 10  # parts of an agreement, as whole numbers, so that sums are exact


def significance(
    regions: Sequence[Region],
    bank: ConfigurationBank,
    *,
    channel_axis: int | None = None,
    level: float = 0.05,
    n_permutations: int = 999,
    generator: torch.Generator | None = None,
    show_progress: bool = True,
) -> list[Region]:
    """Test whether regions are more than chance finds, corrected for their number.

    The layer's neurons are split in two halves at random: whole channels, since
    neighboring positions of one feature map are alike in any image. Each region is found
    anew from its query, by its own rule, on the first half: neighbors S, principal neurons
    and members. In the other half, S's consensus is the state of most of S (ties go to the
    query), and each member outside S agrees with it in some share of the neurons. What
    an instance's overall activity explains of that is taken off: instances in which
    hardly a neuron is active agree with each other, whatever they show. The test compares
    the members' mean with that of random sets of as many rows outside S. If channels are
    independent, the members are such a random set, and the p-value is exact.

    ``p = (1 + better + some of those as good) / (1 + n_permutations)``: how many of those
    as good count is drawn at random, so that p is uniform where there is no concept, also
    with many ties. Where no random set is as good, that is all that sampling can say, and
    Hoeffding's bound may put p lower: still a valid p-value at every level, and fine
    enough to correct for thousands of regions.

    Many members make a small p of a small effect, so a second number says how much the
    members have in common: ``coherence``, see `captum_rdr.metrics.Significance`. A
    significant region whose coherence is below 0.55 is *a mixture* and does not pass.

    *Not testable* is a region without a member outside S, in the whole bank or on the
    first half, one that holds every row outside S, and one whose neurons cannot be
    split: there is a single neuron or channel, or nobody says which axis holds channels,
    and the axis that was assumed (the first) holds units that are alike because of their
    place.

    The p-values are adjusted for the number of regions by the method of Benjamini and
    Hochberg: of the regions that pass, at most a share of ``level`` are chance finds, on
    average.

    Args:
        regions: regions of ``bank``, of its rows or of inputs.
        bank: the bank they were found in.
        channel_axis: axis of ``bank.layer_shape`` that holds channels, or 0 for a layer
            of one dimension whose neurons are units of their own; None for what the bank
            knows, or else the first axis that has two entries or more.
        level: adjusted p-values up to this pass.
        n_permutations: number of random sets.
        generator: splits the neurons and draws the sets; None for one seeded with 0.
        show_progress: draw progress bars when it takes more than a second.

    Returns:
        the regions with ``region.significance`` set. Only the adjusted p-value depends
        on what other regions are tested; a region that is not testable has p = 1 and does
        not count among those that are corrected for.

    Raises:
        TypeError: something is no region.
        ValueError: a region is that of another bank or lacks its rule; ``channel_axis``,
            ``level`` or ``n_permutations`` is out of range.

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
    adjusted p=8.5e-07
    a mixture: coherence 0.25, adjusted p=0.03
    """
    rules = rules_of(regions, bank)
    find = partial(found_anew, regions, rules, bank, show_progress=show_progress)
    return judged_by(
        regions,
        bank,
        find,
        channel_axis=channel_axis,
        level=level,
        n_permutations=n_permutations,
        generator=generator,
        show_progress=show_progress,
    )


def judged_by(
    regions: Sequence[Region],
    bank: ConfigurationBank,
    find: Finder,
    rows: Tensor | None = None,
    *,
    channel_axis: int | None = None,
    level: float = 0.05,
    n_permutations: int = 999,
    generator: torch.Generator | None = None,
    show_progress: bool = True,
) -> list[Region]:
    """Test regions as `significance` does, found anew as the caller says.

    Args:
        regions: regions of ``bank``.
        bank: the bank they were found in.
        find: gives, for the neurons bool ``(D,)`` of the half that finds, a bank of these
            and the regions in it.
        rows: int64, the bank rows that judge, for regions that others chose; None for all.
        channel_axis: as there.
        level: as there.
        n_permutations: as there.
        generator: as there.
        show_progress: as there.
    """
    check_level(level)
    check_whole("n_permutations", n_permutations)
    if not regions:
        return []
    units = units_of(bank, channel_axis)
    none = Significance(1.0, 0.0, 0, level=level, assumed=units.assumed)
    if units.untestable:
        none = replace(none, untestable=units.untestable)
        return [replace(region, significance=none) for region in regions]
    split = split_and_find(regions, bank, find, generator, rows, units.axis)
    longest = max(len(one.members) for one in split.found)
    # Regions differ in how many rows are outside S; few sets of orders are held.
    orders = lru_cache(2)(partial(_orders, longest, n_permutations, split.seed))
    progress = tqdm(regions, "Testing", disable=not show_progress, delay=1)
    tests = [
        _test(region, split, index, orders, none)
        for index, region in enumerate(progress)
    ]
    return _adjusted(regions, tests)


def _test(
    region: Region,
    split: "Split",
    index: int,
    orders: Callable[[int], Orders],
    none: Significance,
) -> Significance:
    """The test of one region; ``none`` is that of a region that cannot be tested."""
    if bool(torch.isin(region.members, region.neighbors).all()):
        return replace(none, untestable="no member outside S")
    judged = judge(split, index)
    if not len(judged.picked):
        reason = "no member outside S on the half that finds"
        return replace(none, untestable=reason)
    if len(judged.picked) == len(judged.agreements):
        return replace(none, untestable="no row outside S to compare members with")
    found, own, n_judging = split.found[index], split.own[index], split.own.shape[1]
    agreed = int(judged.agreements[judged.picked].sum())
    return replace(
        none,
        p_value=_p_value(judged, orders(len(judged.compared)), split.seed),
        effect=judged.effect,
        n_outside=len(judged.picked),
        agreement=agreed / (len(judged.picked) * n_judging),
        expected=float(judged.agreements.mean()) / n_judging,
        coherence=coherence(found, own, split.finding, split.judging, split.activity),
    )


def _adjusted(regions: Sequence[Region], tests: Sequence[Significance]) -> list[Region]:
    """Regions with tests that are corrected for the number of those testable."""
    from scipy.stats import false_discovery_control

    p_values = [test.p_value for test in tests if test.testable]
    adjusted = iter(false_discovery_control(p_values) if p_values else [])
    corrected = []
    for region, test in zip(regions, tests, strict=True):
        if test.testable:
            test = replace(test, adjusted_p_value=float(next(adjusted)))
        corrected.append(replace(region, significance=test))
    return corrected


@dataclass(frozen=True)
class Split:
    """Regions that one half of the neurons found, for the other half to judge.

    Attributes:
        found: the regions.
        finding: bank of the neurons that found them.
        judging: bank of the neurons that judge.
        activity: how its states go with overall activity.
        own: bool ``(Q, D')``, states of the queries in these.
        seed: of what is drawn at random.
        may_judge: bool ``(N,)``, the rows that do, unless they are in S.
    """

    found: list[Region]
    finding: ConfigurationBank
    judging: ConfigurationBank
    activity: Activity
    own: Tensor
    seed: int
    may_judge: Tensor


def split_and_find(
    regions: Sequence[Region],
    bank: ConfigurationBank,
    find: Finder,
    generator: torch.Generator | None = None,
    rows: Tensor | None = None,
    axis: int = 0,
) -> Split:
    """Split the neurons and find each region anew on one half.

    Args:
        regions: regions of ``bank``, one or more.
        bank: the whole bank.
        find: as in `judged_by`.
        generator: splits the neurons; None for one seeded with 0.
        rows: bank rows that judge; None for all.
        axis: axis of the layer's shape whose entries are kept whole.
    """
    generator = generator or torch.Generator().manual_seed(0)
    finding = split_neurons(bank.layer_shape, generator, axis)
    searched, found = find(finding)
    own = query_states(bank, regions)[:, ~finding]
    seed = int(torch.randint(1 << 62, (), generator=generator))
    judging = part_of(bank, ~finding)
    may_judge = torch.zeros(len(bank), dtype=torch.bool)
    may_judge[slice(None) if rows is None else rows] = True
    found = [replace(one, members=one.members[may_judge[one.members]]) for one in found]
    return Split(found, searched, judging, Activity.of(judging), own, seed, may_judge)


def found_anew(
    regions: Sequence[Region],
    rules: Sequence[Rule],
    bank: ConfigurationBank,
    finding: Tensor,
    *,
    show_progress: bool = False,
) -> tuple[ConfigurationBank, list[Region]]:
    """Each region from its query, by its own rule, in batches of equal rules.

    Args:
        regions: regions of ``bank``, for their queries.
        rules: one for each.
        bank: the bank that holds the queries.
        finding: bool ``(D,)``, the neurons that find the regions.
        show_progress: draw a progress bar when it takes more than a second.

    Returns:
        the bank of these neurons, and its regions.

    Raises:
        ValueError: a region lacks its query's states or features.
    """
    with_features = any(rule.needs_features for rule in rules)
    searched = part_of(bank, finding, with_features=with_features)

    def key(pair: tuple[Region, Rule]) -> Any:
        # Given rows are those of one query: such a rule stands alone.
        region, rule = pair
        return id(region) if isinstance(rule.neighbors, Tensor) else rule

    found: list[Region] = []
    for _, group in groupby(zip(regions, rules, strict=True), key):
        some, (first, *_) = zip(*group, strict=True)
        rule = _for_fewer_neurons(first, searched.n_neurons)
        states = query_states(bank, some)[:, finding]
        packed = bits.padded(states, searched.layer_shape).to(searched.device)
        own = query_features(bank, some)[:, finding] if rule.needs_features else None
        queries = Queries(packed, [region.query for region in some], own)
        found += construct(searched, queries, rule, show_progress=show_progress)
    return searched, found


def part_of(
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
    if rule.is_evidence:
        return replace(rule, n_neurons=n_neurons)
    tolerance = min(int(rule.tolerance), n_neurons - 1)
    return replace(rule, n_neurons=n_neurons, tolerance=tolerance)


@dataclass(frozen=True)
class Judgment:
    """What the judging neurons say of one region.

    Attributes:
        agreements: int64 ``(N',)``, for each bank row outside S the number of judging
            neurons in which it agrees with S's consensus.
        compared: int64 ``(N',)``, what of that its overall activity does not explain, in
            parts so fine that they are whole.
        picked: int64, positions in it of the region's members.
    """

    agreements: Ints
    compared: Ints
    picked: Ints

    @property
    def total(self) -> int:
        """What is compared of all members outside S together."""
        return int(self.compared[self.picked].sum())

    @property
    def effect(self) -> float:
        """How far the agreement lies above chance, in standard deviations.

        The deviation is that of the mean of a set of the same size, drawn without
        replacement from the rows outside S; 0 where nothing can vary.
        """
        compared, size = self.compared, len(self.picked)
        everyone = len(compared)
        variance = float(compared.var()) / size * (everyone - size)
        deviation = (variance / max(everyone - 1, 1)) ** 0.5
        away = self.total / size - float(compared.mean())
        return away / deviation if deviation > 0 else 0.0


def judge(split: Split, index: int) -> Judgment:
    """Judge one of the regions; those that judge are outside of its S."""
    region, own = split.found[index], split.own[index]
    bank, activity = split.judging, split.activity
    votes = votes_of(bank, region, own)
    consensus = torch.where(votes == 0, own, votes > 0)
    is_outside = split.may_judge.clone()
    is_outside[region.neighbors] = False
    rows = is_outside.nonzero().flatten().numpy()
    agreements = bank.n_neurons - bank.distances(consensus).numpy()[rows]
    slopes = np.where(consensus.numpy(), activity.slope, -activity.slope)
    left = agreements - float(slopes.sum()) * activity.above[rows]
    compared = np.rint(_FINE * left).astype(np.int64)
    picked = np.flatnonzero(np.isin(rows, region.members.numpy()))
    return Judgment(agreements, compared, picked)


def _orders(longest: int, count: int, seed: int, n_rows: int) -> Orders:
    """Random orders of rows, cut after the longest needed; order i is always the same."""
    orders = np.empty((count, min(longest, n_rows)), np.int32)
    for number, order in enumerate(orders):
        generator = torch.Generator().manual_seed((seed + number) % (1 << 63))
        order[:] = torch.randperm(n_rows, generator=generator)[: len(order)].numpy()
    return orders


def _p_value(judgment: Judgment, orders: Orders, seed: int) -> float:
    """The p-value, from random sets of as many rows as members."""
    compared, size = judgment.compared, len(judgment.picked)
    # A set and the rows that it leaves out are drawn alike: the fewer are added up.
    drawn = min(size, len(compared) - size)
    n_parts = 1 + 8 * len(orders) * drawn // _BLOCK_BYTES
    parts = np.array_split(orders[:, :drawn], n_parts)
    sums = np.concatenate([compared[part].sum(1) for part in parts])
    if drawn < size:
        sums = compared.sum() - sums
    better, as_good = (sums > judgment.total).sum(), (sums == judgment.total).sum()
    # Which of those as good count as better is drawn for this region alone.
    drawing = np.random.default_rng([seed, *judgment.picked.tolist()])
    counted = better + drawing.integers(as_good + 1)
    sampled = float(1 + counted) / (1 + len(orders))
    return sampled if better + as_good else min(sampled, hoeffding_bound(judgment))


def hoeffding_bound(judgment: Judgment) -> float:
    """Upper bound on the chance that a random set agrees as much as the members do.

    Sums of draws without replacement are no more spread than with it, so that
    ``exp(m (K(s) - s T))`` bounds the chance for every ``s >= 0``, with K the log of the
    mean of ``exp(s agreement)`` over the rows outside S and T the mean agreement of the m
    members: Hoeffding (1963), Theorem 4.

    >>> counts = np.array([0, 0, 0, 4])
    >>> hoeffding_bound(Judgment(counts, counts, np.array([3])))
    0.25
    """
    from scipy.optimize import minimize_scalar

    values, counts = np.unique(judgment.compared, return_counts=True)
    size, target = len(judgment.picked), judgment.total / len(judgment.picked)
    away, shares = values - target, counts / counts.sum()
    lowest, highest = float(away[0]), float(away[-1])
    if highest <= 0:  # every member has the largest agreement of all
        return float(shares[-1] ** size)

    def log_mean(slope: float) -> float:
        # The largest exponent is taken out, so that nothing overflows.
        mean = shares @ np.exp(slope * (away - highest))
        return float(np.log(mean) + slope * highest)

    # From here on the largest agreement alone outweighs all below the target.
    steepest = np.log1p(-lowest / (shares[-1] * highest)) / highest
    least = minimize_scalar(log_mean, bounds=(0.0, float(steepest))).fun
    return float(np.exp(np.clip(size * least, _SMALLEST_LOG, 0.0)))
