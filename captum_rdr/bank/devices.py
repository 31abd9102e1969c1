"""Exact configuration distances on a device, by matrix products."""

import torch
from torch import Tensor

from captum_rdr.bank import ConfigurationBank
from captum_rdr.bank.queries import Nearest, check_k

EXACT_TERMS = {
    torch.float16: 1 << 11,
    torch.bfloat16: 1 << 8,
    torch.float32: 1 << 24,
}
"""How many products of +1 and -1 a dtype sums up exactly, in any order.

Every partial sum is a whole number of at most that size, which the dtype holds, so it does
not matter where a device adds up or rounds to it.
"""

_WORK_BYTES = 1 << 27  # unpacked rows at a time, where free memory is not known
_QUERIES = 4096  # at a time


def hamming_by_product(queries: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Number of bits in which each packed query differs from each packed row.

    With states written as +1 and -1, two rows of B bytes that differ in d bits have the
    inner product ``8 B - 2 d``. It is taken over stretches so short that ``dtype`` is
    exact, see `EXACT_TERMS`.

    Args:
        queries: uint8 ``(Q, B)``.
        rows: uint8 ``(N, B)``, on the same device.
        dtype: float16, bfloat16 or float32.

    Returns:
        int32 tensor ``(Q, N)`` on that device.

    >>> rows = torch.tensor([[9], [14]], dtype=torch.uint8)
    >>> hamming_by_product(rows[:1], rows, torch.float16)
    tensor([[0, 3]], dtype=torch.int32)
    """
    n_bytes = rows.shape[1]
    inner = torch.zeros(len(queries), len(rows), dtype=torch.int32, device=rows.device)
    step = EXACT_TERMS[dtype] // 8
    for start in range(0, n_bytes, step):
        part = slice(start, start + step)
        left, right = _signs(queries[:, part], dtype), _signs(rows[:, part], dtype)
        inner += (left @ right.T).to(torch.int32)
    return (8 * n_bytes - inner) // 2


def _signs(packed: Tensor, dtype: torch.dtype) -> Tensor:
    shifts = torch.arange(8, dtype=torch.uint8, device=packed.device)
    ones = (packed[..., None] >> shifts) & 1
    return ones.flatten(1).to(dtype).mul_(2).sub_(1)


class DeviceBank:
    """A bank's packed rows on a device, asked there; for many queries on a GPU.

    Its answers are those of the bank. On a CPU the bank itself is faster.

    Args:
        bank: the bank; rows appended to it later are not seen.
        device: where the rows go, a bit a neuron.
        dtype: of the matrix product, see `EXACT_TERMS`; by default float16 on a GPU,
            float32 on a CPU.

    Raises:
        ValueError: the dtype is none of those.

    >>> bank = ConfigurationBank((4,))
    >>> bank.append(torch.tensor([[1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]) > 0)
    >>> on_device = DeviceBank(bank, "cpu")
    >>> on_device.nearest(torch.tensor([True, False, False, True]), 2)
    Nearest(rows=tensor([[0, 1]]), distances=tensor([[0, 2]]))
    """

    def __init__(
        self,
        bank: ConfigurationBank,
        device: torch.device | str,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._bank, self._device = bank, torch.device(device)
        on_cpu = self._device.type == "cpu"
        self._dtype = dtype or (torch.float32 if on_cpu else torch.float16)
        if self._dtype not in EXACT_TERMS:
            raise ValueError(
                f"dtype={dtype} is none of {list(EXACT_TERMS)}; use one of those"
            )
        self._rows = torch.from_numpy(bank.packed).to(self._device)

    def __len__(self) -> int:
        return len(self._rows)

    def nearest(self, query: Tensor, k: int) -> Nearest:
        """The k nearest rows of each query, as `ConfigurationBank.nearest` gives them.

        Args:
            query: states or packed rows, or a single instance.
            k: number of rows, from 1 to N.

        Returns:
            rows and distances, each ``(Q, k)``, on the CPU.

        Raises:
            ValueError: ``k`` is out of range.
        """
        check_k(k, len(self))
        queries = torch.from_numpy(self._bank.as_packed(query))
        found = [
            self._nearest(part.to(self._device), k)
            for part in torch.split(queries, _QUERIES)
        ]
        keys = torch.cat(found) if found else torch.empty(0, k, dtype=torch.int64)
        return Nearest(keys % len(self), keys // len(self))

    def _nearest(self, queries: Tensor, k: int) -> Tensor:
        """Keys ``distance * N + row``, smallest first: no two are equal."""
        kept = torch.empty(len(queries), 0, dtype=torch.int64, device=self._device)
        step = self._step(len(queries))
        for start in range(0, len(self), step):
            block = self._rows[start : start + step]
            distances = hamming_by_product(queries, block, self._dtype).long()
            rows = torch.arange(start, start + len(block), device=self._device)
            keys = torch.cat([kept, distances * len(self) + rows], 1)
            kept = keys.topk(min(k, keys.shape[1]), largest=False).values
        return kept.cpu()

    def _step(self, n_queries: int) -> int:
        """Rows at a time: their signs and distances take a quarter of free memory."""
        free = 4 * _WORK_BYTES
        if self._device.type == "cuda":
            free = torch.cuda.mem_get_info(self._device)[0]
        terms = min(8 * self._rows.shape[1], EXACT_TERMS[self._dtype])
        row_bytes = terms * (2 + self._dtype.itemsize) + 40 * n_queries
        return max(1, free // 4 // row_bytes)
