"""Passes over a bank's rows, block by block.

Pure functions on blocks: pairs of a first row and the packed rows from there on, each
read once and not kept. A result does not depend on how the rows are cut into blocks.
"""

import operator
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_rdr.bank import bits
from captum_rdr.bank.diskrows import DiskRows

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


Blocks = Iterable[tuple[int, bits.Bytes]]

_DISTANCE_BYTES = 1 << 23  # of distances held at a time


class Nearest(NamedTuple):
    """Nearest bank rows of each query.

    Attributes:
        rows: int64 tensor ``(Q, k)`` of bank rows, nearest first.
        distances: int64 tensor ``(Q, k)`` of configuration distances, in neurons.
    """

    rows: Tensor
    distances: Tensor


def check_k(k: int, n_rows: int) -> None:
    """Refuse a number of nearest rows that the bank does not have.

    Raises:
        ValueError: it is not between 1 and N.
    """
    if not 1 <= operator.index(k) <= n_rows:
        raise ValueError(
            f"k={k} is not between 1 and the bank's {n_rows} instances; change k or "
            "append more"
        )


def distances(blocks: Blocks, n_rows: int, queries: bits.Bytes) -> bits.Ints:
    """Configuration distances ``(Q, N)`` from packed queries to every row.

    >>> rows = np.array([[9], [14]], np.uint8)
    >>> distances([(0, rows)], 2, rows[:1])
    array([[0, 3]])
    """
    found = np.empty((len(queries), n_rows), np.int64)
    for start, block in blocks:
        found[:, start : start + len(block)] = bits.hamming(queries, block)
    return found


def nearest(blocks: Blocks, queries: bits.Bytes, k: int) -> Nearest:
    """The k nearest rows of each packed query, ties by the lower row.

    >>> rows = np.array([[9], [14], [9]], np.uint8)
    >>> nearest([(0, rows)], rows[:1], 2)
    Nearest(rows=tensor([[0, 2]]), distances=tensor([[0, 0]]))
    """
    kept = [(np.empty(0, np.int64), np.empty(0, np.int64)) for _ in queries]
    # Only a row nearer than this can still be among the k.
    bounds = np.full(len(queries), np.iinfo(np.int64).max)
    step = max(k, _DISTANCE_BYTES // (4 * max(1, len(queries))))
    for first, block in blocks:
        for start in range(0, len(block), step):
            found = bits.hamming(queries, block[start : start + step])
            for index in np.flatnonzero(found.min(1) < bounds).tolist():
                kept[index] = _merged(kept[index], first + start, found[index], k)
                if len(kept[index][0]) == k:
                    bounds[index] = kept[index][1][-1]
    both = np.array(kept, np.int64).reshape(len(queries), 2, k)
    return Nearest(torch.from_numpy(both[:, 0]), torch.from_numpy(both[:, 1]))


def _merged(
    kept: tuple[bits.Ints, bits.Ints], first: int, found: npt.NDArray[np.uint32], k: int
) -> tuple[bits.Ints, bits.Ints]:
    """The k nearest of those kept and the rows from ``first`` on."""
    near = smallest(found, min(k, len(found)))
    rows = np.concatenate([kept[0], near + first])
    away = np.concatenate([kept[1], found[near].astype(np.int64)])
    order = np.argsort(away, kind="stable")[:k]  # those kept are lower rows
    return rows[order], away[order]


def equal_rows(blocks: Blocks, query: bits.Bytes) -> bits.Ints:
    """Rows that equal a packed query ``(B,)``, ascending.

    >>> equal_rows([(0, np.array([[9], [14], [9]], np.uint8))], np.array([9], np.uint8))
    array([0, 2])
    """
    return _joined(
        first + np.flatnonzero(bits.hamming(query[None], block)[0] == 0)
        for first, block in blocks
    )


def disagreements(
    blocks: Blocks, n_rows: int, neurons: bits.Ints, states: bits.Bools
) -> bits.Ints:
    """How many of the given neurons differ from ``states``, per row."""
    counts = np.empty(n_rows, np.int64)
    for start, block in blocks:
        counts[start : start + len(block)] = bits.disagreements(block, neurons, states)
    return counts


def agreeing(
    blocks: Blocks, neurons: bits.Ints, states: bits.Bools, tolerance: int
) -> bits.Ints:
    """Rows that differ from ``states`` in at most ``tolerance`` neurons, ascending."""
    return _joined(
        first + bits.agreeing(block, neurons, states, tolerance)
        for first, block in blocks
    )


def column_disagreements(
    columns: DiskRows, n_rows: int, neurons: bits.Ints, states: bits.Bools
) -> bits.Ints:
    """`disagreements` from rows of one neuron each, of which only those are read."""
    counts = np.zeros(n_rows, np.int64)
    for neuron, state in zip(neurons, states.tolist(), strict=True):
        column = columns.take(neuron[None])
        counts += bits.unpack(column, n_rows)[0] != state
    return counts


def weighted_sum(
    blocks: Blocks,
    n_rows: int,
    neurons: bits.Ints,
    weights: npt.NDArray[np.float64],
    work_bytes: int,
) -> npt.NDArray[np.float64]:
    """Sum of the weights ``(t, W)`` of each row's active neurons, ``(N, W)``."""
    total = np.empty((n_rows, weights.shape[1]))
    step = max(1, work_bytes // (8 * max(1, len(neurons))))
    for first, block in blocks:
        for start in range(0, len(block), step):
            part = bits.columns(block[start : start + step], neurons)
            total[first + start : first + start + len(part)] = (
                part.astype(np.float64) @ weights
            )
    return total


def _joined(parts: Iterable[bits.Ints]) -> bits.Ints:
    return np.concatenate([np.empty(0, np.int64), *parts])
