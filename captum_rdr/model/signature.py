"""A cheap token of all that a forward pass depends on, to see that something changed."""

import functools
import gc
import types
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules import module as every_module
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from captum_rdr.model.hooks import is_own, raw_bytes

_SAMPLED = 1024  # values of a tensor that are looked at; all of a smaller one
_DEPTH, _MOST_OBJECTS, _MOST_ITEMS = 16, 20_000, 1000
_PLAIN = {bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device}
_KEPT_APART = frozenset(vars(Module()))
_LIBRARIES = ("torch", "numpy", "captum", "captum_rdr")


class Signature(NamedTuple):
    """What a forward pass depends on, as far as it is quickly seen.

    Attributes:
        values: weights (a sample of each tensor's values), settings, structure.
        hooks: hooks on modules, but for those of this package.
    """

    values: tuple[Any, ...]
    hooks: tuple[Any, ...]


def autocast_now() -> str:
    """The dtypes of autocasts that are on, empty for none."""
    return ", ".join(
        f"{torch.get_autocast_dtype(kind)} on {kind}"
        for kind in ("cpu", "cuda")
        if torch.is_autocast_enabled(kind)
    )


class Walk:
    """Everything that objects refer to: modules, tensors, settings.

    It goes through functions (what they enclose, their defaults, the globals that they
    name, what they wrap), objects, slots and containers.

    Args:
        roots: where to begin.

    >>> net = torch.nn.Linear(2, 2)
    >>> Walk([{"models": [net]}]).modules
    [Linear(in_features=2, out_features=2, bias=True)]
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self.modules: list[Module] = []
        self.is_clamped = False
        self._tokens: list[Any] = []
        self._hooks: list[Any] = []
        self._samples: dict[Any, list[Tensor]] = {}
        self._seen: dict[int, Any] = {}  # holds them, so that no number comes again
        for root in roots:
            self._visit(root, _DEPTH)

    def signature(self) -> Signature:
        """What was found; equal for two walks if nothing that was looked at changed."""
        samples = [
            raw_bytes(torch.cat(parts)).cpu().numpy().tobytes()
            for parts in self._samples.values()
        ]
        everywhere = chain(
            every_module._global_forward_hooks, every_module._global_forward_pre_hooks
        )
        return Signature(
            (*self._tokens, autocast_now(), *samples), (*self._hooks, *everywhere)
        )

    def _visit(self, value: Any, depth: int) -> None:
        if type(value) in _PLAIN:
            self._tokens.append(value)
            return
        self._tokens.append(id(value))
        if id(value) in self._seen or isinstance(value, (type, types.ModuleType)):
            return
        self._seen[id(value)] = value
        if isinstance(value, Tensor):
            self._tensor(value, is_buffer=False)
        elif isinstance(value, Module):
            self._module(value)
        elif depth and len(self._seen) < _MOST_OBJECTS:
            for one in _parts(value):
                self._visit(one, depth - 1)

    def _module(self, module: Module) -> None:
        self.modules.append(module)
        # Others may have replaced it in the class.
        self._tokens.append(getattr(type(module), "forward", None))
        for name, value in vars(module).items():
            if name not in _KEPT_APART:
                self._tokens.append(name)
                self._visit(value, _DEPTH // 2)
        for parameter in module._parameters.values():
            self._visit(parameter, 0)
        for name, buffer in module._buffers.items():
            if buffer is not None and id(buffer) not in self._seen:
                self._seen[id(buffer)] = buffer
                self._tokens.append(name)
                # A forward pass may write it, and it is put back then.
                self._tensor(buffer, is_buffer=True)
        hooks = (module._forward_hooks.items(), module._forward_pre_hooks.items())
        for number, hook in chain(*hooks):
            if is_own(hook):
                self.is_clamped = True
            else:
                self._hooks.append(number)
                tokens, self._tokens = self._tokens, self._hooks
                self._visit(hook, _DEPTH // 2)
                self._tokens = tokens
        for child in module._modules.values():
            self._visit(child, 0)

    def _tensor(self, tensor: Tensor, is_buffer: bool) -> None:
        if is_traceable_wrapper_subclass(tensor):  # quantized or sharded
            for name in tensor.__tensor_flatten__()[0]:
                self._tensor(getattr(tensor, name), is_buffer)
            return
        is_dense = tensor.layout == torch.strided and not tensor.is_nested
        self._tokens.append(tensor.data_ptr() if is_dense else 0)
        if not (is_buffer or tensor.is_inference()):
            self._tokens.append(tensor._version)
        if is_dense and tensor.numel() and not tensor.is_meta:
            # Optimizers that fuse and writes through NumPy change no version.
            step = tensor.numel() // _SAMPLED + 1
            size = -(-tensor.numel() // step)
            try:
                sample = tensor.detach().as_strided((size,), (step,))
                sample = sample.int_repr() if sample.is_quantized else sample
            except (RuntimeError, NotImplementedError):  # of a kind that has no strides
                return
            self._samples.setdefault((sample.device, sample.dtype), []).append(sample)


def _parts(value: Any) -> Iterator[Any]:
    """What an object that is no module and no tensor refers to."""
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        items = chain(*value.items()) if isinstance(value, dict) else value
        yield from (len(value), *islice(items, _MOST_ITEMS))
    elif isinstance(value, types.FunctionType):
        yield from (value.__code__, value.__defaults__, value.__kwdefaults__)
        yield from (value.__closure__, value.__dict__)  # also what a decorator wraps
        if (value.__module__ or "").split(".")[0] not in _LIBRARIES:
            for name in _names(value.__code__):
                yield value.__globals__.get(name)
    else:
        yield from gc.get_referents(value)  # attributes, slots, what partials hold
        calls = (vars(kind).get("__call__") for kind in type(value).__mro__)
        yield next(filter(None, calls), None)


@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> list[str]:
    """The globals and attributes that code names, and functions in it."""
    inner = [one for one in code.co_consts if isinstance(one, types.CodeType)]
    return [*code.co_names, *chain(*map(_names, inner))]
