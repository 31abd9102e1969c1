"""Random neurons that could have been principal: as unanimous and as often active."""

import numpy as np
import numpy.typing as npt
import torch

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_SPREAD = 2  # places to choose among, per neuron to match


def unanimous(active_inside: Ints, n_inside: int, state: bool) -> Ints:
    """Neurons that have ``state`` in all of S, ascending.

    >>> unanimous(np.array([0, 2, 1]), 2, state=True)
    array([1])
    """
    return np.flatnonzero(active_inside == (n_inside if state else 0))


def matched_neurons(
    neurons: Ints,
    states: Bools,
    pools: dict[bool, Ints],
    active_bank: Ints,
    generator: torch.Generator,
) -> Ints:
    """Random neurons of the same states and like activation frequencies.

    The pool of each state is put in order of frequency in the bank. Each principal neuron
    is matched by one drawn near its own place in that order, no neuron twice.

    Args:
        neurons: principal neurons, flat indices.
        states: their states.
        pools: for each state the neurons to draw from, flat indices.
        active_bank: in how many instances of the bank each neuron is active, ``(D,)``.
        generator: draws the neurons.

    Returns:
        flat indices, ascending; fewer than principal neurons where a pool is too small.

    >>> bank = np.array([3, 5, 4, 9, 2, 3])
    >>> generator = torch.Generator().manual_seed(0)
    >>> pools = {True: np.array([1, 2, 3]), False: np.array([4])}
    >>> matched_neurons(np.array([0]), np.array([True]), pools, bank, generator)
    array([1])
    """
    chosen = [np.empty(0, np.int64)]
    for state, pool in pools.items():
        ordered = pool[np.argsort(active_bank[pool], kind="stable")]
        wanted = np.sort(active_bank[neurons[states == state]])
        places = np.searchsorted(active_bank[ordered], wanted)
        chosen.append(ordered[_near(places, len(ordered), generator)])
    return np.sort(np.concatenate(chosen))


def _near(places: Ints, n_pool: int, generator: torch.Generator) -> Ints:
    """Distinct random places near the given ones, which are in ascending order."""
    count = min(len(places), n_pool)
    if count == 0:
        return np.empty(0, np.int64)
    if count < len(places):
        return np.arange(n_pool)
    width = min(n_pool, _SPREAD * count)
    first = np.clip(places - width // 2, 0, n_pool - width)
    noise = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
    drawn = np.sort(first + np.floor(noise * width).astype(np.int64))
    # Equal places move up to the next free one, and the last down to make room.
    steps = np.arange(count)
    moved = np.maximum.accumulate(drawn - steps)
    result: Ints = np.minimum(moved, n_pool - count) + steps
    return result
