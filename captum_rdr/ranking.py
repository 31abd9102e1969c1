"""Positions of the smallest and largest values, ties to the lower position."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def smallest(values: npt.NDArray[np.number], count: int) -> Ints:
    """Positions of the ``count`` smallest values, smallest first.

    >>> smallest(np.array([3, 1, 1, 0]), 3)
    array([3, 1, 2])
    """
    kth = np.partition(values, count - 1)[count - 1]
    near = np.flatnonzero(values <= kth)
    return near[np.argsort(values[near], kind="stable")][:count]


def largest(values: npt.NDArray[np.number], count: int) -> Ints:
    """Positions of the ``count`` largest values, positions ascending.

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
