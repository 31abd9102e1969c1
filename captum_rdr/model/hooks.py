"""Record what layers put out (or take in), and put model and random state back."""

import contextlib
import random
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules import module as every_module
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def raw_bytes(tensor: Tensor) -> Tensor:
    """Flat uint8 tensor of a tensor's values, on the same device.

    Bytes compare equal where NaN values do not. A sparse tensor gives its indices and
    values, a quantized one its whole numbers.

    >>> raw_bytes(torch.tensor([1, 256], dtype=torch.int16)).tolist()
    [1, 0, 0, 1]
    """
    tensor = tensor.detach()
    if is_traceable_wrapper_subclass(tensor):  # quantized or sharded by a library
        held = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
        return torch.cat([raw_bytes(one) for one in held])
    if tensor.layout != torch.strided:
        entries = tensor.to_sparse().coalesce()
        return torch.cat([raw_bytes(entries.indices()), raw_bytes(entries.values())])
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    if tensor.numel() == 0:
        return torch.empty(0, dtype=torch.uint8, device=tensor.device)
    dense = tensor.resolve_conj().resolve_neg().contiguous()
    return dense.reshape(-1).view(torch.uint8)


class Undo:
    """What puts things back, the newest first, each once or again after an interrupt."""

    def __init__(self) -> None:
        self._todo: list[Callable[[], object]] = []

    def add(self, function: Callable[[], object]) -> None:
        """Take what puts a thing back; before the thing is done, as it may be undone."""
        self._todo.append(function)

    def run(self) -> None:
        """Put everything back, also where something fails."""
        error = None
        while self._todo:
            try:
                self._todo[-1]()
            except Exception as found:
                error = found
            self._todo.pop()
        if error is not None:
            raise error


@contextmanager
def undoing() -> Iterator[Undo]:
    """Put back at the end what is added, also if an interrupt comes meanwhile.

    >>> with undoing() as undo:
    ...     undo.add(lambda: print("last"))
    ...     undo.add(lambda: print("first"))
    first
    last
    """
    undo = Undo()
    try:
        try:
            yield undo
        finally:
            undo.run()
    finally:  # an interrupt may have come between
        undo.run()


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Run a model in evaluation mode and put every module and buffer back.

    Each module's own ``training`` flag is restored, not the root's for all of them,
    and a buffer that the forward pass wrote or resized gets its old values again, one
    that was None is None. A buffer that the pass registers stays, as it may do so only
    once. The flags are set directly, since a model may override ``train`` with side
    effects.

    >>> model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2).eval())
    >>> with evaluating(model):
    ...     [module.training for module in model]
    [False, False]
    >>> [module.training for module in model]
    [True, False]
    """
    with undoing() as undo:
        _evaluate(model, undo)
        yield


def _evaluate(model: Module, undo: Undo) -> None:
    # A frozen script within a model has no modes.
    modes = [
        (module, module.training)
        for module in model.modules()
        if hasattr(module, "training")
    ]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]

    def put_back() -> None:
        for module, mode in modes:
            module.training = mode
        for module, name, buffer, values in buffers:
            module._buffers[name] = buffer
            if buffer is not None and values is not None:
                _write_back(buffer, values)

    undo.add(put_back)
    for module, _ in modes:
        module.training = False


def _write_back(buffer: Tensor, values: Tensor) -> None:
    """Give a buffer its old values, and its old size, where it has other ones."""
    is_same = (buffer.shape, buffer.dtype) == (values.shape, values.dtype)
    # A buffer on the meta device has no values.
    if buffer.is_meta or (is_same and raw_bytes(buffer).equal(raw_bytes(values))):
        return
    with torch.inference_mode(buffer.is_inference()), torch.no_grad():
        if is_same:
            buffer.copy_(values)
        else:
            buffer.data = values


@contextmanager
def same_random_state() -> Iterator[None]:
    """Give PyTorch's, NumPy's and Python's global generators their state back.

    Iterating a DataLoader draws from PyTorch's, and transforms may draw from any.

    >>> before = torch.get_rng_state()
    >>> with same_random_state():
    ...     _ = torch.rand(3)
    >>> bool((torch.get_rng_state() == before).all())
    True
    """
    with undoing() as undo:
        _keep_random_state(undo)
        yield


def _keep_random_state(undo: Undo) -> None:
    on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    undo.add(partial(random.setstate, random.getstate()))
    undo.add(partial(np.random.set_state, np.random.get_state()))
    undo.add(partial(torch.set_rng_state, torch.get_rng_state()))
    if on_cuda:
        states = torch.cuda.get_rng_state_all()
        undo.add(partial(torch.cuda.set_rng_state_all, states))


Keep = Callable[[int, Any], tuple[Tensor, ...]]

# Hooks, modes, buffers and random states belong to the whole process, so threads record
# one after the other. Nested recordings of one thread go on.
_RECORDING = threading.RLock()


class _Finished(BaseException):
    """Leaves a forward pass; no ``except Exception`` in a model may swallow it."""


def copied(index: int, value: Any) -> tuple[Tensor, ...]:
    """Keep a copy, since a later in-place operation may change the layer's output.

    >>> copied(0, torch.ones(2))
    (tensor([1., 1.]),)
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"layer {index} gave a {type(value).__name__}, not a tensor; "
            "choose a tensor in it with pool, e.g. pool=lambda output: output[0]"
        )
    return (value.clone(),)


class Record:
    """What the recorded layers gave in the last forward pass."""

    def __init__(
        self,
        names: Sequence[str],
        keep: Keep,
        call_index: int | None,
        device_ids: Sequence[int] | None,
        may_leave: bool = True,
    ) -> None:
        self._names, self._keep = names, keep
        self._may_leave = may_leave
        self._call_index, self._device_ids = call_index, device_ids
        self._lock = threading.Lock()
        self._thread = threading.get_ident()
        self._leave_early = False
        self._clear()

    @property
    def is_split(self) -> bool:
        """Whether several replicas of the model each see a share of the batch."""
        return self._device_ids is not None and len(self._device_ids) > 1

    def _clear(self) -> None:
        # For each layer and device, what was kept of each call; None of unwanted ones.
        self._calls: list[dict[torch.device, list[tuple[Tensor, ...] | None]]] = [
            {} for _ in self._names
        ]

    def _n_calls(self, index: int) -> int:
        return max(map(len, self._calls[index].values()), default=0)

    def run(
        self, forward: Callable[..., Any], *args: Any, leave_early: bool, **kwargs: Any
    ) -> list[tuple[Tensor, ...]]:
        """Run one forward pass and return what each layer gave.

        Args:
            forward: the function to call.
            *args: its positional arguments.
            **kwargs: its keyword arguments.
            leave_early: leave the pass as soon as the last wanted layer has fired. A
                layer that fires again after that goes unnoticed, so let a first pass
                run to its end.

        Returns:
            for each layer the tensors that ``keep`` made of its output.

        Raises:
            ValueError: a layer did not fire, or fired several times and no
                ``call_index`` chooses between its calls.
        """
        self._clear()
        counts_from_the_first = (self._call_index or 0) >= 0
        self._leave_early = (
            leave_early
            and self._may_leave
            and counts_from_the_first
            and not self.is_split
        )
        with contextlib.suppress(_Finished):
            forward(*args, **kwargs)
        return self.values()

    def observe(self, index: int, value: Any) -> None:
        """Take one call of layer ``index``, and leave the pass if it was the last."""
        if not self.is_split and threading.get_ident() != self._thread:
            return  # another thread uses the model
        wanted = self._call_index or 0
        with self._lock:
            calls = self._calls[index].setdefault(_device(value), [])
            if wanted < 0 and len(calls) >= -wanted:
                calls[wanted] = None  # too long ago now
            is_wanted = wanted < 0 or wanted == len(calls)
            calls.append(self._kept(index, value) if is_wanted else None)
        layers = range(len(self._calls))
        if self._leave_early and all(self._n_calls(one) > wanted for one in layers):
            raise _Finished

    def _kept(self, index: int, value: Any) -> tuple[Tensor, ...]:
        if not torch.is_inference_mode_enabled():
            return self._keep(index, value)
        # What is made here outlives the mode that a model may have switched on.
        with torch.inference_mode(False), torch.no_grad():
            return self._keep(index, value)

    def values(self) -> list[tuple[Tensor, ...]]:
        """What each layer gave, the parts of several devices put together in order."""
        return [self._value(index, name) for index, name in enumerate(self._names)]

    def _value(self, index: int, name: str) -> tuple[Tensor, ...]:
        calls, wanted = self._n_calls(index), self._call_index
        if calls == 0:
            raise ValueError(
                f"layer {name!r} did not fire in the forward pass; choose a layer "
                "that the model calls as a module with these inputs (not one whose "
                "weights a function uses), and for a compiled model pass the original "
                "one (model._orig_mod)"
            )
        if wanted is None and calls > 1:
            raise ValueError(
                f"layer {name!r} fired {calls} times in one forward pass; choose a "
                "layer that fires once, or one call of this one with call_index=0 "
                f"to {calls - 1}"
            )
        if not -calls <= (wanted or 0) < calls:
            raise ValueError(
                f"call_index={wanted} but layer {name!r} fired {calls} times in one "
                f"forward pass; use {-calls} to {calls - 1}"
            )
        devices = _in_order(list(self._calls[index]), self._device_ids)
        parts = [self._calls[index][device][wanted or 0] or () for device in devices]
        first = parts[0][0].device
        return tuple(
            torch.cat([part.to(first) for part in column])
            if len(column) > 1
            else column[0]
            for column in zip(*parts, strict=True)
        )


@contextmanager
def recording(
    layers: Sequence[Module],
    *,
    model: Module | None = None,
    keep: Keep = copied,
    attribute_to_layer_input: bool = False,
    call_index: int | None = None,
    device_ids: Sequence[int] | None = None,
    gradients: bool = False,
    may_leave: bool = True,
) -> Iterator[Record]:
    """Record layers for as long as the context lasts, then put everything back.

    Hooks are removed, each module's ``training`` flag, the buffers of ``model`` and the
    global random states are restored, also after an exception. Inside, ``model`` is in
    evaluation mode and no gradients are recorded unless asked for. A thread that would
    record while another does waits for it. Forward passes that other threads run
    meanwhile are not recorded, but run in evaluation mode.

    Args:
        layers: modules to record.
        model: the module that runs; None for a plain function, whose modules must be
            in evaluation mode already.
        keep: makes of a layer's number and its output the tensors to keep, the batch
            dimension first; called while the layer's output is still unchanged.
        attribute_to_layer_input: record what layers take in instead.
        call_index: which call of a layer that fires several times (negative counts
            from the last).
        device_ids: the devices of a ``DataParallel`` model, in batch order.
        gradients: leave gradient recording as it is.
        may_leave: whether a pass may be left early.

    Yields:
        the `Record`.

    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    >>> with recording([net[1]], model=net) as record:
    ...     _ = net(torch.ones(4, 2))
    ...     record.values()[0][0].shape
    torch.Size([4, 3])
    """
    names = layer_names(layers, model)
    record = Record(names, keep, call_index, device_ids, may_leave)
    with undoing() as undo:
        if not _RECORDING._is_owned():  # type: ignore[attr-defined]
            undo.add(_let_go)
            _RECORDING.acquire()
        _keep_random_state(undo)
        _make_hookable(layers, model, undo)
        undo.add(partial(torch.set_grad_enabled, torch.is_grad_enabled()))
        if not gradients:
            torch.set_grad_enabled(False)
        for index, layer in enumerate(layers):
            on_call(
                layer, attribute_to_layer_input, partial(record.observe, index), undo
            )
        yield record


def _let_go() -> None:
    """Release the lock, whatever an interrupt has left of it."""
    if _RECORDING._is_owned():  # type: ignore[attr-defined]
        _RECORDING._release_save()  # type: ignore[attr-defined]


def layer_names(layers: Sequence[Module], model: Module | None) -> list[str]:
    """Qualified names of layers, or their class names where ``model`` is unknown.

    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    >>> layer_names([net[1]], net), layer_names([net[1]], None)
    (['1'], ['ReLU'])
    """
    known = {} if model is None else {id(m): n for n, m in model.named_modules()}
    return [known.get(id(layer)) or type(layer).__name__ for layer in layers]


@contextmanager
def hookable(layers: Sequence[Module], model: Module | None) -> Iterator[None]:
    """Evaluation mode in which hooks of every submodule fire; put back at the end.

    Args:
        layers: modules that hooks are for.
        model: the module that runs; None for a plain function, whose modules must be
            in evaluation mode already.

    Raises:
        ValueError: there is no model, and a layer is in training mode.

    >>> net = torch.nn.Sequential(torch.nn.Dropout())
    >>> with hookable([net[0]], net):
    ...     net.training
    False
    """
    with undoing() as undo:
        _make_hookable(layers, model, undo)
        yield


def _make_hookable(layers: Sequence[Module], model: Module | None, undo: Undo) -> None:
    if model is None:
        _refuse_training(layers)
    else:
        _evaluate(model, undo)
    # PyTorch's fused transformer layers skip submodules and hooks.
    mha = torch.backends.mha
    undo.add(partial(mha.set_fastpath_enabled, mha.get_fastpath_enabled()))
    mha.set_fastpath_enabled(False)


def has_hooks(modules: Iterable[Module]) -> bool:
    """Whether forward passes run hooks that are not this package's."""
    held = {id(one): one for module in modules for one in module.modules()}
    hooks = [
        hook
        for one in held.values()
        for hook in (*one._forward_hooks.values(), *one._forward_pre_hooks.values())
    ]
    own = [getattr(hook, "__module__", "").startswith("captum_rdr.") for hook in hooks]
    everywhere = every_module._global_forward_hooks or (
        every_module._global_forward_pre_hooks
    )
    return bool(everywhere) or not all(own)


def _refuse_training(layers: Sequence[Module]) -> None:
    for layer in layers:
        if any(module.training for module in layer.modules()):
            raise ValueError(
                f"forward_func is a function, and layer {type(layer).__name__!r} is in "
                "training mode; call .eval() on its model first, or pass the model itself"
            )


def on_call(
    layer: Module, to_input: bool, see: Callable[[Any], Tensor | None], undo: Undo
) -> None:
    """Show each output of a layer, or what it takes in, to a function.

    Args:
        layer: the layer.
        to_input: show what it takes in, several values as a tuple.
        see: what it returns takes the value's place, unless that is None.
        undo: ends it.

    >>> layer = torch.nn.Identity()
    >>> with undoing() as undo:
    ...     on_call(layer, False, lambda output: output + 1, undo)
    ...     layer(torch.ones(2))
    tensor([2., 2.])
    """
    if "torch._dynamo" in sys.modules:  # so that compiled code does not trace it
        see = torch.compiler.disable(see)  # type: ignore[no-untyped-call]

    def before(_: Module, args: Any, kwargs: dict[str, Any]) -> Any:
        values = (*args, *kwargs.values())
        new = see(values[0] if len(values) == 1 else values)
        if new is None:
            return None
        return ((new,), {}) if args else ((), dict.fromkeys(kwargs, new))

    def after(_: Module, args: Any, output: Any) -> Any:
        return see(output)

    if to_input:
        undo.add(partial(remove_hook, layer._forward_pre_hooks, before))
        layer.register_forward_pre_hook(before, with_kwargs=True)
    else:
        undo.add(partial(remove_hook, layer._forward_hooks, after))
        layer.register_forward_hook(after)


def remove_hook(hooks: dict[int, Any], hook: Any) -> None:
    """Remove a hook, also one of which no handle is known."""
    for number, one in list(hooks.items()):
        if one is hook:
            del hooks[number]


def _device(value: Any) -> torch.device:
    """Device of the first tensor in a layer's output."""
    while isinstance(value, (tuple, list, dict)) and value:
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return value.device if isinstance(value, Tensor) else torch.device("cpu")


def _in_order(
    devices: list[torch.device], device_ids: Sequence[int] | None
) -> list[torch.device]:
    """Devices in the order in which ``DataParallel`` dealt the batch out."""
    if len(devices) == 1:
        return devices
    if device_ids is None:
        raise ValueError(
            f"the layer ran on {len(devices)} devices and their order in the batch is "
            "unknown; pass device_ids as DataParallel got them"
        )
    order = list(device_ids)
    return sorted(devices, key=lambda device: order.index(device.index or 0))
