"""Go through the reference data: from batches to banks."""

import os
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_rdr.bank import ConfigurationBank, bits
from captum_rdr.bank.files import only_writer
from captum_rdr.model import states as neurons



class DataPrint:
    def __init__(self, n): pass
    expected, is_complete, first_rows = 0, True, ""
    def add(self, a): pass


class Draft:
    pass


Manifest = Any


from captum_rdr.model.inputs import Batches, batch_arguments
from captum_rdr.model.reader import LayerReader
from captum_rdr.model.states import (
    MedianSample,
    binarize,
    feature_dtype,
    sampled_median_error,
    storable,
)

FEATURES_WARNED = 1 << 30
"""Bytes of kept features that are worth a warning."""

_SAMPLED_ROWS = 256  # instances binarized at a time once their median is known


@dataclass
class LayerIndex:
    """One layer's bank in the making, in memory or in a folder.

    Attributes:
        name: the layer's qualified name, for messages.
        threshold: its threshold; None while the median is not known yet.
        fingerprint: that of the bank.
        attribute_to_layer_input: whether the layer's input is read.
        keep_features: whether the bank keeps the float activations.
        out: folder of a bank on disk; None for one in memory.
        reserve: number of instances to make room for, in memory.
        data: what identifies the data.
        n_finished: leading instances that an earlier run has indexed.
        is_finished: whether an earlier run has finished the bank.
    """

    name: str
    threshold: Tensor | None
    fingerprint: str
    attribute_to_layer_input: bool
    keep_features: bool
    out: Path | None = None
    reserve: int = 0
    data: DataPrint = field(default_factory=lambda: DataPrint(0))
    n_finished: int = 0
    is_finished: bool = False
    _bank: ConfigurationBank | Draft | None = None
    _shape: torch.Size | None = None
    _resumed: Manifest | None = None
    _is_median: bool = False
    _sample: MedianSample = field(
        default_factory=lambda: MedianSample(neurons.MEDIAN_BYTES)
    )

    def __post_init__(self) -> None:
        self._is_median = self.threshold is None

    def resume(self) -> None:
        """Go on where an earlier run stopped, if there was one.

        Raises:
            ValueError: that run had another model, layer or threshold.
        """
        if self.out is None:
            return
        draft = unfinished_bank(self.out)
        manifest = draft or finished_bank(self.out)
        if manifest is None:
            return
        self._check_resumable(manifest)
        self._resumed, self.n_finished = manifest, manifest.n_rows
        self.threshold = manifest.origin.threshold
        self._shape = manifest.origin.layer_shape
        self.is_finished = draft is None
        if draft is None:
            tidy(self.out, manifest)
        else:
            self._bank = Draft(self.out, draft, self.data)

    def _check_resumable(self, manifest: Manifest) -> None:
        origin = manifest.origin
        here = make_origin(
            origin.layer_shape,
            origin.threshold if self.threshold is None else self.threshold,
            self.fingerprint,
            self.attribute_to_layer_input,
        )
        same = here.same_layer(origin) and manifest.median == self._is_median
        if not same or (manifest.feature_dtype is not None) != self.keep_features:
            raise ValueError(
                f"the bank in {os.fspath(self.out or '')!r} has fingerprint "
                f"{origin.fingerprint[:12]}..., but layer {self.name!r} now has "
                f"{here.fingerprint[:12]}...; if these are equal, threshold or "
                "keep_features differ; fit as before, or without resume to begin anew"
            )

    def check_data(self) -> None:
        """Refuse to go on with other data.

        Raises:
            ValueError: length or first instances differ.
        """
        manifest, data = self._resumed, self.data
        if manifest is None:
            return
        stated, here = manifest.expected, data.expected
        other_length = stated and here and stated != here
        if other_length or manifest.first_rows not in ("", data.first_rows):
            raise ValueError(
                f"the bank in {os.fspath(self.out or '')!r} was made from {stated or '?'} "
                f"instances that begin with {manifest.first_rows[:12]}..., but data has "
                f"{here or '?'} that begin with {data.first_rows[:12]}...; give the same "
                "data in the same order, or fit without resume to begin anew"
            )

    def keep(self, activations: Tensor) -> tuple[Tensor, ...]:
        """What must outlast the forward pass: bits, and floats where they are needed.

        Raises:
            ValueError: the shape differs from that of earlier batches.
        """
        shape = activations.shape[1:]
        self._shape = self._shape or shape
        if shape != self._shape:
            raise ValueError(
                f"layer {self.name!r} gave shape {tuple(shape)} an instance, but "
                f"{tuple(self._shape)} before; make them equal with pool, e.g. "
                "pool=captum_rdr.pooling.token_mean"
            )
        rows = activations.flatten(1)
        if self.threshold is None:
            return (rows.clone(),)
        return self._kept(rows)

    def _kept(self, rows: Tensor) -> tuple[Tensor, ...]:
        packed = bits.pack(binarize(rows, self._open(rows)))
        if not self.keep_features:
            return (packed,)
        return packed, storable(rows, f"layer {self.name!r}")

    def add(self, kept: tuple[Tensor, ...], first: int = 0) -> None:
        """Take in what `keep` made of a batch, but for instances that are finished.

        Args:
            kept: what `keep` gave.
            first: position of the batch's first instance in the data.
        """
        new = [part[max(0, self.n_finished - first) :] for part in kept]
        if self._bank is None:
            if not self.is_finished:
                self._sample.add(new[0])
        elif len(new[0]):
            self._bank.append(new[0], new[1] if self.keep_features else None)

    def settle_median(self) -> bool:
        """Read the median off the activations seen; True if the bank is complete."""
        rows = self._sample.rows
        self.threshold = self._sample.median()
        if not bool(self.threshold.isfinite().all()):
            raise ValueError(
                f"the median of layer {self.name!r} is infinite for some neurons; bound "
                "its activations with pool, e.g. pool=torch.nan_to_num"
            )
        if not self._sample.is_complete:
            self._warn_of_sample(len(rows), len(self.threshold))
            self._sample = MedianSample(0)
            return False
        for start in range(0, len(rows), _SAMPLED_ROWS):
            block = torch.stack(rows[start : start + _SAMPLED_ROWS])
            self.add(self._kept(block))
        return True

    def finish(self) -> ConfigurationBank:
        """The finished bank; that of a folder is read back and checked."""
        if self.out is not None:
            if isinstance(self._bank, Draft):
                self._bank.finish()
                tidy(self.out, self._bank.manifest)
            return ConfigurationBank.load(self.out)
        if not isinstance(self._bank, ConfigurationBank):
            raise RuntimeError("the layer has no bank yet")
        return self._bank

    def close(self) -> None:
        """Close the files of a bank that may be unfinished."""
        if isinstance(self._bank, Draft):
            self._bank.close()

    def _open(self, rows: Tensor) -> Tensor:
        """Begin the bank if it is not begun; gives the thresholds."""
        if self.threshold is None or self._shape is None:
            raise RuntimeError("the layer's shape or threshold is not known yet")
        if self._bank is not None or self.is_finished:
            return self.threshold
        dtype = feature_dtype(rows.dtype)
        if self.out is None:
            self._bank = ConfigurationBank(
                self._shape,
                self.threshold,
                self.fingerprint,
                self.attribute_to_layer_input,
                reserve=self.reserve,
            )
            self._warn_of_features(rows.shape[1], dtype)
        else:
            kept_dtype = dtype if self.keep_features else None
            self._bank = new_draft(
                self.out, origin, kept_dtype, self.data, median=self._is_median
            )
        self.threshold = self._bank.threshold
        return self.threshold

    def _warn_of_features(self, n_neurons: int, dtype: torch.dtype) -> None:
        n_bytes = self.reserve * n_neurons * dtype.itemsize
        if self.keep_features and n_bytes > FEATURES_WARNED:
            warnings.warn(
                f"keep_features=True will hold {n_bytes / 2**30:.1f} GiB of features "
                f"of layer {self.name!r}, {self.reserve} instances x {n_neurons} "
                "neurons; pool the layer, keep the bank on disk with out, or leave "
                "features out if configuration neighbors do",
                UserWarning,
                stacklevel=2,
            )

    def _warn_of_sample(self, size: int, n_neurons: int) -> None:
        error = 100 * sampled_median_error(size, n_neurons)
        warnings.warn(
            f"the activations of layer {self.name!r} take more than "
            f"{neurons.MEDIAN_BYTES} bytes, so its median is read off {size} instances:"
            f" with 99 % confidence no threshold is more than {error:.1f} percentage "
            "points from the median rank; raise captum_rdr.model.states.MEDIAN_BYTES for "
            "the exact one",
            UserWarning,
            stacklevel=2,
        )


def index_data(
    reader: LayerReader,
    data: Any,
    layers: Sequence[LayerIndex],
    *,
    additional_forward_args: Any,
    attribute_to_layer_input: bool,
    resume: bool,
    show_progress: bool,
) -> list[ConfigurationBank]:
    """Go through the data and fill each layer's bank.

    Where a layer's threshold is its median and its activations do not fit
    `captum_rdr.model.states.MEDIAN_BYTES`, the data is gone through a second time.

    Args:
        reader: runs the forward passes.
        data: a DataLoader, Dataset or tensor.
        layers: one for each of the reader's layers.
        additional_forward_args: passed behind every batch's inputs.
        attribute_to_layer_input: read what the layers take in.
        resume: go on where an earlier run into the layers' folders stopped.
        show_progress: draw a progress bar.

    Raises:
        ValueError: the data is empty, shuffled, gives no usable activations, or is not
            that of the run to resume.
        RuntimeError: another process writes to a folder.
    """
    batches = Batches(data)
    data_print = DataPrint(batches.length)
    with ExitStack() as stack:
        for layer in layers:
            layer.reserve, layer.data = batches.n_instances, data_print
            if layer.out is not None:
                layer.out.mkdir(parents=True, exist_ok=True)
                stack.enter_context(only_writer(layer.out))
            stack.callback(layer.close)
            if resume:
                layer.resume()

        def go_through(part: Sequence[int]) -> None:
            _one_pass(
                reader.only(*part),
                batches,
                [layers[index] for index in part],
                additional_forward_args,
                attribute_to_layer_input,
                show_progress,
            )

        go_through(range(len(layers)))
        again = [
            index
            for index, layer in enumerate(layers)
            if layer.threshold is None and not layer.settle_median()
        ]
        if again and not batches.can_repeat:
            raise ValueError(
                "data can be gone through only once, but a sampled median needs a second "
                "pass; pass a DataLoader, or a threshold other than 'median'"
            )
        if again:
            go_through(again)
        return [layer.finish() for layer in layers]


def _one_pass(
    reader: LayerReader,
    batches: Batches,
    layers: Sequence[LayerIndex],
    additional_forward_args: Any,
    attribute_to_layer_input: bool,
    show_progress: bool,
) -> None:
    n_instances, has_run = 0, False
    n_skipped = min(layer.n_finished for layer in layers)
    data = layers[0].data
    with reader.reading(
        lambda index, activations: layers[index].keep(activations),
        attribute_to_layer_input=attribute_to_layer_input,
    ) as read:
        progress = tqdm(
            batches,
            total=len(batches) or None,
            desc="Indexing",
            unit="batch",
            disable=not show_progress,
        )
        for number, batch in enumerate(progress):
            arguments = batch_arguments(batch, additional_forward_args)
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
        layer.check_data()
