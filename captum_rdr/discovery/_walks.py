"""Instances linked by their regions, what walks reach, and which few stand for all."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh
from torch import Tensor

from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_DENSE = 300  # a component up to this size is decomposed whole
_MODES = 96  # of a larger one the slowest modes may be enough: the others die out
_UNSEEN = 1e-4  # of the squared length of a vector, at most, is left out
_TIE = 1e-9  # likeness, and gains per instance, that differ by less tie
_BLOCK = 1024  # instances whose likeness to all of a component is held at a time


class Reach(NamedTuple):
    """What walks from the instances of one connected component reach.

    Attributes:
        positions: int64 ``(n,)``, positions of the instances, ascending.
        vectors: float64 ``(n, q)`` of unit length; the product of two is how alike the
            reach of two instances is, from 0 to 1.
    """

    positions: Ints
    vectors: Floats


def links(
    regions: Sequence[Region], rows: Tensor, bank: ConfigurationBank, at_most: int
) -> Any:
    """Which instances lie in which regions, as a sparse matrix.

    Args:
        regions: one region for each of the rows.
        rows: int64 ``(n,)``, bank rows, each once.
        bank: the bank of the rows.
        at_most: of a region with more members among the rows, only so many count: those
            with the most evidence, ties to the lower row.

    Returns:
        float64 ``csr_array`` of shape ``(n, n)``: 1 where instance j lies in the region
        of instance i, and on the diagonal.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model, data = torch.nn.Identity(), torch.tensor([[1.0, 1], [1, 1], [-1, 1]])
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> found = rdr.attribute_members([0, 2], n_neighbors=1, n_neurons=1)
    >>> links(found, torch.tensor([0, 2]), rdr.bank, 32).toarray()
    array([[1., 0.],
           [0., 1.]])
    """
    positions = torch.full((len(bank),), -1)
    positions[rows] = torch.arange(len(rows))
    heads, tails = [torch.arange(len(rows))], [torch.arange(len(rows))]
    for head, region in enumerate(regions):
        inside = positions[region.members]
        inside = inside[inside >= 0]
        if len(inside) > at_most:
            evidence = region.evidence(bank.states(rows[inside]))
            ranked = evidence.argsort(descending=True, stable=True)
            inside = inside[ranked[:at_most]]
        heads.append(torch.full_like(inside, head))
        tails.append(inside)
    pairs = torch.cat(heads).numpy(), torch.cat(tails).numpy()
    counts = csr_array((np.ones(len(pairs[0])), pairs), shape=(len(rows), len(rows)))
    return (counts > 0).astype(np.float64)


def reach(linked: Any, length: int) -> list[Reach]:
    """How alike the instances are in what a random walk from each of them reaches.

    A step goes along a link in either direction, with a chance in proportion to its
    weight (1, or 2 where two instances lie in each other's regions). With ``P`` the
    steps' chances, two instances are as alike as the distributions ``P^length`` from
    them: the cosine between these, each entry over the square root of how often a long
    walk is there.

    Source: the diffusion maps of Coifman and Lafon, *Diffusion maps*, Applied and
    Computational Harmonic Analysis 2006, of which this is the cosine.

    Args:
        linked: sparse ``(n, n)``, see `links`.
        length: number of steps.

    Returns:
        one `Reach` for each connected component; instances of two components reach
        nothing in common.

    >>> linked = csr_array(np.array([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]]))
    >>> [(part.positions, (part.vectors @ part.vectors.T).round(2))
    ...  for part in reach(linked, 1)]
    [(array([0, 1]), array([[1. , 0.8],
           [0.8, 1. ]])), (array([2]), array([[1.]]))]
    """
    both_ways = (linked + linked.T).tocsr()
    count, component = connected_components(both_ways, directed=False)
    order = np.argsort(component, kind="stable")
    ends = np.cumsum(np.bincount(component, minlength=count))
    return [
        Reach(positions, _vectors(both_ways[positions][:, positions], length))
        for positions in np.split(order, ends[:-1])
    ]


def _vectors(weights: Any, length: int) -> Floats:
    """Unit vectors of one component's instances.

    Likeness is exact in a small component and within 0.0002 in a large one: as many modes
    are taken as that needs, and where many are (short walks, many weak groups), all.
    """
    scale = diags_array(1 / np.sqrt(weights.sum(1)))
    steps = scale @ weights @ scale
    size, count, is_enough = weights.shape[0], _MODES, False
    while size > _DENSE and 4 * count <= size and not is_enough:
        # A fixed start, so that the result is the same in every run.
        values, modes = eigsh(steps, count, v0=np.ones(size))
        # The modes of an instance have length 1 together, and none of those left out is
        # slower than these: that bounds what is left out.
        unseen = (1 - (modes**2).sum(1)) * np.abs(values).min() ** (2 * length)
        seen = ((modes * values**length) ** 2).sum(1)
        is_enough, count = bool((unseen <= _UNSEEN * seen).all()), 2 * count
    if not is_enough:
        values, modes = np.linalg.eigh(steps.toarray())
        kept = np.abs(values) ** (2 * length) > _UNSEEN**3
        values, modes = values[kept], modes[:, kept]
    vectors = modes * values**length
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


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
        row[parts[number].positions] = _covered(parts[number], [center])
    labels, best = np.full(size, -1), np.zeros(size)
    for label, row in enumerate(likeness):
        closer = row > best + _TIE
        labels[closer], best[closer] = label, row[closer]
    coverage = float(likeness.max(0, initial=0.0).mean())
    without = [
        np.delete(likeness, label, 0).max(0, initial=0.0).mean()
        for label in range(len(chosen))
    ]
    positions = [parts[number].positions[center] for number, center in chosen]
    return Cover(np.array(positions), labels, coverage - np.array(without), coverage)


def _greedy(
    parts: Sequence[Reach], at_most: int, least: float
) -> list[tuple[int, int]]:
    """Component and place in it of each chosen instance."""
    # Choosing in one component changes the gains in no other.
    covered = [np.zeros(len(part.positions)) for part in parts]
    offers = list(map(_best_offer, parts, covered))
    chosen: list[tuple[int, int]] = []
    while len(chosen) < at_most:
        number = int(np.argmax([gain for gain, _ in offers]))
        gain, center = offers[number]
        if gain <= 0 or gain < least * (1 - _TIE):
            break
        part = parts[number]
        covered[number] = np.maximum(covered[number], _covered(part, [center]))
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
        others = chosen[:turn] + chosen[turn + 1 :]
        covered = _covered(part, [place for other, place in others if other == number])
        gain, better = _best_offer(part, covered)
        own = np.maximum(_covered(part, [center]) - covered, 0.0).sum()
        if gain > own + _TIE * len(covered):
            chosen[turn], settled = (number, better), 0
        settled, turn = settled + 1, (turn + 1) % len(chosen)
    return chosen


def _likeness(part: Reach, vectors: Floats) -> Floats:
    likeness: Floats = np.maximum(vectors @ part.vectors.T, 0.0)
    return likeness


def _covered(part: Reach, centers: list[int]) -> Floats:
    """The largest likeness of each instance to one of some of its component."""
    covered: Floats = _likeness(part, part.vectors[centers]).max(0, initial=0.0)
    return covered


def _best_offer(part: Reach, covered: Floats) -> tuple[float, int]:
    """The largest gain in a component, and the instance that brings it."""
    gains = np.empty(len(covered))
    for start in range(0, len(gains), _BLOCK):
        likeness = _likeness(part, part.vectors[start : start + _BLOCK])
        gains[start : start + _BLOCK] = np.maximum(likeness - covered, 0.0).sum(1)
    rounded = np.round(gains / len(gains) / _TIE) * _TIE
    center = int(np.argmax(rounded))
    return float(rounded[center] * len(gains)), center
