"""What a bank's bits mean: layer shape, thresholds and the model they came from."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_rdr.bank.files import PathLike
from captum_rdr.model.states import as_threshold

FIELDS = {"layer_shape", "fingerprint", "data_fingerprint", "attribute_to_layer_input"}
"""Names of the JSON fields that `Origin.fields` gives."""


@dataclass(frozen=True)
class Origin:
    """What the states of a bank are states of.

    Attributes:
        layer_shape: shape ``(D1, ..., Dm)`` of the layer's output, per instance.
        threshold: threshold of the states: without dimensions, or flat.
        fingerprint: identifies model and layer; empty when unknown.
        attribute_to_layer_input: whether the states are those of the layer's input.
        data_fingerprint: identifies the data; empty when unknown.
    """

    layer_shape: torch.Size
    threshold: Tensor
    fingerprint: str = ""
    attribute_to_layer_input: bool = False
    data_fingerprint: str = ""

    @property
    def n_neurons(self) -> int:
        """Number of neurons D."""
        return self.layer_shape.numel()

    def same_layer(self, other: "Origin") -> bool:
        """Whether rows of both may lie in one bank."""
        return (
            self.layer_shape == other.layer_shape
            and torch.equal(self.threshold, other.threshold)
            and self.fingerprint == other.fingerprint
        )

    def fields(self) -> dict[str, Any]:
        """All but the threshold, as JSON values."""
        return {
            "layer_shape": list(self.layer_shape),
            "fingerprint": self.fingerprint,
            "data_fingerprint": self.data_fingerprint,
            "attribute_to_layer_input": self.attribute_to_layer_input,
        }


def make_origin(
    layer_shape: Sequence[int],
    threshold: float | Tensor,
    fingerprint: str = "",
    attribute_to_layer_input: bool = False,
    data_fingerprint: str = "",
) -> Origin:
    """An `Origin`, its threshold brought into form.

    Raises:
        ValueError: a size is not positive, or the threshold has another shape.

    >>> make_origin((2, 3), 0).n_neurons
    6
    """
    shape = torch.Size(layer_shape)
    if any(size < 1 for size in shape):
        raise ValueError(
            f"layer_shape={tuple(layer_shape)} holds no neuron; give a shape with "
            "positive sizes"
        )
    value = as_threshold(threshold)
    if value.shape not in ((), shape, (shape.numel(),)):
        raise ValueError(
            f"threshold has shape {tuple(value.shape)}, but the layer has shape "
            f"{tuple(shape)}; give a number or a tensor of that shape"
        )
    return Origin(
        shape,
        value.flatten() if value.dim() else value,
        fingerprint,
        attribute_to_layer_input,
        data_fingerprint,
    )


def read_origin(path: PathLike, fields: Mapping[str, Any], threshold: Tensor) -> Origin:
    """The `Origin` that a file describes.

    Raises:
        ValueError: a field has another type than `Origin.fields` gives it.
    """
    shape, to_input = fields["layer_shape"], fields["attribute_to_layer_input"]
    prints = fields["fingerprint"], fields["data_fingerprint"]
    sizes = isinstance(shape, list) and all(
        type(size) is int and 0 < size < 1 << 48 for size in shape
    )
    texts = all(isinstance(one, str) for one in prints)
    sound = sizes and len(shape) <= 64 and math.prod(shape) < 1 << 48
    if not (sound and texts and isinstance(to_input, bool)) or (
        not threshold.is_floating_point()
    ):
        raise ValueError(
            f"{os.fspath(path)!r} has fields of the wrong type; save it again with this "
            "version"
        )
    try:
        return make_origin(shape, threshold, prints[0], to_input, prints[1])
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)!r} is inconsistent: {error}") from error
