"""Run forward passes and read the activations of layers."""

import ast
import functools
import inspect
import textwrap
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import Module

from captum_rdr._arguments import for_each
from captum_rdr.axes import LayerAxes, axes_of
from captum_rdr.model.hooks import has_hooks, layer_names, recording
from captum_rdr.model.inputs import ForwardArguments, signature_of
from captum_rdr.model.signature import Walk
from captum_rdr.model.states import checked_activations
from captum_rdr.pooling import Pool

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

    @functools.cached_property
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
        return axes_of(self.layers[index], shape, self.model, of_input=of_input)

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
        names, device, to_input = self.names, self.device, attribute_to_layer_input
        asked = [_asked(pool) for pool in self.pools]
        given, batch, size = ForwardArguments((), {}), "", None

        def kept(index: int, output: Any) -> tuple[Tensor, ...]:
            where = f"{'the input of ' * to_input}layer {names[index]!r} in {batch}"
            # A checkpoint that the layer lies in does not count what is saved here.
            with _saving() if gradients else nullcontext():
                pooled = self._pooled(index, output, asked[index], given, to_input)
                return keep(index, checked_activations(pooled, size, where))

        with recording(
            self.layers,
            model=self.model,
            keep=kept,
            attribute_to_layer_input=to_input,
            call_index=self.call_index,
            device_ids=self.device_ids
            or getattr(self.forward_func, "device_ids", None),
            gradients=gradients,
            may_leave=not self._is_followed(),
        ) as record:

            def read(
                arguments: ForwardArguments, label: str, leave_early: bool
            ) -> list[tuple[Tensor, ...]]:
                nonlocal given, batch, size
                given, batch = arguments.to(device), label
                size = None if record.is_split else given.batch_size
                args, kwargs = given
                return record.run(
                    self.forward_func, *args, leave_early=leave_early, **kwargs
                )

            yield read

    def _pooled(
        self,
        index: int,
        output: Any,
        asked: Sequence[inspect.Parameter],
        given: ForwardArguments,
        of_input: bool,
    ) -> Any:
        """A layer's output, pooled; what the pool asks for is filled in by name."""
        pool = self.pools[index]
        if pool is None:
            return output
        known = given.named(self.forward_func) if asked else {}
        if isinstance(output, Tensor) and any(one.name == "axes" for one in asked):
            known["axes"] = self.axes_of(index, output.shape[1:], of_input)
        for one in asked:
            if one.name not in known and one.default is one.empty:
                raise ValueError(
                    f"pool's parameter {one.name!r} is not among the forward pass's "
                    f"arguments {sorted(known)}; name it after one of them or give it a "
                    "default"
                )
        return pool(output, **{p.name: known[p.name] for p in asked if p.name in known})

    def _is_followed(self) -> bool:
        """Whether hooks or ``finally`` blocks of the user's see how a pass ends."""
        modules = [one for module in self.modules for one in module.modules()]
        functions: list[Any] = [one.__dict__.get("forward") for one in modules]
        for kind in {type(one) for one in modules}:
            functions.append(inspect.getattr_static(kind, "forward", None))
        return has_hooks(self.modules) or any(
            map(_ends_in_code, (self.forward_func, *functions))
        )


def _saving() -> saved_tensors_hooks:
    return saved_tensors_hooks(Tensor.detach, Tensor.detach)


def _asked(pool: Pool | None) -> list[inspect.Parameter]:
    """What a pool asks for beside the layer's output."""
    signature = None if pool is None else signature_of(pool)
    parameters = list(signature.parameters.values())[1:] if signature else []
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [one for one in parameters if one.kind in by_name]


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
    contexts = [
        ast.unparse(item.context_expr)
        for node in ast.walk(tree)
        for item in getattr(node, "items", ())
    ]
    return not all(one.startswith("torch.") for one in contexts) or any(
        getattr(node, "finalbody", ()) for node in ast.walk(tree)
    )


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
    for one in (*layers, forward_func):
        if isinstance(one, torch.jit.ScriptModule):
            raise TypeError(
                f"forward_func or layer is a {type(one).__name__} of TorchScript, which "
                "runs layers without hooks; pass the model that was scripted, traced or "
                "frozen, and its layer"
            )
    if not layers or not all(isinstance(one, Module) for one in layers):
        raise TypeError(
            f"layer={layer!r} is neither a module nor a list of modules; pass e.g. "
            "model.layer4"
        )


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
