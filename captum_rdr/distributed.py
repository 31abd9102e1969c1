"""Banks that are made and asked by several processes, with `torch.distributed`.

Instance i of the data belongs to process ``i % P`` of P, as with PyTorch's
``DistributedSampler`` without shuffling, but without the instances that it repeats to
give every process as many. All functions here are collective: every process of the group
calls them with the same arguments, and every one gets the same answer, the one that a
single process with all of the data would give.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    Subset,
)
from torch.utils.data.distributed import DistributedSampler

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.bank.queries import Nearest, check_k
from captum_rdr.model.inputs import BATCH_SIZE
from captum_rdr.pooling import Pool


class _Processes:
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


_FAR = torch.iinfo(torch.int64).max


class ShardedBank:
    """A bank whose rows lie with the processes of a group.

    Args:
        bank: this process's share: row j is instance ``rank + j * P`` of the data.
        group: the process group; the default one if None.

    Raises:
        ValueError: the shares are not those of one layer and one set of data.
        RuntimeError: a process died or did not answer in time; so does every method.

    >>> dist.init_process_group(
    ...     "gloo", store=dist.HashStore(), rank=0, world_size=1
    ... )  # as torchrun's processes do: dist.init_process_group("gloo")
    >>> share = ConfigurationBank((3,))
    >>> share.append(torch.tensor([[True, True, False], [True, False, True]]))
    >>> sharded = ShardedBank(share)
    >>> len(sharded), sharded.active_counts()
    (2, tensor([2, 1, 1]))
    >>> sharded.nearest(torch.tensor([True, False, False]), 1).rows
    tensor([[0]])
    >>> sharded.members(torch.tensor([2]), torch.tensor([True]))
    tensor([1])
    >>> sharded.gather()
    ConfigurationBank(2 instances x 3 neurons of shape (3,), 16 bytes)
    >>> dist.destroy_process_group()
    """

    def __init__(
        self, bank: ConfigurationBank, group: dist.ProcessGroup | None = None
    ) -> None:
        self.bank = bank
        self._processes = _Processes(group)
        self._processes.agree(
            "ShardedBank",
            tuple(bank.layer_shape),
            bank.threshold.tolist(),
            bank.fingerprint,
            bank.attribute_to_layer_input,
            bank.features is None,
        )
        lengths = self._processes.gather_numbers(len(bank))
        self._length = sum(lengths)
        shares = [len(self._instances(rank)) for rank in range(len(lengths))]
        if lengths != shares:
            raise ValueError(
                f"the processes hold {lengths} rows, not {shares} as of one set of data; "
                "load every process's own share"
            )

    def _instances(self, rank: int) -> range:
        return range(rank, self._length, self._processes.size)

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        count = self._processes.size
        return (
            f"ShardedBank({len(self)} instances, {count} processes, here {self.bank!r})"
        )

    def active_counts(self) -> Tensor:
        """In how many instances each neuron is active, int64 ``(D,)``."""
        self._processes.agree("active_counts")
        return self._processes.total(self.bank.active_counts)

    def nearest(self, query: Tensor, k: int) -> Nearest:
        """`ConfigurationBank.nearest` over the rows of all processes.

        Args:
            query: states or packed rows, or a single instance.
            k: number of rows, from 1 to N.

        Returns:
            instances and distances, each ``(Q, k)``.

        Raises:
            ValueError: ``k`` is out of range, or the processes ask different things.
        """
        check_k(k, len(self))
        queries = self.bank.as_packed(query)
        self._processes.agree("nearest", k, queries.tobytes())
        found = self.bank.nearest_packed(queries, min(k, len(self.bank)))
        own = torch.full((2, len(queries), k), _FAR)
        own[0, :, : found.rows.shape[1]] = self._ids(found.rows)
        own[1, :, : found.rows.shape[1]] = found.distances
        rows, distances = torch.cat(self._processes.gather(own), 2).numpy()
        order = np.lexsort((rows, distances))[:, :k]
        return Nearest(
            torch.from_numpy(np.take_along_axis(rows, order, 1)),
            torch.from_numpy(np.take_along_axis(distances, order, 1)),
        )

    def members(self, neurons: Tensor, states: Tensor, tolerance: int = 0) -> Tensor:
        """`ConfigurationBank.members` over the rows of all processes.

        Args:
            neurons: int64 ``(t,)``, flat indices.
            states: bool ``(t,)``.
            tolerance: neurons that may disagree.

        Returns:
            int64 tensor of instances, ascending.

        Raises:
            ValueError: an argument is out of range, or they differ between processes.
        """
        self._processes.agree("members", neurons.tolist(), states.tolist(), tolerance)
        own = self._ids(self.bank.members(neurons, states, tolerance))
        lengths = self._processes.gather_numbers(len(own))
        padded = torch.zeros(max(lengths), dtype=torch.int64)
        padded[: len(own)] = own
        parts = zip(self._processes.gather(padded), lengths, strict=True)
        return torch.cat([part[:length] for part, length in parts]).sort().values

    def _ids(self, rows: Tensor) -> Tensor:
        """Instances that rows of this process's share are."""
        return self._processes.rank + rows * self._processes.size

    def gather(self) -> ConfigurationBank:
        """The whole bank in every process's memory, its rows in the order of the data."""
        self._processes.agree("gather")
        bank, features = self.bank, self.bank.features
        rows = self._interleaved(bank.rows)
        kept = None if features is None else self._interleaved(features)
        whole = bank.emptied(reserve=len(self))
        whole.append(rows, kept)
        return whole

    def _interleaved(self, own: Tensor) -> Tensor:
        whole = torch.empty(len(self), own.shape[1], dtype=own.dtype)
        for rank in range(self._processes.size):
            instances = self._instances(rank)
            mine = rank == self._processes.rank
            part = own if mine else own.new_empty(len(instances), own.shape[1])
            whole[instances.start :: instances.step] = self._processes.from_rank(
                rank, part.contiguous()
            )
        return whole


def fit_sharded(
    forward_func: Callable[..., Any],
    layer: Module,
    data: Dataset[Any] | DataLoader[Any],
    *,
    threshold: float | Tensor = 0.0,
    pool: Pool | None = None,
    call_index: int | None = None,
    group: dist.ProcessGroup | None = None,
    **fit_arguments: Any,
) -> ShardedBank:
    """Index the reference data with all processes of a group, each its share.

    Args:
        forward_func: the model, as in `RelaxedDecisionRegion`; the same weights in every
            process. Not wrapped in ``DistributedDataParallel``: nothing is trained.
        layer: the module to explain.
        data: all of the data, the same in every process: a Dataset with a length, or a
            DataLoader over one. The loader's workers, batch size and collation are used;
            its sampler, in order or a ``DistributedSampler``, is replaced.
        threshold: as in `RelaxedDecisionRegion`, but not ``"median"``.
        pool: as there.
        call_index: as there.
        group: the process group; the default one if None.
        **fit_arguments: as in `RelaxedDecisionRegion.fit`; give each process an ``out``
            of its own.

    Raises:
        TypeError: the data has no length or no order.
        ValueError: there are fewer instances than processes, or the threshold is the
            median, which no process knows alone.
        RuntimeError: a process failed, died or did not answer in time.

    >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU())
    >>> data = torch.utils.data.TensorDataset(torch.randn(20, 4))
    >>> len(fit_sharded(model, model[1], data, show_progress=False))
    20
    >>> dist.destroy_process_group()
    """
    if isinstance(threshold, str):
        raise ValueError(
            f"threshold={threshold!r} needs the activations of all processes; fit one "
            "process on a part of the data and pass its bank.threshold"
        )
    processes = _Processes(group)
    rdr = RelaxedDecisionRegion(
        forward_func, layer, threshold=threshold, pool=pool, call_index=call_index
    )
    failure: Exception | None = None
    try:
        rdr.fit(_share(data, processes.rank, processes.size), **fit_arguments)
    except Exception as error:
        failure = error
    flags = processes.gather_numbers(int(failure is not None))
    if failure is not None:
        raise failure
    if any(flags):
        failed = [rank for rank, flag in enumerate(flags) if flag]
        raise RuntimeError(
            f"processes {failed} of {len(flags)} failed to index their share; see their "
            "errors"
        )
    return ShardedBank(rdr.bank, group)


def _share(data: Any, rank: int, size: int) -> DataLoader[Any]:
    """A loader of the instances ``rank``, ``rank + size``, ... of the data."""
    loader = data if isinstance(data, DataLoader) else DataLoader(data, BATCH_SIZE)
    dataset, sampler = loader.dataset, loader.sampler
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise TypeError(
            f"data is a {type(dataset).__name__} without length or order; give a dataset "
            "with __len__ and __getitem__"
        )
    if loader.batch_size is None or not isinstance(
        sampler, (SequentialSampler, DistributedSampler)
    ):
        raise ValueError(
            f"data is read by a {type(sampler).__name__} or a batch sampler, whose order "
            "a share would not keep; put the order into the dataset with "
            "torch.utils.data.Subset"
        )
    if len(dataset) < size:
        raise ValueError(
            f"data has {len(dataset)} instances for {size} processes; start fewer"
        )
    return DataLoader(
        Subset(dataset, range(rank, len(dataset), size)),
        loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )
