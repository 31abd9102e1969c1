"""Banks that several processes make together, with `torch.distributed`.

Instance i of the data belongs to process ``i % P`` of P, as with PyTorch's
``DistributedSampler`` without shuffling, but without the instances that it repeats to
give every process as many. Every process of the group calls `fit_sharded` with the same
arguments, and every one gets the bank that a single process with all of the data would
make.
"""

from collections.abc import Callable, Sequence, Sized
from functools import partial
from itertools import count
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader, Dataset, SequentialSampler, Subset
from torch.utils.data.distributed import DistributedSampler

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.model.hooks import same_random_state
from captum_rdr.model.inputs import BATCH_SIZE, FIRST_ROWS, DataPrint, batch_arguments
from captum_rdr.pooling import Pool

_BLOCK_ROWS = 4096  # rows that each process sends at a time
_KEPT = ("num_workers", "collate_fn", "worker_init_fn", "multiprocessing_context")


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
) -> ConfigurationBank:
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
            of its own, where its share stays.

    Returns:
        the whole bank, in every process's memory, its rows in the order of the data.

    Raises:
        ValueError: the data has no length or no order, there are fewer instances than
            processes, the processes differ in data, order, model or threshold, or the
            threshold is the median, which no process knows alone.
        RuntimeError: a process failed, died or did not answer within the group's
            timeout.

    >>> dist.init_process_group(
    ...     "gloo", store=dist.HashStore(), rank=0, world_size=1
    ... )  # as torchrun's processes do: dist.init_process_group("gloo")
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU())
    >>> data = torch.utils.data.TensorDataset(torch.randn(20, 4))
    >>> fit_sharded(model, model[1], data, show_progress=False)
    ConfigurationBank(20 instances x 6 neurons of shape (6,), 160 bytes)
    >>> dist.destroy_process_group()
    """
    if isinstance(threshold, str):
        raise ValueError(
            f"threshold={threshold!r} needs the activations of all processes; fit one "
            "process on a part of the data and pass its bank.threshold"
        )
    rank, n_processes = dist.get_rank(group), dist.get_world_size(group)
    rdr = RelaxedDecisionRegion(
        forward_func, layer, threshold=threshold, pool=pool, call_index=call_index
    )

    def fit() -> str:
        share = _share(data, rank, n_processes)
        bank = rdr.fit(share, **fit_arguments).bank
        kind = bank.fingerprint, bank.threshold.tolist(), bank.features is None
        return f"{_order(share)} {kind}"

    if len(set(_everyones(group, fit))) > 1:
        raise ValueError(
            "the processes hold the data in different orders, or different data, models "
            "or thresholds; give all the same, with files sorted e.g. by name"
        )
    return _gathered(rdr.bank, group)


def _everyones(group: dist.ProcessGroup | None, work: Callable[[], Any]) -> list[Any]:
    """What work gives in every process of a group, by rank.

    Args:
        group: the process group; the default one if None.
        work: this process's part; what it raises is raised here once all know of it.

    Raises:
        RuntimeError: another process failed, died, or did not answer within the group's
            timeout.
    """
    own, failure = None, None
    try:
        own = work()
    except Exception as error:
        failure = error
    found: list[Any] = [None] * dist.get_world_size(group)
    try:
        said = None if failure is None else str(failure)
        dist.all_gather_object(found, (said, own), group)
    except RuntimeError as error:
        raise RuntimeError(
            f"one of {len(found)} processes died or did not answer in time ({error}); "
            "end the others and start all again, with fit's out and resume=True"
        ) from error
    if failure is not None:
        raise failure
    failed = {rank: said for rank, (said, _) in enumerate(found) if said is not None}
    if failed:
        raise RuntimeError(
            f"processes {[*failed]} of {len(found)} failed: {'; '.join(failed.values())}"
        )
    return [answer for _, answer in found]


def _gathered(
    share: ConfigurationBank, group: dist.ProcessGroup | None
) -> ConfigurationBank:
    """The whole bank of which every process has a share."""
    whole = share.emptied()
    held = {
        "states": share.rows,
        "features": share.features,
        "sketches": share.sketches,
    }
    for start in count(0, _BLOCK_ROWS):
        some = slice(start, start + _BLOCK_ROWS)
        block = {
            # A copy, since a view is sent with all that it is a part of.
            name: one[some].to("cpu", copy=True)
            for name, one in held.items()
            if one is not None
        }
        every = _everyones(group, partial(dict, block))
        parts = {name: _interleaved([one[name] for one in every]) for name in block}
        if not len(parts["states"]):
            break
        whole.append(**parts)
    return whole


def _interleaved(parts: Sequence[Tensor]) -> Tensor:
    """Row 0 of each part, then row 1 of each, and so on."""
    rows = parts[0].new_empty(sum(map(len, parts)), parts[0].shape[1])
    for rank, part in enumerate(parts):
        rows[rank :: len(parts)] = part
    return rows


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
    some = Subset(dataset, range(rank, len(cast(Sized, dataset)), size))
    kept = {name: getattr(loader, name) for name in _KEPT}
    return DataLoader(some, loader.batch_size, **kept)
