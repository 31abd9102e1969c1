"""Show what layers put out (or take in), and put model and random state back."""

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
    with undoing() as undo:
        for module in model.modules():
            for name, buffer in module._buffers.items():
                values = None if buffer is None else buffer.detach().clone()
                undo.append(partial(_restore, module, name, buffer, values))
            if hasattr(module, "training"):  # which a frozen script is without
                undo.append(partial(setattr, module, "training", module.training))
                module.training = False
        yield


def _restore(module: Module, name: str, buffer: Tensor | None, values: Any) -> None:
    """Give a module its buffer back, with its old values and size."""
    module._buffers[name] = buffer
    if buffer is None or buffer.is_meta:
        return
    is_same = (buffer.shape, buffer.dtype) == (values.shape, values.dtype)
    if is_same and raw_bytes(buffer).equal(raw_bytes(values)):
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


# Hooks, modes, buffers and random states belong to the whole process, so threads run
# one after the other. Nested runs of one thread go on.
_RUNNING = threading.RLock()


@contextmanager
def undisturbed(
    layers: Sequence[Module], model: Module | None, gradients: bool = False
) -> Iterator[Undo]:
    """Let forward passes run undisturbed, then put everything back.

    Each module's ``training`` flag, the buffers of ``model`` and the global random states
    are restored, also after an exception. Inside, ``model`` is in evaluation mode and no
    gradients are recorded unless asked for. A thread that would do this while another does
    waits for it. Forward passes that other threads run meanwhile run in evaluation mode.

    Args:
        layers: modules that hooks are for.
        model: the module that runs; None for a plain function, whose modules must be
            in evaluation mode already.
        gradients: leave gradient recording as it is.

    Yields:
        what to put back at the end.

    >>> net = torch.nn.Sequential(torch.nn.Dropout())
    >>> with undisturbed([], net):
    ...     net.training, torch.is_grad_enabled()
    (False, False)
    """
    with _RUNNING, same_random_state(), hookable(layers, model), undoing() as undo:
        undo.append(partial(torch.set_grad_enabled, torch.is_grad_enabled()))
        torch.set_grad_enabled(gradients and torch.is_grad_enabled())
        yield undo


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


EVERYWHERE = every_module._global_forward_hooks, every_module._global_forward_pre_hooks
"""Hooks on every module."""


def is_own(hook: Any) -> bool:
    """Whether a hook is this package's."""
    return str(getattr(hook, "__module__", "")).startswith("captum_rdr.")


def has_hooks(modules: Iterable[Module]) -> bool:
    """Whether forward passes run hooks that are not this package's."""
    places = [*EVERYWHERE]
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


def add_hook(hooks: dict[int, Any], hook: Any, undo: Undo, extra: Any = None) -> None:
    """Register a hook so that an interrupt at any time finds what removes it."""
    handle = RemovableHandle(hooks, extra_dict=extra)
    undo.append(handle.remove)
    if extra is not None:  # hooks that take keywords
        extra[handle.id] = True
    hooks[handle.id] = hook
