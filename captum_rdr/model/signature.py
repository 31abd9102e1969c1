"""A cheap token of all that a forward pass depends on, to see that something changed."""

import functools
import gc
import types
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from captum_rdr.model.hooks import EVERYWHERE, is_own, raw_bytes

_SAMPLED = 1024  # values of a tensor that are looked at; all of a smaller one
_DEPTH, _MOST_OBJECTS, _MOST_ITEMS = 16, 20_000, 1000
_PLAIN = {bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device}
_KEPT_APART = frozenset(vars(Module()))
_LIBRARIES = ("torch", "numpy", "captum", "captum_rdr")


def autocast_now() -> str:
    """The dtypes of autocasts that are on, empty for none."""
    kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    return ", ".join(f"{torch.get_autocast_dtype(kind)} on {kind}" for kind in kinds)


class Walk:
    """Everything that objects refer to: modules, tensors, settings.

    It goes through functions (what they enclose, their defaults, the globals that they
    name, what they wrap), objects, slots and containers.

    Args:
        roots: where to begin.

    Attributes:
        modules: the modules among it.
        values: what a forward pass depends on, as far as it is quickly seen: weights (a
            sample of each tensor's values), settings, structure. Two walks find the same
            if nothing that was looked at has changed.
        hooks: hooks on modules, but for those of this package.
        is_clamped: whether there are some of this package.

    >>> net = torch.nn.Linear(2, 2)
    >>> Walk([{"models": [net]}]).modules
    [Linear(in_features=2, out_features=2, bias=True)]
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self.modules: list[Module] = []
        self.is_clamped = False
        self.values: list[Any] = [autocast_now()]
        self.hooks: list[Any] = [*chain(*EVERYWHERE)]
        self._seen: dict[int, Any] = {}  # holds them, so that no number comes again
        for root in roots:
            self._visit(root, _DEPTH)

    def _visit(self, value: Any, depth: int) -> None:
        if type(value) in _PLAIN:
            self.values.append(value)
            return
        self.values.append(id(value))
        if id(value) in self._seen or isinstance(value, (type, types.ModuleType)):
            return
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, Module):
            self._module(value)
        elif depth and len(self._seen) < _MOST_OBJECTS:
            for one in _parts(value):
                self._visit(one, depth - 1)

    def _module(self, module: Module) -> None:
        self.modules.append(module)
        # Others may have replaced it in the class.
        self.values.append(getattr(type(module), "forward", None))
        for name, value in vars(module).items():
            if name not in _KEPT_APART:
                self.values.append(name)
                self._visit(value, _DEPTH // 2)
        for held in (module._parameters, module._buffers, module._modules):
            for one in held.values():
                self._visit(one, 0)
        hooks = [*module._forward_hooks.items(), *module._forward_pre_hooks.items()]
        for number, hook in hooks:
            if is_own(hook):
                self.is_clamped = True
            else:
                self.hooks.append(number)
                tokens, self.values = self.values, self.hooks
                self._visit(hook, _DEPTH // 2)
                self.values = tokens

    def _tensor(self, tensor: Tensor) -> None:
        if is_traceable_wrapper_subclass(tensor):  # quantized or sharded
            for name in tensor.__tensor_flatten__()[0]:
                self._visit(getattr(tensor, name), 0)
            return
        self.values.append(0 if tensor.is_inference() else tensor._version)
        with suppress(RuntimeError):  # it has no values, or no strides
            self.values.append(tensor.data_ptr())
            # Optimizers that fuse and writes through NumPy change no version.
            step = tensor.numel() // _SAMPLED + 1
            sample = tensor.detach().as_strided((-(-tensor.numel() // step),), (step,))
            self.values.append(raw_bytes(sample).to("cpu", copy=True).numpy().tobytes())


def _parts(value: Any) -> Iterator[Any]:
    """What an object that is no module and no tensor refers to."""
    if isinstance(value, types.FunctionType):
        yield from (value.__code__, value.__defaults__, value.__kwdefaults__)
        yield from (value.__closure__, value.__dict__)  # also what a decorator wraps
        if (value.__module__ or "").split(".")[0] not in _LIBRARIES:
            for name in _names(value.__code__):
                yield value.__globals__.get(name)
    else:
        # Items, attributes, slots, what partials hold.
        yield from islice(gc.get_referents(value), _MOST_ITEMS)
        calls = (vars(kind).get("__call__") for kind in type(value).__mro__)
        yield next(filter(None, calls), None)


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> list[str]:
    """The globals and attributes that code names, and functions in it."""
    inner = [one for one in code.co_consts if isinstance(one, types.CodeType)]
    return [*code.co_names, *chain(*map(_names, inner))]
