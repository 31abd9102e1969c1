"""From the user's data to forward arguments, batch by batch."""

import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.utils.rnn import PackedSequence
from torch.utils import data as torch_data
from torch.utils.data import DataLoader, Dataset, IterableDataset

from captum_rdr.model.hooks import raw_bytes, same_random_state

BATCH_SIZE = 64
"""Instances a batch when ``data`` is a tensor or a Dataset."""

FIRST_ROWS = 8
"""Instances at the beginning of the data that `DataPrint` digests."""

MOST_BYTES = 1 << 22
"""Inputs that a bank keeps, in bytes; where one instance takes more, it keeps none."""

# Iterables that do not hold batches.
_NO_BATCHES = (str, bytes, Mapping, np.ndarray)
_SHUFFLING = (
    torch_data.RandomSampler,
    torch_data.SubsetRandomSampler,
    torch_data.WeightedRandomSampler,
)
_PLAIN = (bool, int, float, str, type(None))  # arguments that a bank can keep


class ForwardArguments(NamedTuple):
    """Arguments of one forward pass.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def values(self) -> tuple[Any, ...]:
        """All of them."""
        return (*self.args, *self.kwargs.values())

    @property
    def batch_size(self) -> int:
        """First dimension of the first tensor."""
        for value in self.values:
            if isinstance(value, Tensor) and value.dim() > 0:
                return value.shape[0]
        raise TypeError(
            f"inputs={self.values!r:.60} hold no tensor with a batch dimension; pass a "
            "tensor, a tuple of tensors or a dict of tensors"
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

    def _each(self, change: Callable[[Tensor], Tensor]) -> "ForwardArguments":
        return self.holding(
            [change(one) if isinstance(one, Tensor) else one for one in self.values]
        )

    def holding(self, values: Sequence[Any]) -> "ForwardArguments":
        """Other values in the places of these."""
        n_args = len(self.args)
        kwargs = dict(zip(self.kwargs, values[n_args:], strict=True))
        return ForwardArguments(tuple(values[:n_args]), kwargs)

    def named(self, forward_func: Callable[..., Any]) -> dict[str, Any]:
        """The arguments by the names of ``forward_func``'s parameters."""
        try:
            signature = signature_of(forward_func) or inspect.Signature()
            bound = signature.bind_partial(*self.args, **self.kwargs)
        except TypeError:  # it has no signature, or the call will fail itself
            return dict(self.kwargs)
        return {**bound.arguments, **self.kwargs}


def signature_of(function: Callable[..., Any]) -> inspect.Signature | None:
    """What a function or a module's forward takes; None where nothing tells it."""
    try:
        own = function.forward if isinstance(function, Module) else function
        return inspect.signature(own)
    except (TypeError, ValueError):  # as some built-in ones
        return None


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
    is_packed = isinstance(inputs, PackedSequence)  # its first axis is not the batch
    if is_packed or not isinstance(inputs, (Tensor, tuple, list)):
        raise TypeError(
            f"inputs is a {type(inputs).__name__}; give a tensor (torch.from_numpy of an "
            "array, padded sequences and their lengths), or a tuple or dict of tensors"
        )
    given = tuple(inputs) if isinstance(inputs, list) else _as_tuple(inputs)
    return ForwardArguments((*given, *extra), {})


def _as_tuple(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)


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


def _refuse_instances(batch: tuple[Any, ...] | list[Any]) -> None:
    """Refuse what is instances rather than a batch and its labels.

    Raises:
        TypeError: it is a list of images, or one instance and its label.
    """
    images = [isinstance(one, Tensor) and one.dim() == 3 for one in batch]
    is_list = isinstance(batch, list) and len(batch) > 1 and all(images)
    label = batch[-1]
    is_label = isinstance(label, (int, str, Tensor)) and not getattr(label, "shape", ())
    if is_list or (len(batch) == 2 and images[0] and is_label):
        raise TypeError(
            f"data gave a {type(batch).__name__} that begins with one image "
            f"{tuple(batch[0].shape)}, not a batch; give tensors (N, C, H, W) of one size,"
            " as torch.utils.data.DataLoader does, or wrap a model of lists of images"
        )


def batches_of(data: Any) -> Iterable[Any]:
    """The user's data as batches in a fixed order.

    Args:
        data: a DataLoader or another re-iterable of batches, a Dataset, or a tensor
            ``(N, ...)``.

    Raises:
        TypeError: the data is of another kind.
        ValueError: a sampler shuffles, so that row i would not be dataset item i.

    >>> [batch.shape[0] for batch in batches_of(torch.zeros(70, 2))]
    [64, 6]
    """
    if _is_labelled_pair(data):
        raise TypeError(
            f"data is a {type(data).__name__} that looks like (inputs, labels), not like "
            "two batches; pass inputs, or torch.utils.data.TensorDataset(inputs, labels)"
        )
    if isinstance(data, Tensor):
        return torch.split(data, BATCH_SIZE)
    if isinstance(data, DataLoader):
        _refuse_shuffling(data)
        return data
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size=BATCH_SIZE)
    if not isinstance(data, _NO_BATCHES):
        by_number = hasattr(data, "__getitem__") and hasattr(data, "__len__")
        if by_number and not isinstance(data, (list, tuple)):  # of other libraries
            return DataLoader(data, BATCH_SIZE, collate_fn=_collated)
        if isinstance(data, Iterable):
            return data
    raise TypeError(
        f"data is a {type(data).__name__}; pass a DataLoader, a Dataset or a tensor of "
        "inputs (torch.from_numpy of an array)"
    )


def length_of(batches: Iterable[Any], data: Any) -> int:
    """How many instances data has, whatever the batch size; 0 where it is unknown."""
    whole = data if isinstance(data, Tensor) else getattr(batches, "dataset", None)
    return len(whole) if isinstance(whole, Sized) else 0


class DataPrint:
    """What identifies data: its length and its first instances, as they are fed in.

    It depends on neither batch size nor device, unless shapes vary.

    Args:
        expected: number of instances that the data is said to have, 0 where unknown.

    >>> rows = torch.arange(20.0).reshape(10, 2)
    >>> whole, parts = DataPrint(10), DataPrint(10)
    >>> whole.add(ForwardArguments((rows, None), {}))
    >>> for part in rows.split(3):
    ...     parts.add(ForwardArguments((part, None), {}))
    >>> whole.first_rows == parts.first_rows
    True
    >>> parts.instances.batch_size
    8
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self._seen = 0
        self._digest = hashlib.sha256()
        self._kept: list[ForwardArguments] = []

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
        size = arguments.batch_size
        if self.is_complete or not size:
            return
        named = (*enumerate(arguments.args), *sorted(arguments.kwargs.items()))
        tensors = [(name, one) for name, one in named if isinstance(one, Tensor)]
        held = [(name, one) for name, one in tensors if one.dim() and len(one) == size]
        for index in range(min(size, FIRST_ROWS - self._seen)):
            for name, value in held:
                row = value[index]
                self._digest.update(f"{name} {row.dtype} {tuple(row.shape)}".encode())
                self._digest.update(raw_bytes(row).cpu().numpy().data)
        self._seen += size
        room = _n_storable(arguments) - sum(one.batch_size for one in self._kept)
        if room > 0:  # copies, that take no more room than they need
            part = arguments.part(slice(room))
            dense = {"memory_format": torch.contiguous_format}
            self._kept.append(part._each(lambda one: one.detach().cpu().clone(**dense)))

    @property
    def instances(self) -> ForwardArguments | None:
        """Forward arguments of the first instances, where they are tensors and small."""
        if not self._kept:
            return None
        sizes = [(part.batch_size,) for part in self._kept]

        def joined(values: tuple[Any, ...]) -> Any:
            shapes = [getattr(one, "shape", ()) for one in values]
            is_batch = [shape[:1] for shape in shapes] == sizes
            return torch.cat(values) if is_batch else values[0]

        try:
            columns = zip(*(part.values for part in self._kept), strict=True)
            return self._kept[0].holding(list(map(joined, columns)))
        except (RuntimeError, ValueError):  # they differ in shape
            return self._kept[0]


def _n_storable(arguments: ForwardArguments) -> int:
    """How many instances of a batch a bank may keep."""
    n_bytes = 0
    for value in arguments.values:
        if isinstance(value, Tensor):
            is_odd = value.is_quantized or value.is_complex() or value.is_meta
            is_dense = value.layout == torch.strided and not value.is_nested
            if is_odd or not is_dense or type(value) is not Tensor:
                return 0
            n_bytes += value[:1].nbytes if value.dim() else value.nbytes
        elif not isinstance(value, _PLAIN):
            return 0
    return min(FIRST_ROWS, MOST_BYTES // max(n_bytes, 1))


def _is_labelled_pair(data: Any) -> bool:
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        return False
    shapes: list[Any] = [one.shape if isinstance(one, Tensor) else () for one in data]
    return all(shapes) and len({*shapes}) == 2 and shapes[0][0] == shapes[1][0]


def _collated(items: list[Any]) -> Any:
    """A batch of instances, whose columns may be lists of numbers, or words."""
    if not isinstance(items[0], Mapping):
        return torch_data.default_collate(items)
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
    signature, given = signature_of(forward_func), arguments.kwargs
    known = {} if signature is None else signature.parameters
    kept = {name: value for name, value in given.items() if name in known}
    if not kept or any(one.kind is one.VAR_KEYWORD for one in known.values()):
        return arguments, []
    return arguments._replace(kwargs=kept), [name for name in given if name not in kept]


def _refuse_shuffling(loader: DataLoader[Any]) -> None:
    """Refuse a loader whose order is not that of its dataset."""
    if loader.num_workers and not getattr(loader, "in_order", True):
        how = "as workers finish, with in_order=False"
    elif isinstance(loader.dataset, IterableDataset):
        return
    else:
        sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
        if not isinstance(sampler, _SHUFFLING):
            with same_random_state():  # a sampler of the user's may draw
                if _is_in_order(loader, sampler):
                    return
        reader = sampler if loader.batch_size else loader.batch_sampler or sampler
        how = f"in the order of a {type(reader).__name__}"
    raise ValueError(
        f"data is read {how}, so row i of the bank would not be item i of the dataset; "
        "build the DataLoader with shuffle=False, in_order=True and no sampler (put an "
        "order into a torch.utils.data.Subset), or see captum_rdr.distributed"
    )


def _is_in_order(loader: DataLoader[Any], sampler: Any) -> bool:
    """Whether the indices that the loader reads are 0, 1, 2, ..."""
    if type(sampler) is torch_data.SequentialSampler and loader.batch_size:
        return True
    source = sampler if loader.batch_sampler is None else loader.batch_sampler
    if isinstance(source, Iterator):
        return True  # a look would use it up
    indices = source if source is sampler else itertools.chain.from_iterable(source)
    return all(index == position for position, index in enumerate(indices))
