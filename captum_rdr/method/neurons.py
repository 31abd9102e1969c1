"""Which neurons carry a region: scores, principal neurons and evidence weights.

Pure functions on arrays. Frequencies are given as counts, whole numbers, so that ties
between scores are ties and not a matter of rounding.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

UNITS = 64
"""Evidence is counted in whole units of ``1 / UNITS`` nat.

So a sum of weights is the same in whatever order and on whatever device it is taken. The
rounding is far below the statistical error of a weight.
"""


class Principal(NamedTuple):
    """The neurons that carry a region.

    Attributes:
        neurons: int64 ``(t,)``, flat indices.
        states: bool ``(t,)``, the state that each of them has in the region.
        scores: float64 ``(t,)``, what ranked them.
        weights: float64 ``(t,)``, what each of them adds to the evidence when active, in
            nats, whole multiples of ``1 / UNITS``.
        offset: evidence where none of them is active, in nats, such a multiple too.
    """

    neurons: Ints
    states: Bools
    scores: Floats
    weights: Floats
    offset: float


def by_score(
    active_inside: Ints, n_inside: int, active_bank: Ints, n_bank: int, count: int
) -> Principal:
    """The ``count`` unanimous neurons of highest score, ties to the lower index.

    A neuron is unanimous if its state is the same in all of S. Its score
    ``|p_S,i - p_i|`` tells how far S is from the bank. The paper's rule, Section 3 of
    Chang, Kwon and Choi (AAAI 2024).

    Args:
        active_inside: in how many instances of S each neuron is active, ``(D,)``.
        n_inside: number of instances in S.
        active_bank: in how many instances of the bank each neuron is active, ``(D,)``.
        n_bank: number of instances in the bank.
        count: number of neurons wanted.

    Returns:
        the neurons, ascending; fewer than ``count`` where fewer are unanimous.

    >>> found = by_score(np.array([2, 0, 1, 2]), 2, np.array([4, 3, 1, 2]), 4, 2)
    >>> found.neurons, found.states, found.scores
    (array([1, 3]), array([False,  True]), array([0.75, 0.5 ]))
    """
    unanimous = np.flatnonzero((active_inside == 0) | (active_inside == n_inside))
    # Times both sizes, so that they are whole numbers.
    scaled = np.abs(active_inside * n_bank - active_bank * n_inside)[unanimous]
    chosen = largest(scaled, count)
    neurons, scores = unanimous[chosen], scaled[chosen] / (n_inside * n_bank)
    inside, bank = active_inside[neurons], Frequencies.of(active_bank[neurons], n_bank)
    weights, when_inactive = evidence_weights(inside, n_inside, bank)
    offset = _in_units(when_inactive)
    return Principal(neurons, inside > 0, scores, weights / UNITS, offset)


def by_evidence(states: Bools, bank: "Frequencies", count: int) -> Principal:
    """The ``count`` neurons of largest ``|w_i|``, heaviest first, ties to the lower index.

    Neurons without weight are left out, so there may be fewer. Of each weight that is left
    `common_weight` is taken off, and is given back in the offset as often as the neuron is
    active in the bank.

    Args:
        states: those of S, bool ``(k, D)``.
        bank: how often each neuron is active in the bank.
        count: number of neurons wanted.

    Returns:
        the neurons; their scores are the absolute weights.

    >>> bank = Frequencies.of(np.array([5, 0, 9]), 10)
    >>> by_evidence(np.array([[True, False, False]] * 8), bank, 3).neurons
    array([2, 0])
    """
    active = active_in(states)
    weights, when_inactive = evidence_weights(active, len(states), bank)
    common = common_weight(states, active, weights)
    own = np.where(weights != 0, weights - common, 0)
    weighty = np.flatnonzero(own)
    # Narrow numbers are sorted faster, and no weight is 512 nats.
    order = np.argsort(-np.abs(own[weighty]).astype(np.int16), kind="stable")
    neurons = weighty[order[:count]]
    expected = common / UNITS * bank.active[neurons] / bank.size
    offset, nats = _in_units(when_inactive[neurons] + expected), own[neurons] / UNITS
    return Principal(neurons, nats > 0, np.abs(nats), nats, offset)


def active_in(states: Bools) -> Ints:
    """In how many instances each neuron is active."""
    narrow = np.uint8 if len(states) <= 255 else np.int64  # the narrow one is faster
    active: Ints = states.view(np.uint8).sum(0, dtype=narrow).astype(np.int64)
    return active


def common_weight(states: Bools, active: Ints, weights: Ints) -> int:
    """What every weight has only because neurons are active together, in units.

    Weights take neurons as independent. Where a whole layer rises and falls as one, with
    the length of a text or the contrast of an image, each neuron says that again. It shows
    in S: the number of active neurons spreads f times as wide (in standard deviations) as
    that of independent neurons of the same frequencies. Then ``1 - 1/f`` of the mean
    weight is what was said before, and nothing where f is 1 or less.

    Args:
        states: those of S, bool ``(k, D)``.
        active: in how many of them each neuron is active, ``(D,)``.
        weights: as `evidence_weights` gives them.

    >>> alike = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1]]) > 0
    >>> common_weight(alike, alike.sum(0), np.array([64, 64, 64, 64]))
    32
    >>> one_each = np.eye(4) > 0
    >>> common_weight(one_each, one_each.sum(0), np.array([64, 64, 64, 64]))
    0
    """
    weighty, k = weights[weights != 0], len(states)
    if k < 2 or not len(weighty):
        return 0
    alone = float((active * (k - active)).sum()) / (k * (k - 1))
    spread = np.count_nonzero(states, axis=1).var(ddof=1)
    return int(_common(weighty.mean(), alone, spread))


def _common(mean: Any, alone: Any, spread: Any) -> Any:
    """Part of a mean weight; by the variances of independent neurons and of these."""
    wider = 1 - np.sqrt(alone / np.maximum(spread, 1e-300))
    return np.rint(np.where(spread > alone, mean * wider, 0.0))


def _in_units(values: Floats) -> float:
    """Their sum in nats, rounded to whole units."""
    return round(UNITS * float(values.sum())) / UNITS


class Frequencies(NamedTuple):
    """How often neurons are active in the bank, with what every region needs of that.

    Attributes:
        active: in how many instances of the bank each neuron is active, int64 ``(D,)``.
        size: number of instances in the bank.
        log_active: logarithm of each neuron's frequency, kept away from 0 and 1 by half
            an instance.
        log_inactive: logarithm of one minus that frequency.
    """

    active: Ints
    size: int
    log_active: Floats
    log_inactive: Floats

    @classmethod
    def of(cls, active: Ints, size: int) -> "Frequencies":
        """Those of neurons that are active in so many of ``size`` instances."""
        share = np.clip(active / size, 0.5 / size, 1 - 0.5 / size)
        return cls(active, size, np.log(share), np.log(1 - share))


def evidence_weights(
    active_inside: Ints, n_inside: int, bank: Frequencies
) -> tuple[Ints, Floats]:
    """Each neuron's evidence for membership in S: for being active, and when it is not.

    With ``p' = (k p_S + 1/2) / (k + 1)`` and p kept away from 0 and 1 by half an
    instance of the bank, a neuron adds ``log(p'/p)`` when active and
    ``log((1 - p') / (1 - p))`` when not, so that the sum over neurons is the
    log-likelihood ratio of S against the bank, neurons taken as independent.

    The smoothing pulls ``p'`` towards one half. Where that carries it past p, to the
    other side than ``p_S``, it would count against the state that all of S shows (a
    neuron that is never active would weigh most of all): such a neuron has no weight.

    Args:
        active_inside: in how many instances of S each neuron is active, ``(D,)``.
        n_inside: number k of instances in S.
        bank: how often each neuron is active in the bank.

    Returns:
        weights ``w_i``, whole units of ``1 / UNITS`` nat, int64 ``(D,)``; and what a
        neuron adds when inactive, in nats, float64 ``(D,)``. An instance's evidence is
        the sum over neurons of ``w_i c_i`` plus the sum of the latter.

    >>> bank = Frequencies.of(np.array([5, 0]), 10)
    >>> weights, inactive = evidence_weights(np.array([8, 0]), 8, bank)
    >>> weights, inactive.round(3)
    (array([181,   0]), array([-2.197,  0.   ]))
    """
    share = (np.arange(n_inside + 1) + 0.5) / (n_inside + 1)  # one for each count in S
    when_active = np.log(share)[active_inside] - bank.log_active
    when_inactive = np.log(1 - share)[active_inside] - bank.log_inactive
    weights = when_active - when_inactive
    useful = (active_inside * bank.size - bank.active * n_inside) * weights > 0
    units: Ints = np.rint(np.where(useful, UNITS * weights, 0)).astype(np.int64)
    return units, np.where(useful, when_inactive, 0.0)


def left_out_evidence(states: Bools, bank: Frequencies, neurons: Ints) -> Floats:
    """Evidence of each instance of S by the weights that the others of S give.

    A further instance of what S holds would reach as much as these, one and all: none of
    them made the weights by which it is judged.

    Args:
        states: those of S, bool ``(k, D)``, k at least 2.
        bank: how often each neuron is active in the bank.
        neurons: those whose evidence counts, int64 ``(t,)``.

    Returns:
        float64 ``(k,)``, in nats, whole multiples of ``1 / UNITS``.

    >>> states = np.array([[1, 0], [1, 0], [0, 1]]) > 0
    >>> bank = Frequencies.of(np.array([5, 5]), 10)
    >>> left_out_evidence(states, bank, np.array([0, 1]))
    array([ 0.    ,  0.    , -2.1875])
    """
    others, active = len(states) - 1, active_in(states)
    # Counts in the others, for an instance that has a neuron active and one that has not.
    gone, kept = np.maximum(active - 1, 0), np.minimum(active, others)
    weights, rest = evidence_weights(gone, others, bank)
    weights_not, rest_not = evidence_weights(kept, others, bank)

    weighty, weighty_not = (weights != 0) * 1.0, (weights_not != 0) * 1.0
    counted = np.zeros(len(active))
    counted[neurons] = 1.0
    in_bank = bank.active * counted
    gains = (weights + np.rint(UNITS * (rest - rest_not))) * counted
    pairs = (  # what a neuron adds where the instance has it active, and where not
        (gone * (others - gone), kept * (others - kept)),
        (weighty, weighty_not),
        (weights, weights_not),
        (in_bank * weighty, in_bank * weighty_not),
        (gains, 0 * gains),
        (weighty * counted, 0 * gains),
    )
    # Whole numbers, whose sums are exact on any number of threads.
    changes = np.stack([if_active - if_not for if_active, if_not in pairs])
    sums = states.astype(float) @ changes.T + [if_not.sum() for _, if_not in pairs]
    alone, n_weighty, mean, expected, gained, seen = sums.T
    counts = np.count_nonzero(states, axis=1).astype(float)
    squares = np.square(counts).sum() - counts**2
    squares -= (counts.sum() - counts) ** 2 / others
    common = _common(mean / np.maximum(n_weighty, 1), alone / others, squares)
    level = np.rint(UNITS * rest_not[neurons].sum() + common * expected / bank.size)
    found: Floats = (gained + level - common * seen) / UNITS
    return found


def largest(values: npt.NDArray[np.number], count: int) -> Ints:
    """Positions of the ``count`` largest values, ties to the lower one, ascending.

    >>> largest(np.array([1, 3, 3, 2]), 1)
    array([1])
    """
    return np.sort(np.argsort(-values, kind="stable")[:count])
