"""From the user's data to forward arguments, batch by batch."""

import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    default_collate,
)

from captum_rdr.model.hooks import raw_bytes, same_random_state

BATCH_SIZE = 64
"""Instances a batch when ``data`` is a tensor or a Dataset."""

FIRST_ROWS = 8
"""Instances at the beginning of the data that `DataPrint` digests."""

# Iterables that do not hold batches.
_NO_BATCHES = (str, bytes, Mapping, np.ndarray)
_SHUFFLING = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)


class ForwardArguments(NamedTuple):
    """Arguments of one forward pass.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def batch_size(self) -> int:
        """First dimension of the first tensor."""
        for value in (*self.args, *self.kwargs.values()):
            if isinstance(value, Tensor) and value.dim() > 0:
                return value.shape[0]
        kinds = [type(value).__name__ for value in (*self.args, *self.kwargs.values())]
        raise TypeError(
            f"inputs hold no tensor with a batch dimension, but {kinds}; pass a tensor, "
            "a tuple of tensors or a dict of tensors"
        )

    def to(self, device: torch.device | None) -> "ForwardArguments":
        """The same arguments with their tensors on ``device``."""
        return self if device is None else self._each(lambda one: one.to(device))

    def part(self, which: slice) -> "ForwardArguments":
        """Those of some instances: parts of the tensors that are as long as the batch."""
        size = self.batch_size
        return self._each(
            lambda one: one[which] if one.dim() and len(one) == size else one
        )

    def split(self, size: int) -> list["ForwardArguments"]:
        """Those of at most ``size`` instances each; of none, one that is empty."""
        starts = range(0, max(self.batch_size, 1), size)
        return [self.part(slice(start, start + size)) for start in starts]

    def copied(self) -> "ForwardArguments":
        """Copies on the CPU that take no more room than they need."""
        return self._each(
            lambda one: one.detach().to("cpu", copy=True).contiguous().clone()
        )

    def _each(self, change: Callable[[Tensor], Tensor]) -> "ForwardArguments":
        def changed(value: Any) -> Any:
            return change(value) if isinstance(value, Tensor) else value

        return ForwardArguments(
            tuple(map(changed, self.args)),
            {name: changed(value) for name, value in self.kwargs.items()},
        )

    def named(self, forward_func: Callable[..., Any]) -> dict[str, Any]:
        """The arguments by the names of ``forward_func``'s parameters."""
        function = (
            forward_func.forward if isinstance(forward_func, Module) else forward_func
        )
        try:
            bound = inspect.signature(function).bind_partial(*self.args, **self.kwargs)
        except (TypeError, ValueError):  # no signature, or the call will fail itself
            return dict(self.kwargs)
        return {**bound.arguments, **self.kwargs}


def input_arguments(inputs: Any, additional_forward_args: Any) -> ForwardArguments:
    """Forward arguments of what a user passes to ``attribute``.

    Args:
        inputs: a tensor, a tuple of tensors, or a dict passed as keywords.
        additional_forward_args: further positional arguments: one, or a tuple.

    >>> input_arguments(torch.ones(2, 3), None).batch_size
    2
    """
    extra = _as_tuple(additional_forward_args)
    if isinstance(inputs, Mapping):
        return ForwardArguments(extra, dict(inputs))
    if isinstance(inputs, PackedSequence):
        raise TypeError(
            "inputs is a PackedSequence, whose first dimension is not the batch; give "
            "padded sequences and their lengths, and pack them in the model's forward"
        )
    if isinstance(inputs, list):
        inputs = tuple(inputs)
    if not isinstance(inputs, (Tensor, tuple)):
        raise TypeError(
            f"inputs is a {type(inputs).__name__}; pass a tensor (torch.from_numpy of an "
            "array), a tuple of tensors or a dict of tensors"
        )
    return ForwardArguments((*_as_tuple(inputs), *extra), {})


def batch_arguments(batch: Any, additional_forward_args: Any) -> ForwardArguments:
    """Forward arguments of one batch of a loader: inputs first, labels ignored.

    >>> batch_arguments([torch.ones(2, 3), torch.tensor([0, 1])], None).args
    (tensor([[1., 1., 1.],
             [1., 1., 1.]]),)
    """
    if isinstance(batch, (tuple, list)):
        if not batch:
            raise TypeError("data gave an empty batch; give (inputs, labels) or inputs")
        _refuse_instances(batch)
        batch = batch[0]
    return input_arguments(batch, additional_forward_args)


def _refuse_instances(batch: Any) -> None:
    """Refuse what is a list of instances rather than a batch and its labels.

    Raises:
        TypeError: it is one.
    """
    images = [one for one in batch if isinstance(one, Tensor) and one.dim() == 3]
    if isinstance(batch, list) and len(batch) > 1 and len(images) == len(batch):
        raise TypeError(
            f"data gave a list of {len(batch)} tensors (C, H, W), which a model of lists "
            "of images takes; give tensors (N, C, H, W) of one size, or wrap the model "
            "in a function that takes them and unbinds them"
        )
    first = batch[0]
    label = batch[1] if len(batch) == 2 else None
    if (
        isinstance(first, Tensor)
        and first.dim() == 3
        and (
            isinstance(label, (int, str))
            or (isinstance(label, Tensor) and not label.dim())
        )
    ):
        raise TypeError(
            f"data gave one instance {tuple(first.shape)} and its label {label!r}, not a "
            "batch; pass torch.utils.data.DataLoader(data, batch_size=64), or the whole "
            "as a Dataset"
        )


class Batches:
    """The user's data as batches in a fixed order, which may be gone through again.

    Args:
        data: a DataLoader or another re-iterable of batches, a Dataset, or a tensor
            ``(N, ...)``.

    Raises:
        TypeError: the data is of another kind.
        ValueError: a sampler shuffles, so that row i would not be dataset item i.

    >>> [batch.shape[0] for batch in Batches(torch.zeros(70, 2))]
    [64, 6]
    """

    def __init__(self, data: Any) -> None:
        if _is_labelled_pair(data):
            raise TypeError(
                f"data is a {type(data).__name__} of two tensors of one length, which "
                "looks like (inputs, labels) rather than two batches; pass the inputs, "
                "or torch.utils.data.TensorDataset(inputs, labels)"
            )
        self._data = data
        if isinstance(data, Tensor):
            if data.dim() == 0:
                raise ValueError("data is a tensor without dimensions; give (N, ...)")
            self._batches: Iterable[Any] = (
                torch.split(data, BATCH_SIZE) if len(data) else ()
            )
        elif isinstance(data, DataLoader):
            _refuse_shuffling(data)
            self._batches = data
        elif isinstance(data, Dataset):
            self._batches = DataLoader(data, batch_size=BATCH_SIZE)
        elif _is_map_style(data):
            self._batches = DataLoader(data, BATCH_SIZE, collate_fn=_collated)
        elif isinstance(data, Iterable) and not isinstance(data, _NO_BATCHES):
            self._batches = data
        else:
            raise TypeError(
                f"data is a {type(data).__name__}; pass a DataLoader, a Dataset or a "
                "tensor of inputs (torch.from_numpy of an array)"
            )

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)

    def __len__(self) -> int:
        """Number of batches, 0 where it is unknown."""
        try:
            return len(self._batches) if isinstance(self._batches, Sized) else 0
        except TypeError:  # a loader over an iterable dataset has no length
            return 0

    @property
    def n_instances(self) -> int:
        """Number of instances, 0 where it is unknown; an upper bound."""
        if isinstance(self._data, Tensor):
            return len(self._data)
        if not isinstance(self._batches, DataLoader):
            return 0
        return len(self) * (self._batches.batch_size or 0)

    @property
    def length(self) -> int:
        """Length of the dataset, whatever the batch size; 0 where it is unknown."""
        if isinstance(self._data, Tensor):
            return len(self._data)
        dataset = getattr(self._batches, "dataset", None)
        return len(dataset) if isinstance(dataset, Sized) else 0

    @property
    def can_repeat(self) -> bool:
        """Whether the data can be gone through a second time."""
        with same_random_state():  # beginning to iterate draws from it
            return iter(self._batches) is not self._batches


class DataPrint:
    """What identifies data: its length and its first instances, as they are fed in.

    It depends on neither batch size nor device.

    Args:
        expected: number of instances that the data is said to have, 0 where unknown.

    >>> rows = torch.arange(20.0).reshape(10, 2)
    >>> whole, parts = DataPrint(10), DataPrint(10)
    >>> whole.add(ForwardArguments((rows,), {}))
    >>> for part in rows.split(3):
    ...     parts.add(ForwardArguments((part,), {}))
    >>> whole.first_rows == parts.first_rows
    True
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self._seen = 0
        self._digest = hashlib.sha256()

    @property
    def is_complete(self) -> bool:
        """Whether further batches change nothing."""
        return self._seen >= FIRST_ROWS

    @property
    def first_rows(self) -> str:
        """Digest of the first instances."""
        return self._digest.hexdigest()

    def add(self, arguments: ForwardArguments) -> None:
        """Take in the next batch."""
        if self.is_complete:
            return
        size = arguments.batch_size
        named = (*enumerate(arguments.args), *sorted(arguments.kwargs.items()))
        held = [
            (name, value)
            for name, value in named
            if isinstance(value, Tensor) and value.dim() and len(value) == size
        ]
        for index in range(min(size, FIRST_ROWS - self._seen)):
            for name, value in held:
                row = value[index]
                self._digest.update(f"{name} {row.dtype} {tuple(row.shape)}".encode())
                self._digest.update(raw_bytes(row).cpu().numpy().data)
        self._seen += size


def _is_labelled_pair(data: Any) -> bool:
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        return False
    if not all(isinstance(one, Tensor) and one.dim() for one in data):
        return False
    inputs, labels = data
    return len(inputs) == len(labels) and inputs.shape[1:] != labels.shape[1:]


def _is_map_style(data: Any) -> bool:
    """Whether it holds instances by number, as datasets of other libraries do."""
    by_number = all(hasattr(data, name) for name in ("__getitem__", "__len__"))
    return by_number and not isinstance(data, (list, tuple, *_NO_BATCHES))


def _collated(items: list[Any]) -> Any:
    """A batch of instances, whose columns may be lists of numbers, or words."""
    if not isinstance(items[0], Mapping):
        return default_collate(items)
    columns: dict[str, Any] = {}
    for name in items[0]:
        column = [item[name] for item in items]
        try:
            columns[name] = torch.stack([torch.as_tensor(one) for one in column])
        except (TypeError, ValueError, RuntimeError):  # words, images, other lengths
            columns[name] = column
    return columns


def taken(
    arguments: ForwardArguments, forward_func: Callable[..., Any]
) -> tuple[ForwardArguments, list[str]]:
    """Leave out keywords that a forward function does not take.

    Returns:
        the arguments, and the names of those that were left out.

    >>> taken(ForwardArguments((), {"x": 1, "label": 2}), lambda x: x)
    (ForwardArguments(args=(), kwargs={'x': 1}), ['label'])
    """
    function = (
        forward_func.forward if isinstance(forward_func, Module) else forward_func
    )
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # it has no signature
        return arguments, []
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return arguments, []
    left = [name for name in arguments.kwargs if name not in parameters]
    kept = {
        name: arguments.kwargs[name] for name in arguments.kwargs if name not in left
    }
    return (arguments._replace(kwargs=kept), left) if kept else (arguments, [])


def _refuse_shuffling(loader: DataLoader[Any]) -> None:
    """Refuse a loader whose order is not that of its dataset."""
    if loader.num_workers and not getattr(loader, "in_order", True):
        raise ValueError(
            "data is a DataLoader with in_order=False, which gives batches as its "
            "workers finish them, so row i of the bank would not be item i of the "
            "dataset; build it with in_order=True"
        )
    if isinstance(loader.dataset, IterableDataset):
        return
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    if not isinstance(sampler, _SHUFFLING):
        with same_random_state():  # a sampler of the user's may draw
            if _is_in_order(loader, sampler):
                return
    reader = sampler if loader.batch_size else loader.batch_sampler or sampler
    raise ValueError(
        f"data is read in the order of a {type(reader).__name__}, so row i of the bank "
        "would not be item i of the dataset; build the DataLoader with shuffle=False and "
        "no sampler, or put the order into the dataset with torch.utils.data.Subset; for "
        "a share of several processes see captum_rdr.distributed"
    )


def _is_in_order(loader: DataLoader[Any], sampler: Any) -> bool:
    """Whether the indices that the loader reads are 0, 1, 2, ..."""
    if type(sampler) is SequentialSampler and loader.batch_size:
        return True
    source = sampler if loader.batch_sampler is None else loader.batch_sampler
    if iter(source) is source:
        return True  # a one-shot iterator, which a look would use up
    indices = source if source is sampler else itertools.chain.from_iterable(source)
    return all(index == position for position, index in enumerate(indices))


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)
