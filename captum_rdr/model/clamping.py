"""Fix neurons to values while a model runs."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor

from captum_rdr._arguments import check_range, for_each
from captum_rdr.model.hooks import hookable, on_call, undoing
from captum_rdr.model.probe import FittedLayer
from captum_rdr.model.reader import LayerReader
from captum_rdr.model.states import check_shape


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
        values: a number, float ``(t,)`` or ``(B, t)``, or a list of these.

    Raises:
        TypeError: ``neurons`` is no flat int64 tensor.
        ValueError: a layer is pooled, a shape or index does not fit, or no clamped layer
            fired in the context.
    """
    picked = for_each(neurons, len(fitted), "neurons")
    given = for_each(values, len(fitted), "values")
    clamps = [
        _Clamp(reader.only(index), layer, picked[index], given[index])
        for index, layer in enumerate(fitted)
    ]
    with hookable(reader.layers, reader.model), undoing() as undo:
        for clamp in clamps:
            if reader.call_index is not None and reader.model is not None:
                on_call(reader.model, True, clamp.begin_pass, undo)
            on_call(clamp.layer, clamp.to_input, clamp.clamped, undo)
        yield
    for clamp in clamps:
        if not clamp.is_applied:
            call = "" if reader.call_index is None else f" call {reader.call_index}"
            raise ValueError(
                f"layer {clamp.name!r} did not fire{call} inside clamping; run the "
                "model that rdr explains inside, not a compiled copy"
            )


class _Clamp:
    """Fixes neurons of one layer, in one of its calls."""

    def __init__(
        self,
        reader: LayerReader,
        fitted: FittedLayer,
        neurons: Tensor,
        values: float | Tensor,
    ) -> None:
        (self.layer,), (self.name,) = reader.layers, reader.names
        self.to_input, self._shape = fitted.attribute_to_layer_input, fitted.layer_shape
        self._call_index = reader.call_index
        _check_reader(reader, self.name)
        _check_neurons(neurons, self._shape.numel())
        value = torch.as_tensor(values, dtype=torch.float64).cpu()
        if value.dim() and (value.dim() > 2 or value.shape[-1:] != neurons.shape):
            raise ValueError(
                f"values has shape {tuple(value.shape)} for {len(neurons)} neurons; give "
                "a number, or one value each for all instances or for every one"
            )
        shape = (*value.shape[:-1], self._shape.numel())
        self._values = torch.full(shape, torch.nan, dtype=torch.float64)
        self._values[..., neurons.cpu()] = value
        # Of each device, as replicas of a DataParallel model run in threads.
        self._calls: dict[torch.device, count[int]] = defaultdict(count)
        self.is_applied = False

    def begin_pass(self, _: Any) -> None:
        """Count calls anew."""
        self._calls.clear()

    def clamped(self, value: Any) -> Tensor | None:
        """What takes the place of a value in the wanted call."""
        if not isinstance(value, Tensor):
            return None
        if self._call_index not in (None, next(self._calls[value.device])):
            return None
        instances = value.unsqueeze(1) if value.dim() == 1 else value
        check_shape(instances, self._shape, self.name)
        values = self._values.to(value).reshape(-1, *self._shape)
        if len(values) not in (1, len(instances)):
            raise ValueError(
                f"values has rows for {len(values)} instances, the batch {len(instances)}; "
                "give as many"
            )
        self.is_applied = True
        # What is not clamped is NaN.
        clamped = torch.where(values.isnan(), instances, values).reshape(value.shape)
        in_place = getattr(self.layer, "inplace", False) and not self.to_input
        if in_place and not value.requires_grad:
            # The caller may go on with the tensor that the layer changed in place.
            return value.copy_(clamped)
        return clamped


def _check_reader(reader: LayerReader, name: str) -> None:
    """Refuse a pooled layer, and a call of which it cannot be told when it comes."""
    call_index = reader.call_index
    if reader.pools[0] is not None:
        raise ValueError(
            f"layer {name!r} is read through a pool, whose neurons are not the layer's "
            "own; clamp with an explainer without pool"
        )
    if call_index is not None and (call_index < 0 or reader.model is None):
        raise ValueError(
            f"call_index={call_index} cannot be told when layer {name!r} fires; count "
            "from the first call, and pass the model itself as forward_func"
        )


def _check_neurons(neurons: Tensor, n_neurons: int) -> None:
    is_flat = isinstance(neurons, Tensor) and neurons.dim() == 1
    if not is_flat or neurons.dtype != torch.int64:
        shape = tuple(getattr(neurons, "shape", ()))
        raise TypeError(
            f"neurons is {getattr(neurons, 'dtype', type(neurons).__name__)} of shape "
            f"{shape}; give flat indices (t,) as torch.int64, e.g. region.neurons"
        )
    check_range("neurons", neurons, n_neurons, "the layer's flat indices")
