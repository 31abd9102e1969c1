"""Which few instances stand for all: greedy facility location."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captum_rdr.discovery.links import Reach

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_DECIMALS = 9  # gains that agree to this many decimals, per instance, tie
_BLOCK = 1024


class Cover(NamedTuple):
    """The chosen instances.

    Attributes:
        chosen: int64 ``(K,)``, positions, in the order in which they were chosen.
        labels: int64 ``(n,)``, for each instance the number of the chosen one that it
            is most alike, ties to the earlier; -1 where it is like none of them.
        gains: float64 ``(K,)``, how much of the class each newly covers, as a share.
    """

    chosen: Ints
    labels: Ints
    gains: Floats


def greedy_cover(parts: Sequence[Reach], at_most: int, least_gain: float) -> Cover:
    """Choose instances so that every instance is much like one of them.

    The objective is that of facility location, ``f(C) = mean over x of the largest
    likeness of x to an instance of C``, from 0 to 1. It is monotone and submodular, and
    each step takes the instance that raises it most. So for K chosen instances f is at
    least ``1 - (1 - 1/K)^K``, hence more than ``1 - 1/e`` = 63 %, of the largest value
    that any K instances reach.

    Source: Nemhauser, Wolsey and Fisher, *An analysis of approximations for maximizing
    submodular set functions*, Mathematical Programming 1978, Theorem 4.1.

    Args:
        parts: the instances' unit vectors, by connected component.
        at_most: number of instances to choose, at most.
        least_gain: stop before one that raises f by less than this.

    >>> angles = np.array([0.0, 0.1, 0.2, 1.5, 1.6])
    >>> vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    >>> greedy_cover([Reach(np.arange(5), vectors)], 2, 0.0).labels
    array([0, 0, 0, 1, 1])
    """
    size = sum(len(part.positions) for part in parts)
    best, labels = np.zeros(size), np.full(size, -1)
    # Choosing in one component changes the gains in no other.
    offers = [_best_offer(part, best) for part in parts]
    chosen: list[int] = []
    gains: list[float] = []
    while len(chosen) < at_most:
        number = int(np.argmax([gain for gain, _ in offers]))
        gain, center = offers[number]
        if gain <= 0 or gain < least_gain * size - 10.0**-_DECIMALS * size:
            break
        part = parts[number]
        likeness = _likeness(part, part.vectors[center : center + 1])[0]
        closer = likeness > best[part.positions] + 10.0**-_DECIMALS
        labels[part.positions[closer]] = len(chosen)
        best[part.positions[closer]] = likeness[closer]
        chosen.append(int(part.positions[center]))
        gains.append(gain / size)
        offers[number] = _best_offer(part, best)
    return Cover(np.array(chosen, np.int64), labels, np.array(gains))


def _likeness(part: Reach, vectors: Floats) -> Floats:
    likeness: Floats = np.maximum(vectors @ part.vectors.T, 0.0)
    return likeness


def _best_offer(part: Reach, best: Floats) -> tuple[float, int]:
    """The largest gain in a component, and the instance that brings it."""
    covered = best[part.positions]
    gains = np.empty(len(part.positions))
    for start in range(0, len(gains), _BLOCK):
        likeness = _likeness(part, part.vectors[start : start + _BLOCK])
        gains[start : start + _BLOCK] = np.maximum(likeness - covered, 0.0).sum(1)
    rounded = np.round(gains / len(gains), _DECIMALS)
    center = int(np.argmax(rounded))
    return float(rounded[center] * len(gains)), center
