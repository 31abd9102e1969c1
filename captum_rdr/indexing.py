"""Go through the reference data: from batches to banks."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_rdr import bits, neurons
from captum_rdr.bank import ConfigurationBank
from captum_rdr.batches import Batches, batch_arguments
from captum_rdr.neurons import (
    MedianSample,
    binarize,
    feature_dtype,
    sampled_median_error,
    storable,
)
from captum_rdr.reading import LayerReader

FEATURES_WARNED = 1 << 30
"""Bytes of kept features that are worth a warning."""

_SAMPLED_ROWS = 256  # instances binarized at a time once their median is known


@dataclass
class LayerIndex:
    """One layer's bank in the making.

    Attributes:
        name: the layer's qualified name, for messages.
        threshold: its threshold; None while the median is not known yet.
        fingerprint: that of the bank.
        attribute_to_layer_input: whether the layer's input is read.
        keep_features: whether the bank keeps the float activations.
        expected: number of instances expected, 0 where unknown.
        bank: the bank, once the first batch has shown the layer's shape.
    """

    name: str
    threshold: Tensor | None
    fingerprint: str
    attribute_to_layer_input: bool
    keep_features: bool
    expected: int = 0
    bank: ConfigurationBank | None = None
    _shape: torch.Size | None = None
    _sample: MedianSample = field(
        default_factory=lambda: MedianSample(neurons.MEDIAN_BYTES)
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
        packed = bits.pack(binarize(rows, self._open_bank(rows).threshold))
        if not self.keep_features:
            return (packed,)
        return packed, storable(rows, f"layer {self.name!r}")

    def add(self, kept: tuple[Tensor, ...]) -> None:
        """Take in what `keep` made of a batch."""
        if self.bank is None:
            self._sample.add(kept[0])
        else:
            self.bank.append(kept[0], kept[1] if self.keep_features else None)

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

    def _open_bank(self, rows: Tensor) -> ConfigurationBank:
        if self.bank is not None:
            return self.bank
        if self.threshold is None or self._shape is None:
            raise RuntimeError("the layer's shape or threshold is not known yet")
        self.bank = ConfigurationBank(
            self._shape,
            self.threshold,
            self.fingerprint,
            self.attribute_to_layer_input,
            reserve=self.expected,
        )
        n_bytes = self.expected * rows.shape[1] * feature_dtype(rows.dtype).itemsize
        if self.keep_features and n_bytes > FEATURES_WARNED:
            warnings.warn(
                f"keep_features=True will hold {n_bytes / 2**30:.1f} GiB of features "
                f"of layer {self.name!r}, {self.expected} instances x {rows.shape[1]} "
                "neurons; pool the layer, or leave it out if configuration neighbors "
                "do",
                UserWarning,
                stacklevel=2,
            )
        return self.bank

    def _warn_of_sample(self, size: int, n_neurons: int) -> None:
        error = 100 * sampled_median_error(size, n_neurons)
        warnings.warn(
            f"the activations of layer {self.name!r} take more than "
            f"{neurons.MEDIAN_BYTES} bytes, so its median is read off {size} instances:"
            f" with 99 % confidence no threshold is more than {error:.1f} percentage "
            "points from the median rank; raise captum_rdr.neurons.MEDIAN_BYTES for "
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
    show_progress: bool,
) -> list[ConfigurationBank]:
    """Go through the data and fill each layer's bank.

    Where a layer's threshold is its median and its activations do not fit
    `captum_rdr.neurons.MEDIAN_BYTES`, the data is gone through a second time.

    Args:
        reader: runs the forward passes.
        data: a DataLoader, Dataset or tensor.
        layers: one for each of the reader's layers.
        additional_forward_args: passed behind every batch's inputs.
        attribute_to_layer_input: read what the layers take in.
        show_progress: draw a progress bar.

    Raises:
        ValueError: the data is empty, shuffled, or gives no usable activations.
    """
    batches = Batches(data)
    for layer in layers:
        layer.expected = batches.n_instances

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
    return [layer.bank for layer in layers if layer.bank is not None]


def _one_pass(
    reader: LayerReader,
    batches: Batches,
    layers: Sequence[LayerIndex],
    additional_forward_args: Any,
    attribute_to_layer_input: bool,
    show_progress: bool,
) -> None:
    n_instances = 0
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
            # The first pass runs to its end, which shows a layer that fires again.
            kept = read(arguments, f"batch {number}", leave_early=number > 0)
            for layer, tensors in zip(layers, kept, strict=True):
                layer.add(tensors)
            n_instances += arguments.batch_size
    if n_instances == 0:
        raise ValueError("data is empty; give one instance or more")
