"""What packed rows are asked: nearest rows, members and weighted sums.

All of it comes down to `captum_rdr.bank.bits.hamming`. Many queries go through the rows
together, a block of rows at a time, so that the working memory is bounded; no result
depends on the blocks.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_rdr.bank import bits

WORK_BYTES = 1 << 25
"""Counts that a pass over the rows holds at a time, in bytes."""

_SEGMENT = 64  # rows of which the smallest count is looked at first


class Nearest(NamedTuple):
    """Nearest bank rows of each query.

    Attributes:
        rows: int64 tensor ``(Q, k)`` of bank rows, nearest first.
        distances: int64 tensor ``(Q, k)`` of configuration distances, in neurons.
    """

    rows: Tensor
    distances: Tensor


class Wanted(NamedTuple):
    """States that are wanted of a few neurons.

    Attributes:
        neurons: int64 ``(t,)``, flat indices; those that rule out most rows first are
            fastest.
        states: bool ``(t,)``.
        tolerance: neurons that may disagree.
    """

    neurons: Tensor
    states: Tensor
    tolerance: int = 0


def _blocks(n_rows: int, row_bytes: int) -> Iterator[slice]:
    """Row ranges that fit the working memory."""
    step = max(1, WORK_BYTES // max(1, row_bytes))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def nearest(queries: Tensor, rows: Tensor, k: int, ready: Any = None) -> Nearest:
    """The k nearest rows of each packed query, ties by the lower row.

    Args:
        queries: packed rows, uint8 ``(Q, B)``.
        rows: packed rows, uint8 ``(N, B)``.
        k: how many, at most N.
        ready: what `captum_rdr.bank.bits.prepared` made of the rows, if anything.

    >>> rows = torch.tensor([[9], [14], [9]], dtype=torch.uint8)
    >>> nearest(rows[:1], rows, 2)
    Nearest(rows=tensor([[0, 2]]), distances=tensor([[0, 0]]))
    """
    if ready is not None and len(queries) == 1:
        return smallest(bits.hamming(queries, rows, ready), k)
    found = Nearest(*torch.empty(2, len(queries), 0, dtype=torch.int64))
    for block in _blocks(len(rows), 4 * len(queries)):
        counts = bits.hamming(queries, rows[block])
        near = smallest(counts, min(k, counts.shape[1]))
        known = torch.cat([found.rows, near.rows + block.start], 1)
        away = torch.cat([found.distances, near.distances], 1)
        # Stable, since those of earlier blocks are lower rows.
        order = away.argsort(dim=1, stable=True)[:, :k]
        found = Nearest(known.gather(1, order), away.gather(1, order))
    return found


def smallest(counts: Tensor, k: int) -> Nearest:
    """The k smallest counts of each query, ties by the lower position.

    Args:
        counts: int32 ``(Q, N)`` on any device.
        k: how many, at most N.

    >>> smallest(torch.tensor([[3, 1, 1, 0]], dtype=torch.int32), 3)
    Nearest(rows=tensor([[3, 1, 2]]), distances=tensor([[0, 1, 1]]))
    """
    if not bits.has_kernel(counts):
        n_rows = counts.shape[1]
        position = torch.arange(n_rows, device=counts.device)
        keys = (counts.long() * n_rows + position).topk(k, largest=False).values.cpu()
        return Nearest(keys % n_rows, keys // n_rows)
    if not len(counts):
        none = torch.empty(0, k, dtype=torch.int64)
        return Nearest(none, none)
    by_row = counts.numpy().T
    n_rows, n_queries = by_row.shape
    # The k segments of least minimum hold k rows of at most the largest of these minima,
    # so only rows up to that can be among the k nearest: few are left to sort.
    segment = max(1, min(_SEGMENT, n_rows // k))
    whole = by_row[: n_rows // segment * segment]
    least = whole.reshape(-1, segment, n_queries).min(1)
    least.partition(k - 1, axis=0)
    rows, queries = np.divmod(np.flatnonzero(by_row <= least[k - 1]), n_queries)
    away = by_row[rows, queries].astype(np.int64)
    order = np.lexsort((rows, away, queries))
    first = np.searchsorted(queries[order], np.arange(n_queries))
    kept = order[first[:, None] + np.arange(k)]
    return Nearest(torch.from_numpy(rows[kept]), torch.from_numpy(away[kept]))


def equal_rows(query: Tensor, rows: Tensor) -> Tensor:
    """Rows that equal a packed query ``(B,)``, ascending, on the CPU.

    >>> rows = torch.tensor([[9], [14], [9]], dtype=torch.uint8)
    >>> equal_rows(rows[0], rows)
    tensor([0, 2])
    """
    return (distances(query[None], rows)[0] == 0).nonzero().flatten()


def distances(queries: Tensor, rows: Tensor) -> Tensor:
    """Configuration distances, int64 ``(Q, N)`` on the CPU.

    >>> rows = torch.tensor([[9], [14]], dtype=torch.uint8)
    >>> distances(rows[:1], rows)
    tensor([[0, 3]])
    """
    found = torch.empty(len(queries), len(rows), dtype=torch.int64)
    for block in _blocks(len(rows), 4 * len(queries)):
        found[:, block] = bits.hamming(queries, rows[block]).cpu()
    return found


def disagreements(wanted: Sequence[Wanted], rows: Tensor) -> Tensor:
    """In how many of the wanted states each row differs, int64 ``(Q, N)`` on the CPU.

    With m1 and m0 the masks of the neurons that are wanted active and inactive, that is
    ``(|m1| + |m0| + H(x, m1) - H(x, m0)) / 2``.

    >>> rows = torch.tensor([[9], [14]], dtype=torch.uint8)
    >>> want = Wanted(torch.tensor([0, 3]), torch.tensor([True, True]))
    >>> disagreements([want], rows)
    tensor([[0, 1]])
    """
    masks = torch.zeros(2, len(wanted), 8 * rows.shape[1], dtype=torch.bool)
    for index, (neurons, states, _) in enumerate(wanted):
        masks[0, index, neurons[states]] = True
        masks[1, index, neurons[~states]] = True
    counted = distances(bits.pack(masks.flatten(0, 1)).to(rows.device), rows)
    active, inactive = counted[: len(wanted)], counted[len(wanted) :]
    return (masks.sum((0, 2))[:, None] + active - inactive) // 2


def agreeing(wanted: Sequence[Wanted], rows: Tensor) -> list[Tensor]:
    """For each of the wanted, the rows that differ in at most its tolerance, ascending.

    In memory the neurons' columns are read, each only of the rows that no earlier neuron
    has ruled out: for the paper's ten neurons that takes half of two Hamming counts in a
    batch, and a tenth for one region. A device counts disagreements.

    >>> rows = torch.tensor([[9], [14]], dtype=torch.uint8)
    >>> want = Wanted(torch.tensor([0, 3]), torch.tensor([True, True]))
    >>> agreeing([want, want._replace(tolerance=1)], rows)
    [tensor([0]), tensor([0, 1])]
    """
    found = [[torch.empty(0, dtype=torch.int64)] * len(wanted)]
    columnwise = bits.has_kernel(rows)
    for block in _blocks(len(rows), rows.shape[1] if columnwise else 8 * len(wanted)):
        held = rows[block]
        if columnwise:
            array = [held.numpy()] * len(wanted)
            inside = bits.in_threads(_agreeing, array, wanted)
        else:
            counts = disagreements(wanted, held)
            inside = [
                (row <= want.tolerance).nonzero().flatten()
                for row, want in zip(counts, wanted, strict=True)
            ]
        found.append([part + block.start for part in inside])
    return [torch.cat(own) for own in zip(*found, strict=True)]


def _agreeing(rows: npt.NDArray[np.uint8], want: Wanted) -> Tensor:
    left, counts = np.arange(len(rows)), None
    pairs = zip(want.neurons.tolist(), want.states.tolist(), strict=True)
    for read, (neuron, state) in enumerate(pairs):
        column = rows[:, neuron >> 3] if read == 0 else rows[left, neuron >> 3]
        differs = (column >> (neuron & 7) & 1) != state
        if want.tolerance == 0:
            left = left[~differs]
            continue
        counts = differs.astype(np.int32) if counts is None else counts + differs
        if read >= want.tolerance:  # before, no row can be ruled out
            inside = counts <= want.tolerance
            left, counts = left[inside], counts[inside]
    return torch.from_numpy(left)


def weighted_sums(weights: Tensor, rows: Tensor) -> Tensor:
    """Sum of the weights of each row's active neurons, exact.

    With the bit planes of the weights in two's complement, the highest counting
    negative, twice the sum is ``sum(w) - |x| - sum_b s_b 2^b H(x, plane_b)``, since the
    signed powers of two add up to minus one.

    Args:
        weights: whole numbers, int64 ``(Q, D)``.
        rows: packed rows, uint8 ``(N, >= ceil(D / 8))``.

    Returns:
        int64 tensor ``(Q, N)`` on the CPU.

    >>> rows = torch.tensor([[9], [14]], dtype=torch.uint8)
    >>> weighted_sums(torch.tensor([[5, 0, -2, 7], [0, 1, 0, 0]]), rows)
    tensor([[12,  5],
            [ 0,  1]])
    """
    n_queries = len(weights)
    sums = torch.empty(n_queries, len(rows), dtype=torch.int64)
    if not n_queries:
        return sums
    signed = weights.where(weights >= 0, ~weights)  # of the same length in bits
    n_planes = 1 + int(signed.max()).bit_length()
    planes = [bits.pack((weights >> bit & 1).bool()) for bit in range(n_planes)]
    masks = torch.zeros(n_planes * n_queries + 1, rows.shape[1], dtype=torch.uint8)
    masks[:-1, : planes[0].shape[1]] = torch.cat(planes)
    masks = masks.to(rows.device)
    narrow = weights.shape[1] << n_planes < 1 << 31
    dtype = torch.int32 if narrow else torch.int64
    total = weights.sum(1).to(rows.device, dtype)
    for block in _blocks(len(rows), 4 * len(masks)):
        counts = bits.hamming(masks, rows[block]).T
        twice = total - counts[:, -1:].to(dtype)
        for bit in range(n_planes):
            plane = counts[:, bit * n_queries : (bit + 1) * n_queries]
            power = 1 << bit if bit == n_planes - 1 else -(1 << bit)
            twice.add_(plane, alpha=power)
        sums[:, block] = (twice >> 1).T.cpu()
    return sums
