"""Which neurons carry a region: scores, principal neurons and evidence weights.

Pure functions on arrays. Frequencies are given as counts, whole numbers, so that ties
between scores are ties and not a matter of rounding.
"""

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


def unanimous_neurons(active_inside: Ints, n_inside: int) -> Ints:
    """Neurons whose state is the same in all of S, ascending.

    Args:
        active_inside: in how many instances of S each neuron is active, ``(D,)``.
        n_inside: number of instances in S.

    >>> unanimous_neurons(np.array([0, 1, 2]), 2)
    array([0, 2])
    """
    return np.flatnonzero((active_inside == 0) | (active_inside == n_inside))


def scores(
    active_inside: Ints, n_inside: int, active_bank: Ints, n_bank: int
) -> Floats:
    """Score ``|p_S,i - p_i|`` of each neuron: how far S is from the bank.

    Section 3 of Chang, Kwon and Choi (AAAI 2024).

    Args:
        active_inside: in how many instances of S each neuron is active.
        n_inside: number of instances in S.
        active_bank: in how many instances of the bank each neuron is active.
        n_bank: number of instances in the bank.

    >>> scores(np.array([2, 0]), 2, np.array([1, 1]), 4)
    array([0.75, 0.25])
    """
    scaled = _scaled_scores(active_inside, n_inside, active_bank, n_bank)
    result: Floats = scaled / (n_inside * n_bank)
    return result


def _scaled_scores(
    active_inside: Ints, n_inside: int, active_bank: Ints, n_bank: int
) -> Ints:
    """Scores times ``n_inside * n_bank``, as whole numbers."""
    scaled: Ints = np.abs(active_inside * n_bank - active_bank * n_inside)
    return scaled


def principal_neurons(
    active_inside: Ints, n_inside: int, active_bank: Ints, n_bank: int, count: int
) -> Ints:
    """The ``count`` unanimous neurons of highest score, ties to the lower index.

    The paper's rule, Section 3 of Chang, Kwon and Choi (AAAI 2024).

    Args:
        active_inside: in how many instances of S each neuron is active, ``(D,)``.
        n_inside: number of instances in S.
        active_bank: in how many instances of the bank each neuron is active, ``(D,)``.
        n_bank: number of instances in the bank.
        count: number of neurons wanted.

    Returns:
        flat indices, ascending; fewer than ``count`` where fewer are unanimous.

    >>> principal_neurons(np.array([2, 0, 1, 2]), 2, np.array([4, 3, 1, 2]), 4, 2)
    array([1, 3])
    """
    unanimous = unanimous_neurons(active_inside, n_inside)
    scaled = _scaled_scores(
        active_inside[unanimous], n_inside, active_bank[unanimous], n_bank
    )
    return unanimous[largest(scaled, count)]


def evidence_weights(
    active_inside: Ints, n_inside: int, active_bank: Ints, n_bank: int
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
        active_inside: in how many instances of S each neuron is active, ``(..., D)``.
        n_inside: number k of instances in S.
        active_bank: in how many instances of the bank each neuron is active, ``(D,)``.
        n_bank: number of instances in the bank.

    Returns:
        weights ``w_i``, whole units of ``1 / UNITS`` nat, int64 ``(..., D)``; and what
        a neuron adds when inactive, in nats, float64 ``(..., D)``. An instance's
        evidence is the sum over neurons of ``w_i c_i`` plus the sum of the latter.

    >>> weights, inactive = evidence_weights(np.array([8, 0]), 8, np.array([5, 0]), 10)
    >>> weights, inactive.round(3)
    (array([181,   0]), array([-2.197,  0.   ]))
    """
    share = (np.arange(n_inside + 1) + 0.5) / (n_inside + 1)  # one for each count in S
    bank = np.clip(active_bank / n_bank, 0.5 / n_bank, 1 - 0.5 / n_bank)
    when_active = np.log(share)[active_inside] - np.log(bank)
    when_inactive = np.log(1 - share)[active_inside] - np.log(1 - bank)
    weights = when_active - when_inactive
    useful = (active_inside * n_bank - active_bank * n_inside) * weights > 0
    units: Ints = np.rint(np.where(useful, UNITS * weights, 0)).astype(np.int64)
    return units, np.where(useful, when_inactive, 0.0)


def heaviest_neurons(weights: Ints, count: int) -> Ints:
    """The ``count`` neurons of largest ``|w_i|``, heaviest first, ties to the lower index.

    Neurons without weight are left out, so there may be fewer.

    >>> heaviest_neurons(np.array([0, 1, -2]), 3)
    array([2, 1])
    """
    weighty = np.flatnonzero(weights)
    chosen = weighty[largest(np.abs(weights[weighty]), count)]
    return chosen[np.argsort(-np.abs(weights[chosen]), kind="stable")]


def left_out_evidence(
    states: Bools, active_inside: Ints, active_bank: Ints, n_bank: int
) -> Floats:
    """Evidence of each instance of S by the weights that the others of S give.

    A further instance of what S holds would reach as much as these, one and all: none of
    them made the weights by which it is judged.

    Args:
        states: those of S, bool ``(k, D)``, k at least 2.
        active_inside: in how many instances of S each neuron is active, ``(D,)``.
        active_bank: in how many instances of the bank each neuron is active, ``(D,)``.
        n_bank: number of instances in the bank.

    Returns:
        float64 ``(k,)``, in nats, whole multiples of ``1 / UNITS``.

    >>> states = np.array([[1, 0], [1, 0], [0, 1]]) > 0
    >>> left_out_evidence(states, states.sum(0), np.array([5, 5]), 10)
    array([ 0.    ,  0.    , -2.1875])
    """
    others = len(states) - 1
    without_it = np.maximum(active_inside - 1, 0)  # what is left of an active one
    weights, rest = evidence_weights(without_it, others, active_bank, n_bank)
    when_active = weights / UNITS + rest
    inside = np.minimum(active_inside, others)
    _, when_inactive = evidence_weights(inside, others, active_bank, n_bank)
    gains = np.rint(UNITS * (when_active - when_inactive))
    found: Floats = states @ gains + np.rint(UNITS * when_inactive.sum())
    return found / UNITS


def largest(values: npt.NDArray[np.number], count: int) -> Ints:
    """Positions of the ``count`` largest values, ties to the lower one, ascending.

    >>> largest(np.array([1, 3, 3, 2]), 1)
    array([1])
    """
    if count >= len(values):
        return np.arange(len(values))
    if count == 0:
        return np.arange(0)
    cut = np.partition(values, len(values) - count)[len(values) - count]
    above = np.flatnonzero(values > cut)
    tied = np.flatnonzero(values == cut)[: count - len(above)]
    return np.sort(np.concatenate([above, tied]))
