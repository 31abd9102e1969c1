"""Banks that are made and asked by several processes, with `torch.distributed`.

Instance i of the data belongs to process ``i % P`` of P, as with PyTorch's
``DistributedSampler`` without shuffling, but without the instances that it repeats to
give every process as many. All functions here are collective: every process of the group
calls them with the same arguments, and every one gets the same answer, the one that a
single process with all of the data would give.
"""

import hashlib
from collections.abc import Callable, Sized
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader, Dataset, SequentialSampler, Subset
from torch.utils.data.distributed import DistributedSampler

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.bank.queries import Nearest
from captum_rdr.model.hooks import raw_bytes, same_random_state
from captum_rdr.model.inputs import BATCH_SIZE, FIRST_ROWS, DataPrint, batch_arguments
from captum_rdr.pooling import Pool

_BLOCK_ROWS = 4096  # rows that each process sends at a time
_KEPT = ("num_workers", "collate_fn", "worker_init_fn", "multiprocessing_context")


def _everyones(
    group: dist.ProcessGroup | None, work: Callable[[], Any], *request: Any
) -> list[Any]:
    """What work gives in every process of a group, by rank.

    Args:
        group: the process group; the default one if None.
        work: this process's part; what it raises is raised here once all know of it.
        *request: what is asked for; the same in every process.

    Raises:
        RuntimeError: another process failed, died, or did not answer within the group's
            timeout.
        ValueError: the requests differ.
    """
    own, failure = None, None
    try:
        own = work()
    except Exception as error:
        failure = error
    digest = hashlib.sha256(repr(request).encode()).hexdigest()
    found: list[Any] = [None] * dist.get_world_size(group)
    try:
        said = None if failure is None else str(failure)
        dist.all_gather_object(found, (said, digest, own), group)
    except RuntimeError as error:
        raise RuntimeError(
            f"one of {len(found)} processes died or did not answer in time ({error}); "
            "end the others and start all again, with fit's out and resume=True"
        ) from error
    if failure is not None:
        raise failure
    failures, digests, answers = zip(*found, strict=True)
    failed = {rank: one for rank, one in enumerate(failures) if one is not None}
    if failed:
        raise RuntimeError(
            f"processes {[*failed]} of {len(found)} failed in {request[0]}: "
            f"{'; '.join(failed.values())}"
        )
    if len(set(digests)) > 1:
        raise ValueError(
            f"the processes call {request[0]} with different arguments, or hold banks "
            "of different models, layers or thresholds; give all the same"
        )
    return list(answers)


class ShardedBank:
    """A bank whose rows lie with the processes of a group.

    Args:
        bank: this process's share: row j is instance ``rank + j * P`` of the data.
        group: the process group; the default one if None.

    Raises:
        ValueError: the shares are not those of one layer and one set of data.
        RuntimeError: there is no process group, or a process failed, died or did not
            answer in time; so does every method.

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
        self.bank, self._group = bank, group
        self._rank, self._n_processes = _place(group)
        layer = (tuple(bank.layer_shape), bank.threshold.tolist(), bank.fingerprint)
        kept = (bank.attribute_to_layer_input, bank.features is None)
        lengths = _everyones(group, lambda: len(bank), "ShardedBank", layer, kept)
        self._length: int = sum(lengths)
        ranks = range(self._n_processes)
        shares = [len(range(rank, self._length, len(lengths))) for rank in ranks]
        if lengths != shares:
            raise ValueError(
                f"the processes hold {lengths} rows, not {shares} as of one set of data; "
                "load every process's own share"
            )

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        of = f"{len(self)} instances, {self._n_processes} processes"
        return f"ShardedBank({of}, here {self.bank!r})"

    def active_counts(self) -> Tensor:
        """In how many instances each neuron is active, int64 ``(D,)``."""
        own = self.bank.active_counts
        every = _everyones(self._group, lambda: own, "active_counts")
        return torch.stack(every).sum(0)

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

        def ranked() -> Tensor:
            """Distance and instance in one number, so that the order breaks ties."""
            if k > len(self):
                raise ValueError(
                    f"k={k} is not between 1 and the bank's {len(self)} instances; "
                    "change k or index more"
                )
            found = self.bank.nearest(query, min(k, len(self.bank)))
            return found.distances * len(self) + self._instances(found.rows)

        asked = raw_bytes(query).cpu().numpy().tobytes()
        every = _everyones(self._group, ranked, "nearest", k, asked)
        best = torch.cat(every, 1).topk(k, largest=False).values
        return Nearest(best % len(self), best // len(self))

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

        def own() -> Tensor:
            return self._instances(self.bank.members(neurons, states, tolerance))

        request = ("members", neurons.tolist(), states.tolist(), tolerance)
        return torch.cat(_everyones(self._group, own, *request)).sort().values

    def _instances(self, rows: Tensor) -> Tensor:
        """Instances that rows of this process's share are."""
        return self._rank + rows * self._n_processes

    def gather(self) -> ConfigurationBank:
        """The whole bank in every process's memory, its rows in the order of the data."""
        own, features = self.bank.rows, self.bank.features
        whole = self.bank.emptied(reserve=len(self))
        for start in range(0, -(-len(self) // self._n_processes), _BLOCK_ROWS):
            some = slice(start, start + _BLOCK_ROWS)
            kept = [own[some]] if features is None else [own[some], features[some]]
            # A copy, since a view is sent with all that it is a part of.
            block = [part.to("cpu", copy=True) for part in kept]
            every = _everyones(self._group, partial(list, block), "gather", start)
            whole.append(*map(_interleaved, zip(*every, strict=True)))
        return whole


def _interleaved(parts: tuple[Tensor, ...]) -> Tensor:
    """Row 0 of each part, then row 1 of each, and so on."""
    rows = parts[0].new_empty(sum(map(len, parts)), parts[0].shape[1])
    for rank, part in enumerate(parts):
        rows[rank :: len(parts)] = part
    return rows


def _place(group: dist.ProcessGroup | None) -> tuple[int, int]:
    """Rank of this process in the group, and the group's size."""
    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            "there is no process group; call torch.distributed.init_process_group "
            "first, and start the script with torchrun"
        )
    return dist.get_rank(group), dist.get_world_size(group)


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
        ValueError: the data has no length or no order, there are fewer instances than
            processes, their data is not the same in the same order, or the threshold is
            the median, which no process knows alone.
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
    rank, n_processes = _place(group)
    rdr = RelaxedDecisionRegion(
        forward_func, layer, threshold=threshold, pool=pool, call_index=call_index
    )

    def fit() -> str:
        share = _share(data, rank, n_processes)
        rdr.fit(share, **fit_arguments)
        return _order(share)

    if len(set(_everyones(group, fit, "fit_sharded"))) > 1:
        raise ValueError(
            "the processes hold the data in different orders, or different data; sort "
            "the files or rows the same way in every process, e.g. by name"
        )
    return ShardedBank(rdr.bank, group)


def _order(share: DataLoader[Any]) -> str:
    """Digest of a few instances of the whole data."""
    whole = cast("Subset[Any]", share.dataset).dataset
    size = len(cast(Sized, whole))
    some = sorted({index * size // FIRST_ROWS for index in range(FIRST_ROWS)})
    few = DataLoader(Subset(whole, some), len(some), collate_fn=share.collate_fn)
    found = DataPrint(0)
    with same_random_state():
        torch.manual_seed(0)
        for batch in few:
            found.add(batch_arguments(batch, None))
    return found.first_rows


def _share(data: Any, rank: int, size: int) -> DataLoader[Any]:
    """A loader of the instances ``rank``, ``rank + size``, ... of the data."""
    loader = data if isinstance(data, DataLoader) else DataLoader(data, BATCH_SIZE)
    dataset, sampler = loader.dataset, loader.sampler
    is_in_order = isinstance(sampler, (SequentialSampler, DistributedSampler))
    if not is_in_order or not loader.batch_size:
        raise ValueError(
            f"data is a {type(dataset).__name__} read by a {type(sampler).__name__} or a "
            "batch sampler, of which there are no shares; give a dataset with a length, "
            "and put the order into it with torch.utils.data.Subset"
        )
    length = len(cast(Sized, dataset))
    if length < size:
        raise ValueError(
            f"data has {length} instances for {size} processes; start fewer"
        )
    some = Subset(dataset, range(rank, length, size))
    kept = {name: getattr(loader, name) for name in _KEPT}
    return DataLoader(some, loader.batch_size, **kept)
