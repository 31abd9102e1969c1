"""Run forward passes and read the activations of layers."""

import ast
import functools
import inspect
import textwrap
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import Module

from captum_rdr._arguments import check_whole, for_each
from captum_rdr.axes import LayerAxes, axes_of
from captum_rdr.model.hooks import has_hooks, layer_names, recording
from captum_rdr.model.inputs import ForwardArguments
from captum_rdr.model.states import layer_activations
from captum_rdr.pooling import Pool, extra_parameters

KeepActivations = Callable[[int, Tensor], tuple[Tensor, ...]]
Read = Callable[..., list[tuple[Tensor, ...]]]


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
    """

    forward_func: Callable[..., Any]
    layers: Sequence[Module]
    device_ids: Sequence[int] | None
    pools: Sequence[Pool | None]
    call_index: int | None
    axes: Sequence[LayerAxes | None] = ()

    @property
    def model(self) -> Module | None:
        """The module that runs.

        For a function the module that holds the layers, if the function, what it is
        bound to or what it encloses refers to one; else None.
        """
        return next(_models(self.forward_func, self.layers), None)

    @property
    def modules(self) -> Sequence[Module]:
        """The model, or the layers where the model is unknown."""
        return self.layers if self.model is None else [self.model]

    @property
    def names(self) -> list[str]:
        """The layers' qualified names."""
        return layer_names(self.layers, self.model)

    @property
    def device(self) -> torch.device | None:
        """Where inputs must lie: the device of the model's first parameter.

        None where there is none but on "meta", as of weights that are loaded on demand.
        """
        for module in self.modules:
            for tensor in (*module.parameters(), *module.buffers()):
                if not tensor.is_meta:
                    return tensor.device
        return None

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
        layer = self.layers[index]
        return axes_of(layer, shape, self.model, of_input=of_input)

    @contextmanager
    def reading(
        self,
        keep: KeepActivations,
        *,
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
        names, device, device_ids = self.names, self.device, self._device_ids()
        current: dict[str, Any] = {}
        what = "the input of layer" if attribute_to_layer_input else "layer"

        def pooled(index: int, output: Any) -> tuple[Tensor, ...]:
            named, of_input = current["named"], attribute_to_layer_input
            # A checkpoint that the layer lies in does not count what is saved here.
            with _saving() if gradients else nullcontext():
                activations = layer_activations(
                    output,
                    self.pools[index],
                    {**named, **self._asked_axes(index, output, of_input)},
                    batch_size=current["batch_size"],
                    where=f"{what} {names[index]!r} in {current['label']}",
                )
                return keep(index, activations)

        with recording(
            self.layers,
            model=self.model,
            keep=pooled,
            attribute_to_layer_input=attribute_to_layer_input,
            call_index=self.call_index,
            device_ids=device_ids,
            gradients=gradients,
            may_leave=not self._is_followed(),
        ) as record:

            def read(
                arguments: ForwardArguments, label: str, leave_early: bool
            ) -> list[tuple[Tensor, ...]]:
                moved = arguments.to(device)
                current.update(
                    named=moved.named(self.forward_func),
                    batch_size=None if record.is_split else moved.batch_size,
                    label=label,
                )
                return record.run(
                    self.forward_func,
                    *moved.args,
                    leave_early=leave_early,
                    **moved.kwargs,
                )

            yield read

    def _asked_axes(
        self, index: int, output: Any, of_input: bool
    ) -> dict[str, LayerAxes | None]:
        """The axes of an output, if the layer's pool asks for them."""
        asks = "axes" in extra_parameters(self.pools[index])
        if not (asks and isinstance(output, Tensor)):
            return {}
        return {"axes": self.axes_of(index, output.shape[1:], of_input)}

    def _is_followed(self) -> bool:
        """Whether hooks or ``finally`` blocks of the user's see how a pass ends."""
        modules = [one for module in self.modules for one in module.modules()]
        kinds = {type(one) for one in modules}
        functions = [inspect.getattr_static(kind, "forward", None) for kind in kinds]
        functions += [one.__dict__.get("forward") for one in modules]
        return has_hooks(self.modules) or any(
            map(_ends_in_code, (self.forward_func, *functions))
        )

    def _device_ids(self) -> Sequence[int] | None:
        if self.device_ids is not None:
            return self.device_ids
        found = getattr(self.forward_func, "device_ids", None)
        return cast("Sequence[int] | None", found or None)


def _saving() -> saved_tensors_hooks:
    return saved_tensors_hooks(Tensor.detach, Tensor.detach)


def _ends_in_code(function: Any) -> bool:
    """Whether a function holds a ``finally`` or ``with`` block of the user's."""
    found = inspect.unwrap(getattr(function, "__func__", function))
    return inspect.isfunction(found) and _has_end(found.__code__)


@functools.lru_cache(maxsize=1024)
def _has_end(code: types.CodeType) -> bool:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, SyntaxError, TypeError):  # there is no source, or part of a line
        return False
    return any(
        (isinstance(node, ast.Try) and node.finalbody)
        or (
            isinstance(node, (ast.With, ast.AsyncWith))
            and not all(
                ast.unparse(item.context_expr).startswith("torch.")
                for item in node.items
            )
        )
        for node in ast.walk(tree)
    )


def _models(
    forward_func: Callable[..., Any], layers: Sequence[Module]
) -> Iterator[Module]:
    """Modules that a forward function is or refers to and that hold the layers."""
    if isinstance(forward_func, Module):
        yield forward_func
        return
    for value in _references(forward_func):
        if isinstance(value, Module):
            held = {id(module) for module in value.modules()}
            if all(id(layer) in held for layer in layers):
                yield value


def _references(function: Any) -> Iterator[Any]:
    if isinstance(function, functools.partial):
        yield from (*function.args, *function.keywords.values())
        yield from (function.func, *_references(function.func))
        return
    owner = getattr(function, "__self__", None)
    if owner is not None:
        yield from (owner, *getattr(owner, "__dict__", {}).values())
    if inspect.isfunction(inspect.unwrap(getattr(function, "__func__", function))):
        enclosed = inspect.getclosurevars(getattr(function, "__func__", function))
        yield from (*enclosed.nonlocals.values(), *enclosed.globals.values())
    else:
        yield from getattr(function, "__dict__", {}).values()


def check_layer(forward_func: Callable[..., Any], layer: Module | list[Module]) -> None:
    """Refuse what cannot run or be recorded.

    Raises:
        TypeError: ``forward_func`` is not callable, or ``layer`` neither a module nor a
            list of modules.
    """
    if not callable(forward_func):
        raise TypeError(
            f"forward_func is a {type(forward_func).__name__}, which cannot be called; "
            "pass the model or a function around it"
        )
    layers = layer if isinstance(layer, list) else [layer]
    scripted = [one for one in layers if isinstance(one, torch.jit.ScriptModule)]
    if isinstance(forward_func, torch.jit.ScriptModule) or scripted:
        kind = type(scripted[0] if scripted else forward_func).__name__
        raise TypeError(
            f"forward_func or layer is a {kind} of TorchScript, which runs layers "
            "without hooks, so they cannot be recorded; pass the model that was scripted, "
            "traced or frozen, and its layer"
        )
    if not layers or not all(isinstance(one, Module) for one in layers):
        raise TypeError(
            f"layer={layer!r} is neither a module nor a list of modules; pass e.g. "
            "model.layer4"
        )


def checked_call_index(call_index: int | None) -> int | None:
    """A call's number as a plain int.

    Raises:
        TypeError: it is no whole number.
    """
    if call_index is None:
        return None
    return check_whole("call_index", call_index, least=None)


def checked_pools(pool: Any, count: int) -> list[Any]:
    """One pool a layer.

    Raises:
        TypeError: one is neither callable nor None.
        ValueError: a list has another length than the layers.
    """
    pools = for_each(pool, count, "pool")
    for one in pools:
        if one is not None and not callable(one):
            raise TypeError(
                f"pool={one!r} is a {type(one).__name__}; give a callable, e.g. "
                "captum_rdr.pooling.spatial_mean"
            )
    return pools
