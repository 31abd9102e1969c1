"""The permutation test: are members more alike than random rows outside S."""

import operator
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from captum_rdr.method.region import Region
from captum_rdr.metrics.finding import Finding, findings
from captum_rdr.metrics.halves import Trial

_SMALLEST_LOG = -700.0  # of a p-value, which is never quite 0
_NEWTON_STEPS = 20
_ORDER_BYTES = 1 << 26  # random orders held at a time


def checked_count(n_permutations: int) -> int:
    """The number of random sets as a plain int.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is not positive.
    """
    try:
        count = operator.index(n_permutations)
    except TypeError as error:
        raise TypeError(
            f"n_permutations={n_permutations!r} is a {type(n_permutations).__name__}; "
            "use a whole number"
        ) from error
    if count < 1:
        raise ValueError(f"n_permutations={count} draws nothing; use 1 or more")
    return count


def permutation_p_values(
    trial: Trial, n_permutations: int, *, show_progress: bool = False
) -> list[float]:
    """Share of random sets that agree with S at least as much as the members do.

    The sets are drawn from the rows outside S, as many rows as there are members outside
    S. ``p = (1 + as good or better) / (1 + n_permutations)``, which is valid whatever the
    number of permutations. Where no set is as good, that is all that sampling can say,
    and p is lowered to `hoeffding_bound` if that is smaller: still a valid p-value at
    every level, and fine enough to correct for thousands of regions.

    Args:
        trial: the regions; they are judged anew for every block of permutations, so that
            few orders are held. The sets depend on its seed alone, not on what other
            regions are tested.
        n_permutations: number of random sets.
        show_progress: draw a progress bar when it takes more than a second.

    Returns:
        one p-value a region; 1 where there is no member outside S, be it in the whole
        bank or on the finding half.
    """

    def judged() -> Iterable[Finding]:
        bar: Iterable[Finding] = tqdm(
            findings(trial),
            total=len(trial.found),
            desc="Testing",
            unit="region",
            disable=not show_progress,
            delay=1,
        )
        return bar

    limits, longest = [], 0
    for finding in judged():
        limits.append(hoeffding_bound(finding) if len(finding.picked) else None)
        longest = max(longest, _drawn(finding))
    block = max(1, _ORDER_BYTES // (4 * max(1, longest)))
    reached = [0] * len(limits)
    for start in range(0, n_permutations, block):
        numbers = range(start, min(start + block, n_permutations))
        counts = _reached(judged(), numbers, trial.seed, longest)
        reached = [before + more for before, more in zip(reached, counts, strict=True)]
    return [
        _p_value(limit, count, n_permutations) if has_members_outside(region) else 1.0
        for region, limit, count in zip(trial.queries, limits, reached, strict=True)
    ]


def has_members_outside(region: Region) -> bool:
    """Whether a region holds more than S."""
    return not bool(torch.isin(region.members, region.neighbors).all())


def _p_value(limit: float | None, reached: int, n_permutations: int) -> float:
    if limit is None:
        return 1.0
    sampled = (1 + reached) / (1 + n_permutations)
    return sampled if reached else min(sampled, limit)


def _drawn(finding: Finding) -> int:
    """Rows to draw for a random set: those in it, or those left out if fewer."""
    return min(len(finding.picked), len(finding.agreements) - len(finding.picked))


def _reached(
    judged: Iterable[Finding], numbers: range, seed: int, longest: int
) -> list[int]:
    """How many random sets agree at least as much as the members, per finding."""
    orders: dict[int, npt.NDArray[np.int32]] = {}
    counts = []
    for finding in judged:
        everyone, drawn = len(finding.agreements), _drawn(finding)
        if everyone not in orders:
            orders[everyone] = _orders(everyone, numbers, seed, longest)
        sums = finding.agreements[orders[everyone][:, :drawn]].sum(1)
        if drawn < len(finding.picked):
            sums = finding.agreements.sum() - sums
        counts.append(int((sums >= finding.total).sum()))
    return counts


def _orders(
    n_rows: int, numbers: range, seed: int, longest: int
) -> npt.NDArray[np.int32]:
    """Random orders of rows, cut after the longest needed; order i is always the same."""
    orders = np.empty((len(numbers), min(longest, n_rows)), np.int32)
    for index, number in enumerate(numbers):
        generator = torch.Generator().manual_seed((seed + number) % (1 << 63))
        order = torch.randperm(n_rows, generator=generator)
        orders[index] = order[: orders.shape[1]].numpy()
    return orders


def hoeffding_bound(finding: Finding) -> float:
    """Upper bound on the chance that a random set agrees as much as the members do.

    Source: Hoeffding, *Probability inequalities for sums of bounded random variables*,
    JASA 1963, Theorem 4: sums of draws without replacement are no more spread than with
    it, so that ``exp(m (K(s) - s T))`` bounds the chance for every ``s >= 0``, with K the
    log of the mean of ``exp(s agreement)`` over the rows outside S and T the members'
    mean agreement.

    >>> hoeffding_bound(Finding(np.array([0, 0, 0, 4]), np.array([3]), 4))
    0.25
    """
    values, repeats = np.unique(finding.agreements, return_counts=True)
    size, target = len(finding.picked), finding.total / len(finding.picked)
    away = values - target
    if away[-1] <= 0:  # every member has the largest agreement of all
        return float((repeats[-1] / repeats.sum()) ** size)
    log_share = np.log(repeats / repeats.sum())
    slope, best, low, high = 0.0, 0.0, 0.0, np.inf
    for _ in range(_NEWTON_STEPS):
        exponents = log_share + slope * away
        largest = exponents.max()
        tilted = np.exp(exponents - largest)
        best = min(best, float(np.log(tilted.sum()) + largest))
        tilted /= tilted.sum()
        mean = float(tilted @ away)
        variance = float(tilted @ (away - mean) ** 2)
        low, high = (slope, high) if mean < 0 else (low, slope)
        slope = slope - mean / variance if variance > 0 else np.inf
        if not low < slope < high:  # Newton's step is too long: halve the bracket
            slope = (low + high) / 2 if high < np.inf else 2 * low + 1
    return float(np.exp(max(size * best, _SMALLEST_LOG)))
