"""Go through the reference data: from batches to banks."""

import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from tqdm.auto import tqdm

from captum_rdr.axes import LayerAxes
from captum_rdr.model import inputs
from captum_rdr.model import states as neurons
from captum_rdr.model.hooks import has_hooks, same_random_state
from captum_rdr.model.inputs import DataPrint
from captum_rdr.model.probe import Probe, read_sampled, sampled
from captum_rdr.model.reader import LayerReader
from captum_rdr.model.signature import autocast_now

_SAMPLED_ROWS = 256  # instances binarized at a time once their median is known


class Writer:
    """Where a layer's bank goes while it is made."""

    layer: "LayerIndex"

    def open(self, layer: "LayerIndex") -> None:
        """Make ready for a layer's bank; tell the layer what an earlier run has left."""
        self.layer = layer

    def check_data(self) -> None:
        """Refuse to go on with other data than that of an earlier run."""

    def begin(self, threshold: Tensor) -> None:
        """Begin the bank; called once, when the layer's shape and dtype are known."""

    def append(self, states: Tensor, features: Tensor | None, sketches: Tensor) -> None:
        """Append instances, bool ``(M, D)`` on any device."""

    def finish(self) -> Any:
        """The finished bank, which keeps the layer's probe."""

    def close(self) -> None:
        """Let go of what is open, whether the bank is finished or not."""


@dataclass
class LayerIndex:
    """One layer's bank in the making.

    Attributes:
        name: the layer's qualified name.
        threshold: its threshold; None while the median is not known yet.
        fingerprint: that of the bank.
        attribute_to_layer_input: whether the layer's input is read.
        keep_features: whether the bank keeps the float activations.
        writer: where the bank goes.
        axes_of: tells what the axes of a shape mean.
        n_finished: leading instances that an earlier run has indexed.
        is_finished: whether an earlier run has finished the bank.
        data: what identifies the data.
        first: what `sampled` gives of its first activations.
        probe: what it keeps of the data.
    """

    name: str
    threshold: Tensor | None
    fingerprint: str
    attribute_to_layer_input: bool
    keep_features: bool
    writer: Writer
    axes_of: Callable[[torch.Size], LayerAxes | None]
    n_finished: int = 0
    is_finished: bool = False
    data: DataPrint = field(default_factory=lambda: DataPrint(0))
    first: Tensor | None = None
    probe: Probe | None = None

    def __post_init__(self) -> None:
        self.is_median = self.threshold is None
        self.shape, self._has_begun, self._is_first = torch.Size(), False, True
        self._sample = neurons.MedianSample(neurons.MEDIAN_BYTES)

    def open(self, data: DataPrint) -> None:
        """Make ready, and take over what an earlier run knew."""
        self.data = data
        self.writer.open(self)
        self._is_first = not self.n_finished

    def keep(self, activations: Tensor) -> tuple[Tensor, ...]:
        """What must outlast the forward pass: states, and floats where they are needed.

        Raises:
            ValueError: the shape differs from that of earlier batches.
        """
        shape = activations.shape[1:]
        self.shape = self.shape or shape
        if shape != self.shape:
            raise ValueError(
                f"layer {self.name!r} gave shape {tuple(shape)} an instance, but "
                f"{tuple(self.shape)} before; make them equal with pool, e.g. token_mean"
            )
        rows, threshold = activations.flatten(1), self.threshold
        kept = (rows.clone(),) if threshold is None else self._kept(rows, threshold)
        return (*kept, sampled(rows[: inputs.FIRST_ROWS])) if self._is_first else kept

    def _kept(self, rows: Tensor, threshold: Tensor) -> tuple[Tensor, ...]:
        if not self._has_begun:
            self.feature_dtype = neurons.feature_dtype(rows.dtype)
            self.writer.begin(threshold)
            self._has_begun = True
        kept = neurons.binarize(rows, threshold), neurons.sketch(rows)
        if not self.keep_features:
            return kept
        return *kept, neurons.storable(rows, f"layer {self.name!r}")

    def add(self, kept: Sequence[Tensor], first: int = 0) -> None:
        """Take in what `keep` made of a batch, but for instances that are finished.

        Args:
            kept: what `keep` gave.
            first: position of the batch's first instance in the data.
        """
        if self._is_first:
            *kept, self.first = kept
            self._is_first = False
        new = [part[max(0, self.n_finished - first) :] for part in kept]
        if self.threshold is None:
            self._sample.add(new[0])
        elif len(new[0]) and not self.is_finished:
            self.writer.append(new[0], new[2] if self.keep_features else None, new[1])

    def settle_median(self) -> bool:
        """Read the median off the activations seen; True if the bank is complete."""
        rows, is_complete = self._sample.rows, self._sample.is_complete
        self.threshold = threshold = self._sample.median()
        if not bool(threshold.isfinite().all()):
            raise ValueError(
                f"the median of layer {self.name!r} is infinite for some neurons; bound "
                "its activations with pool, e.g. pool=torch.nan_to_num"
            )
        if not is_complete:
            error = neurons.sampled_median_error(len(rows), len(threshold))
            warnings.warn(
                f"the activations of layer {self.name!r} take more than "
                f"{neurons.MEDIAN_BYTES} bytes, so its median is read off {len(rows)} "
                f"instances, with 99 % confidence to {100 * error:.1f} points of its rank;"
                " raise captum_rdr.model.states.MEDIAN_BYTES for the exact one",
                UserWarning,
                stacklevel=2,
            )
        for start in range(0, len(rows) if is_complete else 0, _SAMPLED_ROWS):
            block = torch.stack(rows[start : start + _SAMPLED_ROWS])
            self.add(self._kept(block, threshold))
        self._sample = neurons.MedianSample(0)
        return is_complete


def index_data(
    reader: LayerReader,
    data: Any,
    layers: Sequence[LayerIndex],
    *,
    additional_forward_args: Any,
    show_progress: bool,
    keep_probe: bool,
) -> list[Any]:
    """Go through the data and fill each layer's bank.

    Where a layer's threshold is its median and its activations do not fit
    `captum_rdr.model.states.MEDIAN_BYTES`, the data is gone through a second time.

    Args:
        reader: runs the forward passes.
        data: a DataLoader, Dataset or tensor.
        layers: one for each of the reader's layers.
        additional_forward_args: passed behind every batch's inputs.
        show_progress: draw a progress bar.
        keep_probe: whether banks keep the first instances' inputs.

    Returns:
        what each layer's writer gives as the finished bank.

    Raises:
        ValueError: the data is empty, shuffled, gives no usable activations, or is not
            that of the run to resume.
        RuntimeError: another process writes to a folder.
    """
    batches = inputs.batches_of(data)
    data_print = DataPrint(inputs.length_of(batches, data))

    def go_through(part: Sequence[int]) -> None:
        some = [layers[index] for index in part]
        read = reader.only(*part)
        _one_pass(read, batches, some, additional_forward_args, show_progress)

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.writer.close)
            layer.open(data_print)
        go_through(range(len(layers)))
        unsettled = [i for i, layer in enumerate(layers) if layer.threshold is None]
        again = [i for i in unsettled if not layers[i].settle_median()]
        if again and isinstance(batches, Iterator):
            raise ValueError(
                "data can be gone through only once, but a sampled median needs a second "
                "pass; pass a DataLoader, or a threshold other than 'median'"
            )
        if again:
            go_through(again)
        _warn_if_drawn(batches, data_print, reader, additional_forward_args)
        _keep_probes(reader, layers)
        for layer in () if keep_probe else layers:
            layer.probe = None
        return [layer.writer.finish() for layer in layers]


def _warn_if_drawn(
    batches: Iterable[Any], seen: DataPrint, reader: LayerReader, additional: Any
) -> None:
    """Warn of a dataset that gives other first instances when it is read again."""
    sampler = getattr(batches, "batch_sampler", None)
    if not isinstance(batches, DataLoader) or type(sampler) is not BatchSampler:
        return
    if type(sampler.sampler) is not SequentialSampler:
        return
    again = DataPrint(seen.expected)
    with same_random_state():
        torch.rand(8), np.random.random(8), random.random()  # so that it draws anew
        for rows in sampler:
            batch = batches.collate_fn([batches.dataset[row] for row in rows])
            given = inputs.batch_arguments(batch, additional)
            again.add(inputs.taken(given, reader.forward_func)[0])
            if again.is_complete:
                break
    if again.first_rows != seen.first_rows:
        warnings.warn(
            "data gives other inputs for the same index when it is read again, so its "
            "rows are not those of the data: fit without random augmentation",
            UserWarning,
            stacklevel=4,
        )


def _keep_probes(reader: LayerReader, layers: Sequence[LayerIndex]) -> None:
    """Run the model on the first instances again, in a smaller batch.

    Hooks of the user's would take that for a batch of the data, so it is left out then.
    A layer keeps nothing where the states are other ones than in the first batch, of
    which it is warned.
    """
    instances, to_input = layers[0].data.instances, layers[0].attribute_to_layer_input
    if instances is None or all(layer.is_finished for layer in layers):
        return
    found: Sequence[Tensor | None] = [layer.first for layer in layers]
    if not has_hooks(reader.modules):
        try:
            found = read_sampled(reader, instances, to_input)
        except Exception:  # as of a model that takes one size of batch only
            return
    for layer, activations in zip(layers, found, strict=True):
        if activations is None:
            continue
        size = min(instances.batch_size, len(activations))
        given, seen = instances.part(slice(size)), activations[:size]
        layer.probe = Probe(given, seen, autocast_now())
        if layer.first is None or layer.threshold is None:
            continue
        what = layer.probe.difference(layer.first, layer.threshold, same_weights=True)
        if what is not None:
            layer.probe = None
            warnings.warn(
                f"the states of layer {layer.name!r} depend on the batch or on chance: "
                f"{what}, in a batch of their own; give BatchNorm running statistics, "
                "and let evaluation mode turn dropout off",
                UserWarning,
                stacklevel=2,
            )


def _one_pass(
    reader: LayerReader,
    batches: Iterable[Any],
    layers: Sequence[LayerIndex],
    additional_forward_args: Any,
    show_progress: bool,
) -> None:
    n_instances, has_run = 0, False
    n_skipped = min(layer.n_finished for layer in layers)
    data, to_input = layers[0].data, layers[0].attribute_to_layer_input
    with reader.reading(
        lambda index, found: layers[index].keep(found), to_input
    ) as read:
        # It begins to iterate, and so to draw, at once.
        progress = tqdm(
            batches, desc="Indexing", unit="batch", disable=not show_progress
        )
        for number, batch in enumerate(progress):
            given = inputs.batch_arguments(batch, additional_forward_args)
            arguments, left = inputs.taken(given, reader.forward_func)
            if left and number == 0:
                warnings.warn(
                    f"forward_func does not take the columns {left}, so they are left "
                    "out; give forward a parameter of that name where it needs one",
                    UserWarning,
                    stacklevel=2,
                )
            first, n_instances = n_instances, n_instances + arguments.batch_size
            data.add(arguments)
            if data.is_complete:
                _check_data(layers)
            if n_instances <= n_skipped:
                continue
            # The first pass runs to its end, which shows a layer that fires again.
            kept = read(arguments, f"batch {number}", leave_early=has_run)
            has_run = True
            for layer, tensors in zip(layers, kept, strict=True):
                layer.add(tensors, first)
    if n_instances == 0:
        raise ValueError("data is empty; give one instance or more")
    _check_data(layers)
    if n_instances < n_skipped:
        raise ValueError(
            f"data has {n_instances} instances, but an earlier run has indexed "
            f"{n_skipped}; give the same data, or fit without resume to begin anew"
        )


def _check_data(layers: Sequence[LayerIndex]) -> None:
    for layer in layers:
        layer.writer.check_data()
