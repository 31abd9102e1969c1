"""Packed states, and the one thing they are asked: how many bits differ.

A packed row holds neuron ``i`` in bit ``i % 8`` of byte ``i // 8`` (little-endian), unused
bits zero. All functions are pure, and exact on every device and for every number of
threads.
"""

import functools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

try:
    import numkong
except ImportError:  # no wheel for this machine: products of +1 and -1 serve it too
    numkong = None  # type: ignore[assignment]

EXACT_TERMS = {torch.float16: 1 << 11, torch.bfloat16: 1 << 8, torch.float32: 1 << 24}
"""How many products of +1 and -1 a dtype sums up exactly, in any order.

Every partial sum is a whole number of at most that size, which the dtype holds, so it does
not matter where a device adds up or rounds to it.
"""

_SINGLY = 3  # so many queries are faster one by one than packed
_SIGNS_BYTES = 1 << 28  # of rows written as +1 and -1 at a time
_PREPARED_BYTES = 1 << 23  # a larger bank is faster as it is
_THREADED_BYTES = 1 << 22  # fewer bytes of rows are not worth a second thread


def row_bytes(n_neurons: int) -> int:
    """Bytes of a packed row of ``n_neurons`` neurons.

    >>> row_bytes(12)
    2
    """
    return (n_neurons + 7) // 8


def row_width(n_neurons: int) -> int:
    """Bytes of a row as it lies in a bank: whole 64-bit words.

    >>> row_width(12)
    8
    """
    return 8 * -(-n_neurons // 64)


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
    spare = 8 * n_bytes - states.shape[-1]
    padded = torch.nn.functional.pad(states.to(torch.uint8), (0, spare))
    weights = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8)
    grouped = padded.reshape(-1, n_bytes, 8) * weights.to(states.device)
    return torch.sum(grouped, -1, dtype=torch.uint8)


def unpack(rows: Tensor, n_neurons: int) -> Tensor:
    """Boolean states ``(M, D)``, on the CPU, of packed rows ``(M, >= ceil(D / 8))``.

    >>> unpack(torch.tensor([[9]], dtype=torch.uint8), 4)
    tensor([[ True, False, False,  True]])
    """
    packed = rows.cpu().numpy()
    array = np.unpackbits(packed, axis=-1, count=n_neurons, bitorder="little")
    return torch.from_numpy(array.view(bool))


def count_active(rows: Tensor, n_neurons: int) -> Tensor:
    """In how many packed rows each neuron is active, int64 ``(D,)`` on the CPU.

    >>> count_active(torch.tensor([[9], [14]], dtype=torch.uint8), 4)
    tensor([1, 1, 1, 2])
    """
    counts = np.zeros(n_neurons, np.int64)
    for start in range(0, len(rows), 255):  # as many as a byte can count
        states = unpack(rows[start : start + 255], n_neurons).numpy()
        counts += states.view(np.uint8).sum(0, dtype=np.uint8)
    return torch.from_numpy(counts)


def flat(states: Tensor, layer_shape: torch.Size) -> Tensor:
    """Instances in rows: states as bool ``(M, D)``, or packed uint8 ``(M, B)``.

    Args:
        states: bool ``(M, D)`` or ``(M, D1, ..., Dm)``, or packed uint8
            ``(M, ceil(D / 8))`` or padded to 64 bits; the first dimension may be missing.
        layer_shape: ``(D1, ..., Dm)``.

    Raises:
        TypeError: the dtype is neither bool nor uint8.
        ValueError: the shape does not fit.

    >>> flat(torch.tensor([[True, False], [True, True]]), torch.Size([2, 2]))
    tensor([[ True, False,  True,  True]])
    """
    n_neurons = layer_shape.numel()
    states = torch.as_tensor(states).detach()
    if states.dtype not in (torch.bool, torch.uint8):
        raise TypeError(
            f"states has dtype {states.dtype}; give torch.bool states or packed "
            "torch.uint8 rows"
        )
    fitting = [layer_shape, (n_neurons,)]
    if states.dtype == torch.uint8:
        fitting = [(row_bytes(n_neurons),), (row_width(n_neurons),)]
    one = states.shape[0 if is_single(states, layer_shape) else 1 :]
    if one not in fitting:
        raise ValueError(
            f"states has shape {tuple(states.shape)} and dtype {states.dtype}, but the "
            f"layer needs bool (M, {n_neurons}) or packed uint8 "
            f"(M, {row_bytes(n_neurons)}); take them from the same layer"
        )
    return states.reshape(-1, one.numel())


def padded(states: Tensor, layer_shape: torch.Size) -> Tensor:
    """Instances as they lie in a bank: packed and padded with zeros to 64 bits.

    Args:
        states: as `flat` takes them.
        layer_shape: ``(D1, ..., Dm)``.

    Returns:
        uint8 tensor of shape ``(M, 8 * ceil(D / 64))`` on the same device.

    Raises:
        TypeError: the dtype is neither bool nor uint8.
        ValueError: the shape does not fit, or a packed row has a bit set behind the
            last neuron.

    >>> padded(torch.tensor([True, False, False, True]), torch.Size([4]))
    tensor([[9, 0, 0, 0, 0, 0, 0, 0]], dtype=torch.uint8)
    """
    n_neurons, rows = layer_shape.numel(), flat(states, layer_shape)
    if rows.dtype == torch.bool:
        rows = pack(rows)
    full, spare = divmod(n_neurons, 8)
    last, behind = rows[:, full : full + bool(spare)], rows[:, row_bytes(n_neurons) :]
    if bool((last >> spare).any() or behind.any()):
        raise ValueError(
            f"states has bits set behind neuron {n_neurons - 1}; pack with "
            'numpy.packbits(..., bitorder="little")'
        )
    return torch.nn.functional.pad(rows, (0, row_width(n_neurons) - rows.shape[1]))


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


def has_kernel(held: Tensor) -> bool:
    """Whether this machine has a kernel for packed rows that lie where ``held`` does.

    >>> has_kernel(torch.empty(0, device="meta"))
    False
    """
    return numkong is not None and held.device.type == "cpu"


def prepared(rows: Tensor) -> Any:
    """What makes a single query of a narrow bank five times faster, or None.

    It is a second copy of the rows in the kernel's own order, so only small banks that
    are asked again and again have one.
    """
    if not has_kernel(rows) or rows.nbytes > _PREPARED_BYTES or not len(rows):
        return None
    return numkong.hammings_pack(rows.numpy())


def hamming(queries: Tensor, rows: Tensor, ready: Any = None) -> Tensor:
    """Number of bits in which each query differs from each row: the one primitive.

    Args:
        queries: packed rows, uint8 ``(Q, B)``.
        rows: packed rows, uint8 ``(N, B)``, on the same device.
        ready: what `prepared` made of these rows, if anything.

    Returns:
        int32 tensor ``(Q, N)`` on that device; the rows' axis is the outer one in
        memory.

    >>> hamming(torch.tensor([[9]]).byte(), torch.tensor([[9], [14]]).byte())
    tensor([[0, 3]], dtype=torch.int32)
    """
    if not has_kernel(rows):
        return hamming_by_product(queries, rows)
    if not len(rows) or not len(queries):
        return torch.empty(len(queries), len(rows), dtype=torch.int32)
    asked, held = queries.numpy(), rows.numpy()
    if len(queries) <= _SINGLY:
        if ready is not None:
            found = numkong.hammings_packed(asked, ready)
            return torch.from_numpy(np.asarray(found).view(np.int32))
        counts = np.empty((len(queries), len(rows)), np.int32)

        def count(start: int, stop: int) -> None:
            some = held[start:stop]
            found = numkong.cdist(asked, some, metric="hamming", dtype="uint1")
            counts[:, start:stop] = np.asarray(found)  # doubles, which hold them all

        in_shares(rows, count)
        return torch.from_numpy(counts)
    out = numkong.empty((len(rows), len(queries)), dtype="uint32")
    packed = numkong.hammings_pack(asked)

    def fill(start: int, stop: int) -> None:
        numkong.hammings_packed(held, packed, out=out, start_row=start, end_row=stop)

    in_shares(rows, fill)
    return torch.from_numpy(np.asarray(out).view(np.int32)).T


def in_shares(rows: Tensor, call: Callable[[int, int], Any]) -> None:
    """Call with a share of the rows, ``(start, stop)``, in every thread of PyTorch's.

    Each thread has its own share, so that none waits for another before the end.
    """
    threads = min(torch.get_num_threads(), max(1, len(rows)))
    if rows.nbytes <= _THREADED_BYTES:
        threads = 1
    ends = [len(rows) * share // threads for share in range(threads + 1)]
    in_threads(call, ends[:-1], ends[1:])


def in_threads(call: Callable[..., Any], *arguments: Sequence[Any]) -> list[Any]:
    """``list(map(call, *arguments))`` in as many threads as PyTorch uses."""
    threads = torch.get_num_threads()
    if threads == 1 or len(arguments[0]) == 1:
        return list(map(call, *arguments))
    return list(_threads(os.getpid(), threads).map(call, *arguments))


@functools.lru_cache(maxsize=4)
def _threads(process: int, count: int) -> ThreadPoolExecutor:
    """Threads that wait for work; a forked process, which has none, gets its own."""
    return ThreadPoolExecutor(count, "captum_rdr")


def hamming_by_product(
    queries: Tensor, rows: Tensor, dtype: torch.dtype | None = None
) -> Tensor:
    """`hamming` by matrix products, for devices that have no kernel of their own.

    With states written as +1 and -1, two rows of B bytes that differ in d bits have the
    inner product ``8 B - 2 d``. It is taken over stretches so short that ``dtype`` is
    exact, see `EXACT_TERMS`.

    Args:
        queries: uint8 ``(Q, B)``.
        rows: uint8 ``(N, B)``, on the same device.
        dtype: float16, bfloat16 or float32; by default float16, float32 on a CPU.

    Returns:
        int32 tensor ``(Q, N)`` on that device.

    >>> rows = torch.tensor([[9], [14]], dtype=torch.uint8)
    >>> hamming_by_product(rows[:1], rows, torch.float16)
    tensor([[0, 3]], dtype=torch.int32)
    """
    on_cpu = rows.device.type == "cpu"
    dtype = dtype or (torch.float32 if on_cpu else torch.float16)
    n_bytes = rows.shape[1]
    stretch = min(n_bytes, EXACT_TERMS[dtype] // 8)
    height = max(1, _SIGNS_BYTES // max(1, 8 * stretch * dtype.itemsize))
    inner = torch.zeros(len(rows), len(queries), dtype=torch.int32, device=rows.device)
    for start in range(0, n_bytes, max(1, stretch)):
        part = slice(start, start + stretch)
        right = _signs(queries[:, part], dtype).T
        for first in range(0, len(rows), height):
            left = _signs(rows[first : first + height, part], dtype)
            inner[first : first + height] += (left @ right).to(torch.int32)
    return ((8 * n_bytes - inner) // 2).T


def _signs(packed: Tensor, dtype: torch.dtype) -> Tensor:
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    ones = (packed[..., None] >> shifts) & 1
    return ones.flatten(1).to(dtype).mul_(2).sub_(1)
