"""Run forward passes and read the activations of layers."""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import Module

from captum_rdr.axes import LayerAxes, axes_of
from captum_rdr.model.hooks import has_hooks, on_call, undisturbed
from captum_rdr.model.inputs import ForwardArguments, signature_of
from captum_rdr.model.signature import Walk
from captum_rdr.model.states import checked_activations
from captum_rdr.pooling import Pool

_SAVED = Tensor.detach, Tensor.detach  # what is saved for gradients, and read again

Keep = Callable[[int, Tensor], tuple[Tensor, ...]]
Kept = list[tuple[Tensor, ...]]
Read = Callable[..., Kept]


@dataclass(frozen=True)
class LayerReader:
    """What runs and which activations are read from it.

    Attributes:
        forward_func: the model, or a function around it.
        layers: the modules to read.
        device_ids: devices of a ``DataParallel`` model, or None.
        pools: one for each layer, applied to its output; None for none.
        call_index: which call of a layer that fires several times, or None.
        axes: what each layer's axes mean; None, or none at all, to find out.

    Raises:
        TypeError: ``forward_func`` or a pool cannot be called, or ``layers`` are no
            modules.
    """

    forward_func: Callable[..., Any]
    layers: Sequence[Module]
    device_ids: Sequence[int] | None
    pools: Sequence[Pool | None]
    call_index: int | None
    axes: Sequence[LayerAxes | None] = ()

    def __post_init__(self) -> None:
        if not self.layers or not all(isinstance(one, Module) for one in self.layers):
            raise TypeError(
                f"layer={[*self.layers]!r} is neither a module nor a list of modules; "
                "pass e.g. model.layer4"
            )
        pools = [("pool", pool) for pool in self.pools if pool is not None]
        for name, one in (("forward_func", self.forward_func), *pools):
            if not callable(one):
                raise TypeError(
                    f"{name}={one!r:.60} is a {type(one).__name__}, which cannot be "
                    "called; pass a module or a function"
                )

    @property
    def model(self) -> Module | None:
        """The module that runs.

        For a function the module that holds the layers, if the function refers to one;
        else None.
        """
        if isinstance(self.forward_func, Module):
            return self.forward_func
        for module in Walk([self.forward_func]).modules:
            if {*map(id, self.layers)} <= {*map(id, module.modules())}:
                return module
        return None

    @property
    def modules(self) -> Sequence[Module]:
        """The model, or the layers where the model is unknown."""
        model = self.model
        return self.layers if model is None else [model]

    @property
    def names(self) -> list[str]:
        """The layers' qualified names, or those of their classes without a model."""
        model = self.model
        named = () if model is None else model.named_modules()
        known = {id(module): name for name, module in named}
        return [known.get(id(one)) or type(one).__name__ for one in self.layers]

    @property
    def device(self) -> torch.device | None:
        """Where inputs must lie: the device of the model's first parameter.

        None where there is none but on "meta", as of weights that are loaded on demand.
        """
        tensors = chain(*((*one.parameters(), *one.buffers()) for one in self.modules))
        return next((one.device for one in tensors if not one.is_meta), None)

    def only(self, *indices: int) -> "LayerReader":
        """The same reader for some of its layers."""
        return replace(
            self,
            layers=[self.layers[index] for index in indices],
            pools=[self.pools[index] for index in indices],
            axes=[self.axes[index] for index in indices] if self.axes else (),
        )

    def axes_of(
        self, index: int, shape: torch.Size, of_input: bool
    ) -> LayerAxes | None:
        """What the axes of a layer's output or input, pooled or not, mean, if known.

        Args:
            index: the layer's number.
            shape: that of one instance.
            of_input: whether the layer's input is read.

        Raises:
            ValueError: the axes that were given do not fit a layer without a pool.
        """
        given = self.axes[index] if self.axes else None
        if given is not None and self.pools[index] is None:
            given.check(shape)
        if given is not None and len(given.kinds) == len(shape):
            return given
        return axes_of(self.layers[index], shape, self.model, of_input=of_input)

    @contextmanager
    def reading(
        self,
        keep: Keep,
        attribute_to_layer_input: bool = False,
        gradients: bool = False,
    ) -> Iterator[Read]:
        """Record the layers; the model is left as found at the end.

        Args:
            keep: makes of a layer's number and its activations ``(B, D1, ..., Dm)`` the
                tensors to keep; called before a later operation may change them.
            attribute_to_layer_input: read what the layers take in.
            gradients: leave gradient recording as it is.

        Yields:
            a function ``read(arguments, label, leave_early)`` that runs one forward
            pass and returns for each layer what ``keep`` made; ``label`` names the
            batch in errors.
        """
        model = self.model
        record = Record(self, keep, attribute_to_layer_input, gradients)
        with undisturbed(self.layers, model, gradients) as undo:
            for index, layer in enumerate(self.layers):
                see = functools.partial(record.observe, index)
                on_call(layer, attribute_to_layer_input, see, undo)
            yield record.run


class _Finished(BaseException):
    """Leaves a forward pass; no ``except Exception`` in a model may swallow it."""


class Record:
    """What the layers of a reader gave in the last forward pass."""

    def __init__(
        self, reader: LayerReader, keep: Keep, to_input: bool, gradients: bool
    ) -> None:
        self._reader, self._keep = reader, keep
        self._to_input, self._gradients = to_input, gradients
        self._names, self._device = reader.names, reader.device
        self._asked = [_asked(pool) for pool in reader.pools]
        ids = reader.device_ids or getattr(reader.forward_func, "device_ids", None)
        self._device_ids: Sequence[int] = ids or ()
        # Several replicas of the model each see a share of the batch.
        self._is_split = len(self._device_ids) > 1
        needs_all = self._is_split or (reader.call_index or 0) < 0
        self._may_leave = not (needs_all or _is_followed(reader))
        self._lock, self._thread = threading.Lock(), threading.get_ident()
        self._begin(ForwardArguments((), {}), "", leave_early=False)

    def _begin(self, given: ForwardArguments, batch: str, leave_early: bool) -> None:
        self._given, self._batch = given, batch
        self._leave_early = leave_early and self._may_leave
        # For each layer and device, what was kept of each call; None of unwanted ones.
        self._calls: list[dict[torch.device, list[tuple[Tensor, ...] | None]]] = [
            {} for _ in self._names
        ]

    def run(self, arguments: ForwardArguments, label: str, leave_early: bool) -> Kept:
        """Run one forward pass and return what was kept of each layer.

        Args:
            arguments: those of the forward function.
            label: names the batch in errors.
            leave_early: leave the pass as soon as the last wanted layer has fired. A
                layer that fires again after that goes unnoticed, so let a first pass
                run to its end.

        Raises:
            ValueError: a layer did not fire, or ``call_index`` chooses none of its
                calls.
        """
        self._begin(arguments.to(self._device), label, leave_early)
        with suppress(_Finished):
            self._reader.forward_func(*self._given.args, **self._given.kwargs)
        return [self._value(index, name) for index, name in enumerate(self._names)]

    def observe(self, index: int, value: Any) -> None:
        """Take one call of layer ``index``, and leave the pass if it was the last."""
        if not self._is_split and threading.get_ident() != self._thread:
            return  # another thread uses the model
        wanted = self._reader.call_index or 0
        with self._lock:
            calls = self._calls[index].setdefault(_device(value), [])
            if wanted < 0 and len(calls) >= -wanted:
                calls[wanted] = None  # too long ago now
            is_wanted = wanted < 0 or wanted == len(calls)
            calls.append(self._kept(index, value) if is_wanted else None)
        layers = range(len(self._calls))
        if self._leave_early and all(self._n_calls(one) > wanted for one in layers):
            raise _Finished

    def _n_calls(self, index: int) -> int:
        return max(map(len, self._calls[index].values()), default=0)

    def _kept(self, index: int, output: Any) -> tuple[Tensor, ...]:
        gradients = torch.is_grad_enabled()
        size = None if self._is_split else self._given.batch_size
        whose = "the input of layer" if self._to_input else "layer"
        where = f"{whose} {self._names[index]!r} in {self._batch}"
        with (
            # What is made here outlives an inference mode that a model has switched on,
            torch.inference_mode(False),
            torch.set_grad_enabled(gradients),
            # and a checkpoint that the layer lies in does not count what is saved here.
            saved_tensors_hooks(*_SAVED) if self._gradients else nullcontext(),
        ):
            pooled = self._pooled(index, output)
            return self._keep(index, checked_activations(pooled, size, where))

    def _pooled(self, index: int, output: Any) -> Any:
        """A layer's output, pooled; what the pool asks for is filled in by name."""
        reader, asked = self._reader, self._asked[index]
        pool = reader.pools[index]
        if pool is None:
            return output
        known = self._given.named(reader.forward_func) if asked else {}
        if "axes" in asked and isinstance(output, Tensor):
            known["axes"] = reader.axes_of(index, output.shape[1:], self._to_input)
        return pool(output, **{name: known[name] for name in asked if name in known})

    def _value(self, index: int, name: str) -> tuple[Tensor, ...]:
        """What one layer gave, the parts of several devices put together in order."""
        calls, wanted = self._n_calls(index), self._reader.call_index
        if calls == 0:
            raise ValueError(
                f"layer {name!r} did not fire in the forward pass; choose one that these "
                "inputs reach as a module; of a compiled or scripted model pass the "
                "original, e.g. model._orig_mod"
            )
        if (wanted is None and calls > 1) or not -calls <= (wanted or 0) < calls:
            raise ValueError(
                f"layer {name!r} fired {calls} times in one pass, and call_index={wanted}; "
                f"choose another layer, or call_index={-calls} to {calls - 1}"
            )
        devices, order = list(self._calls[index]), list(self._device_ids)
        if len(devices) > 1:
            if not order:
                raise ValueError(
                    f"layer {name!r} ran on {len(devices)} devices in unknown order; pass "
                    "device_ids as DataParallel got them"
                )
            devices.sort(key=lambda device: order.index(device.index or 0))
        parts = [self._calls[index][device][wanted or 0] or () for device in devices]
        if len(parts) == 1:
            return parts[0]
        first, columns = parts[0][0].device, zip(*parts, strict=True)
        return tuple(torch.cat([p.to(first) for p in one]) for one in columns)


def _device(value: Any) -> torch.device:
    """Device of the first tensor in a layer's output."""
    while isinstance(value, (tuple, list, dict)) and value:
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return value.device if isinstance(value, Tensor) else torch.device("cpu")


def _asked(pool: Pool | None) -> list[str]:
    """What a pool asks for beside the layer's output, by name."""
    signature = None if pool is None else signature_of(pool)
    parameters = list(signature.parameters.values())[1:] if signature else []
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [one.name for one in parameters if one.kind in by_name]


def _is_followed(reader: LayerReader) -> bool:
    """Whether hooks, or ``finally`` and ``with`` blocks, may see how a pass ends."""
    inner = [one for module in reader.modules for one in module.modules()]
    functions = [reader.forward_func, *(getattr(one, "forward", None) for one in inner)]
    return has_hooks(reader.modules) or any(map(_has_blocks, functions))


def _has_blocks(function: Any) -> bool:
    """Whether a function holds a ``try`` or ``with`` block."""
    found = inspect.unwrap(getattr(function, "__func__", function))
    return inspect.isfunction(found) and bool(found.__code__.co_exceptiontable)
