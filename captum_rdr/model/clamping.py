"""Fix neurons to values while a model runs."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from captum_rdr._arguments import check_range, for_each
from captum_rdr.model.hooks import Undo, hookable, on_call, undoing
from captum_rdr.model.reader import LayerReader
from captum_rdr.model.states import FittedLayer, check_shape


@contextmanager
def clamping(
    reader: LayerReader,
    fitted: Sequence[FittedLayer],
    neurons: Tensor | list[Tensor],
    values: float | Tensor | list[float | Tensor],
) -> Iterator[None]:
    """Fix neurons of the reader's layers to values for as long as the context lasts.

    See `captum_rdr.RelaxedDecisionRegion.clamping`.

    Args:
        reader: reads the layers.
        fitted: what is known of each of them.
        neurons: int64 ``(t,)``, or a list of these.
        values: a number or float ``(t,)``, or a list of these.

    Raises:
        TypeError: ``neurons`` is no int64 tensor.
        ValueError: a layer is pooled, a shape or index does not fit, or no clamped layer
            fired in the context.
    """
    picked = for_each(neurons, len(fitted), "neurons")
    given = for_each(values, len(fitted), "values")
    clamps = [
        _Clamp(reader, index, layer, picked[index], given[index])
        for index, layer in enumerate(fitted)
    ]
    with hookable(reader.layers, reader.model), undoing() as undo:
        for clamp in clamps:
            clamp.begin(undo)
        yield
    for clamp in clamps:
        clamp.check_applied()


class _Clamp:
    """Fixes neurons of one layer, in one of its calls."""

    def __init__(
        self,
        reader: LayerReader,
        index: int,
        fitted: FittedLayer,
        neurons: Tensor,
        values: float | Tensor,
    ) -> None:
        self._model, self._shape = reader.model, fitted.layer_shape
        self._layer, self._name = reader.layers[index], reader.names[index]
        self._to_input = fitted.attribute_to_layer_input
        self._call_index = _known_call(reader, index)
        self._mask = torch.zeros(self._shape.numel(), dtype=torch.bool)
        self._values = torch.zeros(self._shape.numel(), dtype=torch.float64)
        picked = _checked_neurons(neurons, self._shape.numel())
        self._mask[picked] = True
        self._values[picked] = _checked_values(values, picked)
        self._calls: dict[torch.device, int] = {}
        self._lock = threading.Lock()  # replicas of a DataParallel model run in threads
        self._applied = False

    def begin(self, undo: Undo) -> None:
        """Register the hooks."""
        if self._call_index is not None and self._model is not None:
            on_call(self._model, True, lambda _: self._calls.clear(), undo)
        on_call(self._layer, self._to_input, self._clamped, undo)

    def check_applied(self) -> None:
        """Refuse a context in which nothing was clamped."""
        if not self._applied:
            call = f" call {self._call_index}" if self._call_index is not None else ""
            raise ValueError(
                f"layer {self._name!r} did not fire{call} inside clamping, so nothing "
                "was clamped; run the model that rdr explains (not a compiled copy) "
                "inside"
            )

    def _clamped(self, value: Any) -> Tensor | None:
        """What takes the place of a value in the wanted call."""
        if not isinstance(value, Tensor):
            return None
        with self._lock:
            call = self._calls.get(value.device, 0)
            self._calls[value.device] = call + 1
        if self._call_index not in (None, call):
            return None
        instances = value.unsqueeze(1) if value.dim() == 1 else value
        check_shape(instances, self._shape, self._name)
        mask = self._mask.reshape(self._shape).to(value.device)
        values = self._values.to(value).reshape(self._shape)
        self._applied = True
        clamped = torch.where(mask, values, instances).reshape(value.shape)
        in_place = getattr(self._layer, "inplace", False) and not self._to_input
        if in_place and not value.requires_grad:
            # The caller may go on with the tensor that the layer changed in place.
            return value.copy_(clamped)
        return clamped


def _known_call(reader: LayerReader, index: int) -> int | None:
    """The call to clamp, counted from the first; None for the only one.

    Raises:
        ValueError: the layer is pooled, or it cannot be told when the call comes.
    """
    name, call_index = reader.names[index], reader.call_index
    if reader.pools[index] is not None:
        raise ValueError(
            f"layer {name!r} is read through a pool, so its neurons are no neurons of "
            "the layer's output; clamp with an explainer without pool"
        )
    if call_index is not None and call_index < 0:
        raise ValueError(
            f"call_index={call_index} counts from the last call, which clamping cannot "
            f"know when layer {name!r} fires; count from the first, e.g. call_index=1"
        )
    if call_index is not None and reader.model is None:
        raise ValueError(
            f"call_index={call_index}, but which module starts a forward pass is "
            "unknown; pass the model itself as forward_func"
        )
    return call_index


def _checked_neurons(neurons: Tensor, n_neurons: int) -> Tensor:
    if not isinstance(neurons, Tensor) or neurons.dtype != torch.int64:
        kind = getattr(neurons, "dtype", type(neurons).__name__)
        raise TypeError(
            f"neurons is {kind}; give flat indices as a torch.int64 tensor, e.g. "
            "region.neurons"
        )
    if neurons.dim() != 1:
        raise ValueError(
            f"neurons has shape {tuple(neurons.shape)}; give flat indices (t,)"
        )
    check_range("neurons", neurons, n_neurons, "the layer's flat indices")
    return neurons.cpu()


def _checked_values(values: float | Tensor, neurons: Tensor) -> Tensor:
    value = torch.as_tensor(values, dtype=torch.float64).cpu()
    if value.shape not in ((), neurons.shape):
        raise ValueError(
            f"values has shape {tuple(value.shape)} for {len(neurons)} neurons; give a "
            "number or one value each"
        )
    return value
