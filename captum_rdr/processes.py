"""Collective calls that either give every process the same or raise."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Processes:
    """A group of processes.

    Args:
        group: the process group; the default one if None.

    Raises:
        RuntimeError: ``torch.distributed`` is not set up; so does every method if a
            process died or did not answer within the group's timeout.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError(
                "there is no process group; call torch.distributed.init_process_group "
                "first, and start the script with torchrun"
            )
        self._group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        on_gpu = dist.get_backend(group) == "nccl"
        self._device = torch.device("cuda" if on_gpu else "cpu")

    def gather(self, own: Tensor) -> list[Tensor]:
        """A tensor from every process, by rank; all must have one shape and dtype."""
        own = own.to(self._device)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        with _no_silence(self.size):
            dist.all_gather(parts, own, group=self._group)
        return [part.cpu() for part in parts]

    def gather_numbers(self, number: int) -> list[int]:
        """A whole number from every process, by rank."""
        return [int(part) for part in self.gather(torch.tensor([number]))]

    def total(self, own: Tensor) -> Tensor:
        """The sum over all processes."""
        total = own.to(self._device, copy=True)
        with _no_silence(self.size):
            dist.all_reduce(total, group=self._group)
        return total.cpu()

    def from_rank(self, rank: int, own: Tensor) -> Tensor:
        """The tensor of one process; the others give one of its shape and dtype."""
        sent = own.to(self._device, copy=True)
        source = (
            rank if self._group is None else dist.get_global_rank(self._group, rank)
        )
        with _no_silence(self.size):
            dist.broadcast(sent, source, group=self._group)
        return sent.cpu()

    def agree(self, *request: Any) -> None:
        """Refuse requests that are not the same in every process.

        Raises:
            ValueError: they differ.
        """
        digest = hashlib.blake2b(repr(request).encode(), digest_size=7).digest()
        if len(set(self.gather_numbers(int.from_bytes(digest, "little")))) > 1:
            raise ValueError(
                f"the processes call {request[0]} with different arguments, or hold "
                "banks of different models, layers or thresholds; give all the same"
            )


@contextmanager
def _no_silence(size: int) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RuntimeError(
            f"one of {size} processes died or did not answer in time ({error}); end the "
            "others and start all again, with fit's out and resume=True to keep what is "
            "finished"
        ) from error
