"""Rows linked by their regions, what walks reach, and which few rows stand for all."""

import warnings
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import ArpackError, eigsh

from captum_rdr.bank import ConfigurationBank
from captum_rdr.discovery._recipe import Choices, rule_of
from captum_rdr.method.neighbors import Queries
from captum_rdr.method.regions import with_evidence

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]

LENGTHS = 8, 12, 16, 24, 32, 48
"""Steps of the walks that are tried where none are given."""

_DENSE = 400  # up to so many rows all modes of the walk are taken
_MODES = 96, 192  # of more rows, so many of the slowest modes: the others die out
_LOOKED_AT = 4000  # rows that are covered to tell how long walks should be
_UNSEEN = 1e-3  # of the squared length of a vector, at most, is left out
_BLOCK = 1024  # rows whose likeness to all others is held at a time
_TRIED = 32  # rows that a chosen one may be exchanged for
_TIE = 1e-5  # likeness, and gains a row, that differ by less tie: float32 sums


def links(
    bank: ConfigurationBank, choices: Choices, most: int, *, show_progress: bool = False
) -> Any:
    """Which rows of a bank lie in which of their regions, as a sparse matrix.

    Args:
        bank: the bank.
        choices: how regions are made, where not by the `recipe`.
        most: how many rows a region links to its own: its most evident members.
        show_progress: draw a progress bar when it takes more than a second.

    Returns:
        float64 ``csr_array`` of shape ``(N, N)``: 1 where row j is one of the rows with
        most evidence in the region of row i, ties to the lower, and on the diagonal.

    >>> bank = ConfigurationBank((2,))
    >>> bank.append(torch.tensor([[True, True], [True, True], [False, True]]))
    >>> links(bank, {"n_neighbors": 1, "n_neurons": 1}, 16).toarray()
    array([[1., 1., 0.],
           [1., 1., 0.],
           [0., 0., 1.]])
    """
    rule = rule_of(bank, len(bank), choices)
    queries = Queries(bank.packed, list(range(len(bank))), bank.features)  # no copies
    found = with_evidence(bank, queries, rule, show_progress=show_progress)
    ends, tails = [0], []
    for row, (region, of_all) in enumerate(found):
        inside = region.members
        order = of_all[inside].argsort(descending=True, stable=True)
        near = inside[order[:most]]
        tails.append(near if row in near else torch.cat([near, torch.tensor([row])]))
        ends.append(ends[-1] + len(tails[-1]))
    entries = np.ones(ends[-1]), torch.cat(tails).numpy(), np.array(ends)
    return csr_array(entries, shape=(len(bank), len(bank)))


def reach(linked: Any, length: int | None = None) -> Vectors:
    """Vectors whose products tell how alike rows are in what a random walk reaches.

    A step goes along a link in either direction, with a chance in proportion to its
    weight (1, or 2 where two rows lie in each other's regions). With ``P`` the steps'
    chances, two rows are as alike as the distributions ``P^length`` from them: the cosine
    between these, each entry over the square root of how often a long walk is there.

    Up to 400 rows that is exact. Of more, as many of the walk's slowest modes are taken as
    leave out at most 0.001 of each vector's squared length, and 192 at most, with a
    warning where these leave out more of walks whose length was not given.

    Long walks merge more. Of several lengths that is taken whose parts, one for each of
    the rows that stand for all (`natural_cover`), the links hold together best: by
    modularity, the share of the links within parts less what chance would put there.

    Source: the diffusion maps of Coifman and Lafon, *Diffusion maps*, Applied and
    Computational Harmonic Analysis 2006, of which this is the cosine; the modularity of
    Newman and Girvan, *Finding and evaluating community structure in networks*, Physical
    Review E 2004.

    Args:
        linked: sparse ``(n, n)``, see `links`.
        length: number of steps; None for the best of `LENGTHS`.

    Returns:
        float32 ``(n, q)`` of unit length; products are from 0 to 1.

    >>> linked = csr_array(np.array([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]]))
    >>> vectors = reach(linked, 1)
    >>> (vectors @ vectors.T).round(2) + 0.0
    array([[1. , 0.8, 0. ],
           [0.8, 1. , 0. ],
           [0. , 0. , 1. ]], dtype=float32)
    """
    weights = (linked + linked.T).tocsr()
    scale = diags_array(1 / np.sqrt(weights.sum(1)))
    values, modes = _modes((scale @ weights @ scale).tocsr(), length or LENGTHS[0])
    if length is None:
        held = [_modularity(weights, _unit(modes * values**each)) for each in LENGTHS]
        length = LENGTHS[int(np.argmax(held))]
        unseen = _unseen(values, modes, length)
        if unseen > _UNSEEN:
            warnings.warn(
                f"walks of {length} steps leave {unseen:.2g} of how alike rows are unseen, "
                f"more than {_UNSEEN}: small concepts may merge; look at fewer rows",
                UserWarning,
                stacklevel=4,
            )
    return _unit(modes * values**length)


def _modes(steps: Any, length: int) -> tuple[Floats, Floats]:
    """Modes of a walk that do not die out in so many steps, and what a step leaves."""
    size = steps.shape[0]
    start = np.random.default_rng(0).standard_normal(size)  # the same in every run
    found: list[tuple[Floats, Floats]] = []
    with suppress(ArpackError):  # where many modes are alike it may fail
        for count in _MODES if size > _DENSE else ():
            found.append(eigsh(steps, count, v0=start))
            if _unseen(*found[-1], length) <= _UNSEEN:
                break
    return found[-1] if found else np.linalg.eigh(steps.toarray())


def _unseen(values: Floats, modes: Floats, length: int) -> float:
    """Part of a vector's squared length that modes leave out, at most."""
    # The modes of a row have length 1 together, and none of those left out is slower
    # than these: that bounds what is left out.
    missing = (1 - (modes**2).sum(1)) * np.abs(values).min() ** (2 * length)
    seen = ((modes * values**length) ** 2).sum(1)
    return float((missing / (seen + missing)).max())


def _modularity(weights: Any, vectors: Vectors) -> float:
    """How well links hold together the parts of rows that are alike."""
    some = np.arange(0, len(vectors), -(-len(vectors) // _LOOKED_AT))
    chosen = some[natural_cover(vectors[some]).chosen]
    if not len(chosen):
        return 0.0
    parts = (vectors @ vectors[chosen].T).argmax(1)
    belongs = csr_array((np.ones(len(parts)), parts, np.arange(len(parts) + 1)))
    between = (belongs.T @ weights @ belongs).toarray() / weights.sum()
    return float(np.trace(between) - np.square(between.sum(1)).sum())


def _unit(vectors: Floats) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: Vectors = (vectors / lengths).astype(np.float32)
    return unit


class Cover(NamedTuple):
    """The chosen rows, that with most rows first.

    Attributes:
        chosen: int64 ``(K,)``, positions.
        labels: int64 ``(n,)``, for each row the number of the chosen one that it is most
            alike; -1 where it is like none of them.
        gains: float64 ``(K,)``, how much coverage would be lost without each.
        coverage: mean over the rows of the largest likeness to a chosen one.
    """

    chosen: Ints
    labels: Ints
    gains: Floats
    coverage: float


def natural_cover(vectors: Vectors) -> Cover:
    """Rows that are worth 0.2 % of the coverage, and more than a row, each; 100 at most."""
    return cover(vectors, 100, min(max(0.002, 1.5 / len(vectors)), 0.5))


def cover(vectors: Vectors, at_most: int, least_gain: float) -> Cover:
    """Choose rows so that every row is much like one of them.

    The objective is that of facility location, ``f(C) = mean over x of the largest
    likeness of x to a row of C``, from 0 to 1. It is monotone and submodular. Greedy
    choice takes, again and again, the row that raises f most: twice as many rows as
    wanted. Then that row leaves, again and again, which the others make most needless,
    until K are left, as many as wanted and each worth its place. If the first K that were
    taken have a larger f, they stay instead. At last each row is exchanged for the best
    of those most like its own, as long as f rises. So f is at least
    ``1 - (1 - 1/K)^K``, hence more than ``1 - 1/e`` = 63 %, of the largest value that any
    K rows reach. What a row would add only falls as others are taken, so most need not be
    looked at again (lazy greedy).

    Source: Nemhauser, Wolsey and Fisher, *An analysis of approximations for maximizing
    submodular set functions*, Mathematical Programming 1978, Theorem 4.1; Minoux,
    *Accelerated greedy algorithms for maximizing submodular set functions*, 1978.

    Args:
        vectors: float32 ``(n, q)``, see `reach`.
        at_most: number of rows to choose, at most.
        least_gain: no row is chosen that is worth less than this of f.

    >>> angles = np.array([0.0, 0.1, 0.2, 1.5, 1.6])
    >>> vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    >>> cover(vectors, 2, 0.0).labels
    array([0, 0, 0, 1, 1])
    """
    gains, least = np.full(len(vectors), np.inf), max(_TIE, least_gain) * (1 - _TIE)
    taken: list[int] = []
    likeness = np.zeros((0, len(vectors)), np.float32)
    while len(taken) < min(2 * at_most, len(vectors)):
        best = _best_offer(vectors, likeness, gains)
        if gains[best] <= least:
            break
        taken.append(best)
        likeness = np.vstack([likeness, vectors @ vectors[best]])
    chosen, greedy = np.array(taken, int), likeness
    while len(chosen):
        losses = _losses(likeness)
        if len(chosen) <= at_most and losses.min() >= least:
            break
        chosen = np.delete(chosen, losses.argmin())
        likeness = np.delete(likeness, losses.argmin(), 0)
    greedy = greedy[: len(chosen)]
    if _coverage(greedy) > _coverage(likeness):
        chosen, likeness = np.array(taken[: len(chosen)], int), greedy
    while _exchanged(vectors, chosen, likeness):
        pass
    losses = _losses(likeness)
    covered = likeness.max(0, initial=0)
    nothing = np.zeros((1, len(vectors)), np.float32)  # where no row is worth its place
    likest = np.vstack([likeness, nothing]) > covered - _TIE
    labels = np.where(covered > _TIE, likest.argmax(0), -1)
    sizes = np.bincount(labels[labels >= 0], minlength=len(chosen))
    order = np.argsort(-sizes, kind="stable")
    ranks = np.append(np.argsort(order), -1)  # the last is that of label -1
    return Cover(chosen[order], ranks[labels], losses[order], _coverage(likeness))


def _coverage(likeness: Vectors) -> float:
    return float(likeness.max(0, initial=0).mean(dtype=float))


def _exchanged(vectors: Vectors, chosen: Ints, likeness: Vectors) -> bool:
    """Exchange each chosen row, in place, for the best of those most like its own."""
    is_better = False
    for turn in range(len(chosen)):
        others = np.delete(likeness, turn, 0).max(0, initial=0)
        own = likeness[turn] > others
        # The sum of likeness to all of its own is a product with the sum of theirs.
        central = np.argsort(-(vectors @ vectors[own].sum(0)), kind="stable")
        tried = np.sort(central[:_TRIED])
        offers = _offers(vectors, tried, others)
        loss = float(np.maximum(likeness[turn] - others, 0).mean(dtype=float))
        if offers.max() > loss + 2 * _TIE:
            chosen[turn] = tried[offers.argmax()]
            likeness[turn] = vectors @ vectors[chosen[turn]]
            is_better = True
    return is_better


def _losses(likeness: Vectors) -> Floats:
    """How much coverage would be lost without each of the chosen rows."""
    count, size = likeness.shape
    if count < 2:
        return np.asarray(likeness.mean(1, dtype=float))
    second, first = np.partition(likeness, (-2, -1), axis=0)[-2:]
    lost = np.bincount(likeness.argmax(0), first - np.maximum(second, 0), count)
    result: Floats = lost / size
    return result


def _best_offer(vectors: Vectors, likeness: Vectors, gains: Floats) -> int:
    """The row that would raise coverage most, ties to the lower.

    ``gains`` are bounds, brought up to date for the rows that are looked at.
    """
    covered = likeness.max(0, initial=0)
    is_known = np.zeros(len(gains), bool)
    while True:
        best = int(np.argmax(gains))
        if is_known[best]:
            return best
        # All at first; later a few are enough.
        ranked = np.argsort(-gains, kind="stable")[: 64 if gains[best] < 1 else _BLOCK]
        asked = ranked[~is_known[ranked]]
        gains[asked] = _offers(vectors, asked, covered)
        is_known[asked] = True


def _offers(vectors: Vectors, rows: Ints, covered: Vectors) -> Floats:
    """How much each of some rows would raise coverage."""
    raised = np.maximum(vectors[rows] @ vectors.T - covered, 0)
    rounded: Floats = np.round(raised.mean(1, dtype=float) / _TIE) * _TIE
    return rounded
