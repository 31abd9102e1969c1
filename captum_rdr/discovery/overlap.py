"""How far sets of bank rows overlap, beside chance."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array
from scipy.stats import hypergeom
from torch import Tensor

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Matches(NamedTuple):
    """The best match of each set among other sets.

    Attributes:
        match: int64 ``(Q,)``, position of the set that it overlaps most, ties to the
            lower one.
        jaccard: float64 ``(Q,)``, their Jaccard index, shared rows over all rows.
        chance: float64 ``(Q,)``, the Jaccard index of two random sets of these sizes, at
            their expected overlap.
        p_value: float64 ``(Q,)``, chance that any of the other sets overlaps as
            improbably much, if it was drawn at random (Bonferroni's bound over them).
    """

    match: Ints
    jaccard: Floats
    chance: Floats
    p_value: Floats


def best_matches(
    sets: Sequence[Tensor],
    others: Sequence[Tensor],
    own: Ints,
    own_of_others: Ints,
    n_rows: int,
) -> Matches:
    """Match each set with the other that it overlaps most.

    Every set holds a row of its own by construction, its query, which is no evidence of
    anything: the test takes the own rows of both sets away, and asks how likely random
    sets of what is left of their sizes share as many of the other rows
    (hypergeometric tail, exact).

    Args:
        sets: Q sets of bank rows, ascending.
        others: W such sets.
        own: int64 ``(Q,)``, own row of each set.
        own_of_others: int64 ``(W,)``, own row of each of the others.
        n_rows: number of rows N that sets are drawn from.

    >>> import torch
    >>> found = best_matches([torch.tensor([0, 1, 2])], [torch.tensor([1, 2, 3])],
    ...                      np.array([0]), np.array([3]), 100)
    >>> found.jaccard, found.chance.round(3), found.p_value.round(5)
    (array([0.5]), array([0.015]), array([0.00021]))
    """
    first, second = _incidence(sets, n_rows), _incidence(others, n_rows)
    sizes = np.array([len(rows) for rows in sets])
    other_sizes = np.array([len(rows) for rows in others])
    shared = (first @ second.T).tocoo()
    one, other = shared.coords
    union = sizes[one] + other_sizes[other] - shared.data
    similarity = shared.data / union
    order = np.lexsort((other, -np.round(similarity, 12), one))
    meeting, starts = np.unique(one[order], return_index=True)
    best = order[starts]  # the first of each set's pairs
    match = np.zeros(len(sets), np.int64)
    found, p_value = np.zeros(len(sets)), np.ones(len(sets))
    match[meeting], found[meeting] = other[best], similarity[best]
    pairs = _Pairs(shared.data, sizes[one], other_sizes[other])
    own_inside = first[:, own_of_others][one, other].astype(np.int64)
    own_held = second[:, own].T[one, other].astype(np.int64)
    same = (own[one] == own_of_others[other]).astype(np.int64)
    tails = _tails(pairs, own_inside, own_held, same, n_rows)
    np.minimum.at(p_value, one, len(others) * tails)
    expected = sizes * other_sizes[match] / n_rows
    chance = expected / (sizes + other_sizes[match] - expected)
    return Matches(match, found, chance, p_value)


class _Pairs(NamedTuple):
    """Pairs of sets that share a row."""

    shared: Floats
    size: Ints
    other_size: Ints


def _incidence(sets: Sequence[Tensor], n_rows: int) -> Any:
    rows = np.concatenate([rows.numpy() for rows in sets])
    heads = np.repeat(np.arange(len(sets)), [len(rows) for rows in sets])
    return csr_array((np.ones(len(rows)), (heads, rows)), shape=(len(sets), n_rows))


def _tails(
    pairs: _Pairs, own_inside: Ints, own_held: Ints, same: Ints, n_rows: int
) -> Floats:
    """Chance that as many rows are shared outside the own ones.

    Args:
        pairs: the pairs.
        own_inside: whether the own row of the other set lies in the one.
        own_held: whether the own row of the one lies in the other.
        same: whether both have the same own row.
        n_rows: number of rows.
    """
    taken = own_inside + own_held - same
    size = pairs.size - 1 - own_inside + same
    other_size = pairs.other_size - 1 - own_held + same
    left = n_rows - 2 + same
    tails: Floats = hypergeom.sf(pairs.shared - taken - 1, left, size, other_size)
    return tails
