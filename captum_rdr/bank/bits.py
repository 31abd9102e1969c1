"""Packed states: packing, Hamming distances and column reads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import simsimd
import torch
from torch import Tensor

Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

# A block of bank rows that stays in a core's second-level cache while every query
# of a batch is compared with it.
_CACHE_BYTES = 1 << 19
# Reading more than this share of a row's bytes is slower than unpacking the row.
_UNPACK_SHARE = 0.5
_EXCHANGES = [
    (np.uint64(7), np.uint64(0x00AA00AA00AA00AA)),
    (np.uint64(14), np.uint64(0x0000CCCC0000CCCC)),
    (np.uint64(28), np.uint64(0x00000000F0F0F0F0)),
]


def row_bytes(n_neurons: int) -> int:
    """Bytes of a packed row of ``n_neurons`` neurons.

    >>> row_bytes(12)
    2
    """
    return (n_neurons + 7) // 8


def pack(states: Tensor) -> Tensor:
    """Pack boolean states on the device that holds them, so that only bits travel.

    Args:
        states: bool tensor of shape ``(M, D)``.

    Returns:
        uint8 tensor of shape ``(M, ceil(D / 8))`` on the same device.

    >>> pack(torch.tensor([[True, False, False, True], [False, True, True, True]]))
    tensor([[ 9],
            [14]], dtype=torch.uint8)
    """
    if states.device.type == "cpu":
        return torch.from_numpy(np.packbits(states.numpy(), axis=-1, bitorder="little"))
    return _pack_by_arithmetic(states)


def _pack_by_arithmetic(states: Tensor) -> Tensor:
    """`pack` in tensor operations that every device has."""
    n_bytes = row_bytes(states.shape[-1])
    padded = torch.nn.functional.pad(
        states.to(torch.uint8), (0, 8 * n_bytes - states.shape[-1])
    )
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)
    grouped = padded.reshape(-1, n_bytes, 8) * weights.to(states.device)
    return torch.sum(grouped, -1, dtype=torch.uint8)


def unpack(rows: Bytes, n_neurons: int) -> Bools:
    """Boolean states ``(M, D)`` of packed rows ``(M, >= ceil(D / 8))``.

    >>> unpack(np.array([[9]], np.uint8), 4)
    array([[ True, False, False,  True]])
    """
    return np.unpackbits(rows, axis=-1, count=n_neurons, bitorder="little").view(bool)


def count_active(rows: Bytes, n_neurons: int) -> Ints:
    """In how many packed rows each neuron is active, ``(D,)``.

    >>> count_active(np.array([[9], [14]], np.uint8), 4)
    array([1, 1, 1, 2])
    """
    counts = np.zeros(n_neurons, np.int64)
    for block in range(0, len(rows), 255):  # as many as a byte can count
        unpacked = unpack(rows[block : block + 255], n_neurons)
        counts += unpacked.view(np.uint8).sum(0, dtype=np.uint8)
    return counts


def transposed(rows: Bytes) -> Bytes:
    """The bit matrix of packed rows, packed along its columns.

    Blocks of eight by eight bits lie in a 64-bit word each and are transposed there by
    three exchanges (Warren, *Hacker's Delight*, Section 7-3).

    Args:
        rows: uint8 ``(N, B)``, N a multiple of 8.

    Returns:
        uint8 ``(8 * B, N / 8)``: row i holds bit i of every row.

    >>> transposed(np.array([[1], [3], [1], [0], [0], [0], [0], [2]], np.uint8))[:2]
    array([[  7],
           [130]], dtype=uint8)
    """
    n_eighths, n_bytes = len(rows) // 8, rows.shape[1]
    result = np.empty((n_bytes, 8, n_eighths), np.uint8)
    for start in range(0, n_bytes, 64):
        part = rows[:, start : start + 64].reshape(n_eighths, 8, -1)
        words = part.transpose(2, 0, 1).copy(order="C").view("<u8")[..., 0]
        for shift, mask in _EXCHANGES:
            differing = (words ^ (words >> shift)) & mask
            words ^= differing ^ (differing << shift)
        turned = words.view(np.uint8).reshape(*words.shape, 8)
        result[start : start + 64] = turned.transpose(0, 2, 1)
    return result.reshape(8 * n_bytes, n_eighths)


def hamming(queries: Bytes, rows: Bytes) -> npt.NDArray[np.uint32]:
    """Number of bits in which each query differs from each row.

    Args:
        queries: packed rows, uint8 of shape ``(Q, B)``.
        rows: packed rows, uint8 of shape ``(N, B)``.

    Returns:
        uint32 array of shape ``(Q, N)``.

    >>> hamming(np.array([[9]], np.uint8), np.array([[9], [14]], np.uint8))
    array([[0, 3]], dtype=uint32)
    """
    distances = np.empty((len(queries), len(rows)), np.uint32)
    threads = torch.get_num_threads()
    if len(queries) == 1 or threads == 1 or rows.nbytes <= _CACHE_BYTES:
        _fill(distances, queries, rows, threads)
        return distances
    # A share of the rows for each thread: they need not wait for each other at every
    # block, which costs much where other work keeps the cores busy.
    share = -(-len(rows) // threads)
    with ThreadPoolExecutor(threads) as pool:
        shares = [slice(start, start + share) for start in range(0, len(rows), share)]
        list(
            pool.map(
                lambda own: _fill(distances[:, own], queries, rows[own], 1), shares
            )
        )
    return distances


def _fill(
    distances: npt.NDArray[np.uint32], queries: Bytes, rows: Bytes, threads: int
) -> None:
    """Write distances ``(Q, N)``, block by block for several queries."""
    if len(queries) == 0:
        return
    step = len(rows) if len(queries) == 1 else _CACHE_BYTES // rows.shape[1] + 1
    for start in range(0, len(rows), max(step, 1)):
        block = rows[start : start + step]
        found = simsimd.cdist(
            queries, block, metric="hamming", dtype="bin8", threads=threads
        )
        # Whole numbers in double precision, which holds them exactly.
        distances[:, start : start + step] = np.asarray(found).reshape(-1, len(block))


def columns(rows: Bytes, neurons: Ints) -> Bools:
    """States ``(N, t)`` of the given neurons in every packed row.

    >>> columns(np.array([[9], [14]], np.uint8), np.array([3, 0]))
    array([[ True,  True],
           [ True, False]])
    """
    if len(neurons) > _UNPACK_SHARE * rows.shape[1]:
        return unpack(rows, 8 * rows.shape[1])[:, neurons]
    picked = rows[:, neurons >> 3] >> (neurons & 7).astype(np.uint8)
    return (picked & 1).view(bool)


def disagreements(rows: Bytes, neurons: Ints, states: Bools) -> Ints:
    """How many of the given neurons differ from ``states``, per packed row.

    >>> disagreements(np.array([[9], [14]], np.uint8), np.array([0, 3]),
    ...               np.array([True, True]))
    array([0, 1])
    """
    counts = np.zeros(len(rows), np.int64)
    for neuron, state in zip(neurons.tolist(), states.tolist(), strict=True):
        counts += (rows[:, neuron >> 3] >> (neuron & 7) & 1) != state
    return counts


def agreeing(rows: Bytes, neurons: Ints, states: Bools, tolerance: int) -> Ints:
    """Rows whose states on ``neurons`` disagree in at most ``tolerance`` places.

    Reads a column only of the rows that no earlier column has ruled out, so give the
    neurons that rule out most first.

    >>> agreeing(np.array([[9], [14]], np.uint8), np.array([0, 3]),
    ...          np.array([True, True]), tolerance=0)
    array([0])
    """
    left = np.arange(len(rows))
    counts = np.zeros(len(rows), np.int64)
    for read, (neuron, state) in enumerate(
        zip(neurons.tolist(), states.tolist(), strict=True)
    ):
        column = rows[:, neuron >> 3] if read == 0 else rows[left, neuron >> 3]
        counts += (column >> (neuron & 7) & 1) != state
        inside = counts <= tolerance
        left, counts = left[inside], counts[inside]
    return left


def row_width(n_neurons: int) -> int:
    """Bytes of a row of the bank: whole 64-bit words.

    >>> row_width(12)
    8
    """
    return 8 * -(-n_neurons // 64)


def packed_rows(states: Tensor, layer_shape: torch.Size) -> Bytes:
    """Instances as they lie in a bank: packed and padded with zeros to 64 bits.

    Args:
        states: bool ``(M, D)`` or ``(M, D1, ..., Dm)``, or packed uint8
            ``(M, ceil(D / 8))``; the first dimension may be missing.
        layer_shape: ``(D1, ..., Dm)``.

    Returns:
        uint8 array of shape ``(M, 8 * ceil(D / 64))``.

    Raises:
        TypeError: the dtype is neither bool nor uint8.
        ValueError: the shape does not fit, or a packed row has a bit set behind the
            last neuron.

    >>> packed_rows(torch.tensor([True, False, False, True]), torch.Size([4]))
    array([[9, 0, 0, 0, 0, 0, 0, 0]], dtype=uint8)
    """
    n_neurons = layer_shape.numel()
    states = torch.as_tensor(states).detach().cpu()
    if states.dtype not in (torch.bool, torch.uint8):
        raise TypeError(
            f"states has dtype {states.dtype}; give torch.bool states or packed "
            "torch.uint8 rows"
        )
    if not _fits(states, layer_shape):
        raise ValueError(
            f"states has shape {tuple(states.shape)} and dtype {states.dtype}, but the "
            f"layer needs bool (M, {n_neurons}) or packed uint8 "
            f"(M, {row_bytes(n_neurons)}); take them from the same layer"
        )
    if states.dtype == torch.bool:
        packed = pack(states.reshape(-1, n_neurons))
    else:
        packed = states.reshape(-1, states.shape[-1])
    spare = 8 * packed.shape[1] - n_neurons
    if spare and bool((packed[:, -1] >> (8 - spare)).any()):
        raise ValueError(
            f"states has bits set behind neuron {n_neurons - 1}; pack with "
            'numpy.packbits(..., bitorder="little")'
        )
    rows = np.zeros((len(packed), row_width(n_neurons)), np.uint8)
    rows[:, : packed.shape[1]] = packed.numpy()
    return rows


def is_single(states: Tensor, layer_shape: torch.Size) -> bool:
    """Whether states are those of one instance, without a first dimension.

    What could be a batch of one is taken as that.

    >>> is_single(torch.zeros(4, dtype=torch.bool), torch.Size([2, 2]))
    True
    """
    states = torch.as_tensor(states)
    if states.dtype == torch.uint8 or states.dim() == 1:
        return states.dim() == 1
    row_of_one = (1, layer_shape.numel())
    return states.shape == layer_shape and states.shape not in (row_of_one, (1,))


def checked_states(
    neurons: Tensor, states: Tensor, n_neurons: int
) -> tuple[Ints, Bools]:
    """Neurons and the states wanted of them, as arrays.

    Raises:
        ValueError: they differ in number, or an index is out of range.

    >>> checked_states(torch.tensor([3]), torch.tensor([True]), 4)
    (array([3]), array([ True]))
    """
    picked = torch.as_tensor(neurons, dtype=torch.int64).reshape(-1)
    wanted = torch.as_tensor(states, dtype=torch.bool).reshape(-1)
    if len(picked) != len(wanted):
        raise ValueError(
            f"{len(picked)} neurons but {len(wanted)} states; give one state each"
        )
    if len(picked) and not 0 <= picked.min() <= picked.max() < n_neurons:
        raise ValueError(
            f"neurons go from {int(picked.min())} to {int(picked.max())}, but the "
            f"layer's flat indices from 0 to {n_neurons - 1}"
        )
    return picked.numpy(), wanted.numpy()


def _fits(states: Tensor, layer_shape: torch.Size) -> bool:
    if states.dtype == torch.uint8:
        flat = row_bytes(layer_shape.numel())
        return states.dim() in (1, 2) and states.shape[-1] == flat
    n_leading = 0 if is_single(states, layer_shape) else 1
    return states.shape[n_leading:] in (layer_shape, (layer_shape.numel(),))
