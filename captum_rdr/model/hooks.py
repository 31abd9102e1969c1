"""Record what layers put out (or take in), and put model and random state back."""

import contextlib
import random
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules import module as every_module
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.hooks import RemovableHandle


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
    dense = tensor.resolve_conj().resolve_neg().contiguous()
    return dense.reshape(-1).view(torch.uint8)


Undo = list[Callable[[], object]]
"""What puts things back, each of which may be done again after an interrupt."""


@contextmanager
def undoing() -> Iterator[Undo]:
    """Put back at the end what is appended, the newest first, also after an interrupt.

    Append what puts a thing back before the thing is done.

    >>> with undoing() as undo:
    ...     undo.append(lambda: print("last"))
    ...     undo.append(lambda: print("first"))
    first
    last
    """
    undo: Undo = []
    try:
        try:
            yield undo
        finally:
            _put_back(undo)
    finally:  # an interrupt may have come between
        _put_back(undo)


def _put_back(undo: Undo) -> None:
    try:
        while undo:
            undo[-1]()
            undo.pop()
    except Exception:
        undo.pop()
        _put_back(undo)
        raise


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
    modules = list(model.modules())
    # A frozen script within a model has no modes.
    modes = [(one, one.training) for one in modules if hasattr(one, "training")]
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in modules
        for name, buffer in module._buffers.items()
    ]

    def put_back() -> None:
        for module, mode in modes:
            module.training = mode
        for module, name, buffer, values in buffers:
            module._buffers[name] = buffer
            if buffer is not None and values is not None:
                _write_back(buffer, values)

    with undoing() as undo:
        undo.append(put_back)
        for module, _ in modes:
            module.training = False
        yield


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
        undo.append(partial(random.setstate, random.getstate()))
        undo.append(partial(np.random.set_state, np.random.get_state()))
        undo.append(partial(torch.set_rng_state, torch.get_rng_state()))
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            states = torch.cuda.get_rng_state_all()
            undo.append(partial(torch.cuda.set_rng_state_all, states))
        yield


Keep = Callable[[int, Any], tuple[Tensor, ...]]

# Hooks, modes, buffers and random states belong to the whole process, so threads record
# one after the other. Nested recordings of one thread go on.
_RECORDING = threading.RLock()


class _Finished(BaseException):
    """Leaves a forward pass; no ``except Exception`` in a model may swallow it."""


class Record:
    """What the recorded layers gave in the last forward pass."""

    def __init__(
        self,
        names: Sequence[str],
        keep: Keep,
        call_index: int | None,
        device_ids: Sequence[int] | None,
        may_leave: bool,
    ) -> None:
        self._names, self._keep, self._call_index = names, keep, call_index
        self._device_ids = device_ids
        # Whether several replicas of the model each see a share of the batch.
        self.is_split = device_ids is not None and len(device_ids) > 1
        self._may_leave = may_leave and (call_index or 0) >= 0 and not self.is_split
        self._lock, self._thread = threading.Lock(), threading.get_ident()
        self._clear(leave_early=False)

    def _clear(self, leave_early: bool) -> None:
        self._leave_early = leave_early and self._may_leave
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
            ValueError: a layer did not fire, or ``call_index`` chooses none of its
                calls.
        """
        self._clear(leave_early)
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
        gradients = torch.is_grad_enabled()
        # What is made here outlives an inference mode that a model has switched on.
        with torch.inference_mode(False), torch.set_grad_enabled(gradients):
            return self._keep(index, value)

    def values(self) -> list[tuple[Tensor, ...]]:
        """What each layer gave, the parts of several devices put together in order."""
        return [self._value(index, name) for index, name in enumerate(self._names)]

    def _value(self, index: int, name: str) -> tuple[Tensor, ...]:
        calls, wanted = self._n_calls(index), self._call_index
        if calls == 0:
            raise ValueError(
                f"layer {name!r} did not fire in the forward pass; choose a layer that "
                "the model calls as a module with these inputs, and for a compiled model "
                "pass the original one (model._orig_mod)"
            )
        if (wanted is None and calls > 1) or not -calls <= (wanted or 0) < calls:
            raise ValueError(
                f"layer {name!r} fired {calls} times in one forward pass, and "
                f"call_index={wanted}; choose a layer that fires once, or one call of "
                f"this one with call_index={-calls} to {calls - 1}"
            )
        devices = list(self._calls[index])
        if len(devices) > 1:
            if self._device_ids is None:
                raise ValueError(
                    f"layer {name!r} ran on {len(devices)} devices, whose order in the "
                    "batch is unknown; pass device_ids as DataParallel got them"
                )
            order = list(self._device_ids)
            devices.sort(key=lambda device: order.index(device.index or 0))
        parts = [self._calls[index][device][wanted or 0] or () for device in devices]
        if len(parts) == 1:
            return parts[0]
        first, columns = parts[0][0].device, zip(*parts, strict=True)
        return tuple(torch.cat([p.to(first) for p in one]) for one in columns)


@contextmanager
def recording(
    layers: Sequence[Module],
    *,
    model: Module | None = None,
    keep: Keep = lambda _, output: (output.clone(),),
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
            dimension first; called while the layer's output is still unchanged. A copy
            is kept if it is not given.
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
            undo.append(_let_go)
            _RECORDING.acquire()
        with same_random_state(), hookable(layers, model):
            undo.append(partial(torch.set_grad_enabled, torch.is_grad_enabled()))
            if not gradients:
                torch.set_grad_enabled(False)
            for index, layer in enumerate(layers):
                see = partial(record.observe, index)
                on_call(layer, attribute_to_layer_input, see, undo)
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
    for layer in layers if model is None else ():
        if any(module.training for module in layer.modules()):
            raise ValueError(
                f"forward_func is a function, and layer {type(layer).__name__!r} is in "
                "training mode; call .eval() on its model first, or pass the model itself"
            )
    mha = torch.backends.mha
    with undoing() as undo, nullcontext() if model is None else evaluating(model):
        # PyTorch's fused transformer layers skip submodules and hooks.
        undo.append(partial(mha.set_fastpath_enabled, mha.get_fastpath_enabled()))
        mha.set_fastpath_enabled(False)
        yield


def is_own(hook: Any) -> bool:
    """Whether a hook is this package's."""
    return str(getattr(hook, "__module__", "")).startswith("captum_rdr.")


def has_hooks(modules: Iterable[Module]) -> bool:
    """Whether forward passes run hooks that are not this package's."""
    places = [
        every_module._global_forward_hooks,
        every_module._global_forward_pre_hooks,
    ]
    for module in modules:
        for one in module.modules():
            places += [one._forward_hooks, one._forward_pre_hooks]
    return not all(is_own(hook) for hooks in places for hook in hooks.values())


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

    if to_input:
        with_kwargs = layer._forward_pre_hooks_with_kwargs
        add_hook(layer._forward_pre_hooks, before, undo, with_kwargs)
    else:
        add_hook(layer._forward_hooks, lambda _, args, output: see(output), undo)


def add_hook(
    hooks: dict[int, Any], hook: Any, undo: Undo, with_kwargs: Any = None
) -> None:
    """Register a hook so that an interrupt at any time finds what removes it."""
    handle = RemovableHandle(hooks, extra_dict=with_kwargs)
    undo.append(handle.remove)
    if with_kwargs is not None:
        with_kwargs[handle.id] = True
    hooks[handle.id] = hook


def _device(value: Any) -> torch.device:
    """Device of the first tensor in a layer's output."""
    while isinstance(value, (tuple, list, dict)) and value:
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return value.device if isinstance(value, Tensor) else torch.device("cpu")
