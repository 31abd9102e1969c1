"""Which few instances stand for all: facility location."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from captum_rdr.discovery.links import Reach

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_TIE = 1e-9  # likeness, and gains per instance, that differ by less tie
_BLOCK = 1024


class Cover(NamedTuple):
    """The chosen instances.

    Attributes:
        chosen: int64 ``(K,)``, positions.
        labels: int64 ``(n,)``, for each instance the number of the chosen one that it
            is most alike, ties to the earlier; -1 where it is like none of them.
        gains: float64 ``(K,)``, how much coverage would be lost without each.
        coverage: mean over the instances of the largest likeness to a chosen one.
    """

    chosen: Ints
    labels: Ints
    gains: Floats
    coverage: float


def cover(parts: Sequence[Reach], at_most: int, least_gain: float) -> Cover:
    """Choose instances so that every instance is much like one of them.

    The objective is that of facility location, ``f(C) = mean over x of the largest
    likeness of x to an instance of C``, from 0 to 1. It is monotone and submodular.
    Greedy choice takes, again and again, the instance that raises f most. Then each
    chosen one in turn is exchanged for the instance that is best in its place, as long
    as f rises. So for K chosen instances f is at least ``1 - (1 - 1/K)^K``, hence more
    than ``1 - 1/e`` = 63 %, of the largest value that any K instances reach.

    Source: Nemhauser, Wolsey and Fisher, *An analysis of approximations for maximizing
    submodular set functions*, Mathematical Programming 1978, Theorem 4.1. Exchanges only
    raise f.

    Args:
        parts: the instances' unit vectors, by connected component.
        at_most: number of instances to choose, at most.
        least_gain: stop greedy choice before one that raises f by less than this.

    >>> angles = np.array([0.0, 0.1, 0.2, 1.5, 1.6])
    >>> vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    >>> cover([Reach(np.arange(5), vectors)], 2, 0.0).labels
    array([0, 0, 0, 1, 1])
    """
    size = sum(len(part.positions) for part in parts)
    chosen = _exchanged(parts, _greedy(parts, at_most, least_gain * size))
    likeness = np.zeros((len(chosen), size))
    for row, (number, center) in zip(likeness, chosen, strict=True):
        part = parts[number]
        row[part.positions] = _likeness(part, part.vectors[[center]])[0]
    coverage = _total(likeness) / size
    labels = np.full(size, -1)
    best = np.zeros(size)
    for label, row in enumerate(likeness):
        closer = row > best + _TIE
        labels[closer], best[closer] = label, row[closer]
    without = [
        _total(np.delete(likeness, label, 0)) / size for label in range(len(chosen))
    ]
    return Cover(
        np.array([parts[number].positions[center] for number, center in chosen]),
        labels,
        coverage - np.array(without),
        coverage,
    )


def _total(likeness: Floats) -> float:
    return float(likeness.max(0).sum()) if len(likeness) else 0.0


def _greedy(
    parts: Sequence[Reach], at_most: int, least: float
) -> list[tuple[int, int]]:
    """Component and place in it of each chosen instance."""
    # Choosing in one component changes the gains in no other.
    covered = [np.zeros(len(part.positions)) for part in parts]
    offers = [
        _best_offer(part, best) for part, best in zip(parts, covered, strict=True)
    ]
    chosen: list[tuple[int, int]] = []
    while len(chosen) < at_most:
        number = int(np.argmax([gain for gain, _ in offers]))
        gain, center = offers[number]
        if gain <= 0 or gain < least * (1 - _TIE):
            break
        part = parts[number]
        likeness = _likeness(part, part.vectors[[center]])[0]
        covered[number] = np.maximum(covered[number], likeness)
        chosen.append((number, center))
        offers[number] = _best_offer(part, covered[number])
    return chosen


def _exchanged(
    parts: Sequence[Reach], chosen: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Exchange each for the best in its place, within its component, while f rises."""
    chosen, settled, turn = list(chosen), 0, 0
    while settled < len(chosen):
        number, center = chosen[turn]
        part = parts[number]
        others = [
            place
            for index, (other, place) in enumerate(chosen)
            if other == number and index != turn
        ]
        best = np.zeros(len(part.positions))
        if others:
            best = _likeness(part, part.vectors[others]).max(0)
        own = _likeness(part, part.vectors[[center]])[0]
        gain, better = _best_offer(part, best)
        if gain > np.maximum(own - best, 0.0).sum() + _TIE * len(best):
            chosen[turn], settled = (number, better), 0
        settled, turn = settled + 1, (turn + 1) % len(chosen)
    return chosen


def _likeness(part: Reach, vectors: Floats) -> Floats:
    likeness: Floats = np.maximum(vectors @ part.vectors.T, 0.0)
    return likeness


def _best_offer(part: Reach, covered: Floats) -> tuple[float, int]:
    """The largest gain in a component, and the instance that brings it."""
    gains = np.empty(len(covered))
    for start in range(0, len(gains), _BLOCK):
        likeness = _likeness(part, part.vectors[start : start + _BLOCK])
        gains[start : start + _BLOCK] = np.maximum(likeness - covered, 0.0).sum(1)
    rounded = np.round(gains / len(gains) / _TIE) * _TIE
    center = int(np.argmax(rounded))
    return float(rounded[center] * len(gains)), center
