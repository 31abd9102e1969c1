"""One traced forward pass: what each module takes, gives and is followed by."""

import math
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn import Module

from captum_rdr.model.hooks import recording
from captum_rdr.model.inputs import ForwardArguments
from captum_rdr.zoo.flow import Flow, Gate, is_gate_module

_GLOBAL_POOLING = re.compile("adaptive|global", re.IGNORECASE)


@dataclass
class Traced:
    """What a forward pass showed of one module.

    Attributes:
        name: its qualified name.
        module: the module.
        calls: how often it fired.
        order: the number of modules that ended before its last call did.
        shape: its output's shape, batch included; None where that is no tensor.
        output: its output's class.
        is_quantized: whether its output is a quantized tensor.
        gate: the nonlinearity that its output comes from, or None.
        feeds: the nonlinearity that takes its output as it is, or None.
        enters: names of the modules around it whose input it takes as it is.
        attends: whether attention is computed in it, and in no module within.
        is_leaf: whether it has no submodules.
        pools_all: whether it is a global pooling that makes one position of several.
    """

    name: str
    module: Module
    calls: int = 0
    order: int = -1
    shape: tuple[int, ...] | None = None
    output: str = ""
    is_quantized: bool = False
    gate: Gate | None = None
    feeds: Gate | None = None
    enters: set[str] = field(default_factory=set)
    attends: bool = False
    is_leaf: bool = False
    pools_all: bool = False

    @property
    def instance_shape(self) -> tuple[int, ...] | None:
        """Its output's shape without the batch; None where that is no tensor."""
        return None if self.shape is None else self.shape[1:]

    @property
    def n_neurons(self) -> int:
        """Values of an instance in its output, 0 where that is no tensor."""
        return 0 if self.shape is None else math.prod(self.shape[1:])


def trace(model: Module, arguments: ForwardArguments) -> dict[str, Traced]:
    """Run one forward pass in evaluation mode and describe every module.

    The model is left as found. Works on the meta device too.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    >>> traced = trace(net, ForwardArguments((torch.ones(2, 4),), {}))
    >>> traced["0"].feeds.name, traced["1"].gate.name, traced["1"].shape
    ('relu', 'relu', (2, 3))
    """
    traced = {
        name: Traced(name, module, is_leaf=next(module.children(), None) is None)
        for name, module in model.named_modules()
    }
    with recording([], model=model), Flow() as flow, _hooks(traced, flow):
        model(*arguments.args, **arguments.kwargs)
    return traced


@contextmanager
def _hooks(traced: dict[str, Traced], flow: Flow) -> Iterator[None]:
    running = _Running(flow)
    flow.attended = running.attended
    with ExitStack() as stack:
        for entry in traced.values():
            before, after = running.hooks(entry)
            module = entry.module
            stack.callback(
                module.register_forward_pre_hook(before, with_kwargs=True).remove
            )
            stack.callback(module.register_forward_hook(after, with_kwargs=True).remove)
        yield


class _Running:
    """The modules that are being called, outermost first, with their first inputs."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._stack: list[tuple[Traced, Any]] = []
        self._ended = 0

    def attended(self) -> None:
        """Mark the innermost module with submodules, other than the root."""
        for entry, _ in reversed(self._stack[1:]):
            if not entry.is_leaf:
                entry.attends = True
                return

    def hooks(self, entry: Traced) -> tuple[Any, Any]:
        """What to call before and after the module."""

        def before(module: Module, args: Any, kwargs: Any) -> None:
            first = next(iter((*args, *kwargs.values())), None)
            entry.enters.update(
                outer.name
                for outer, taken in self._stack[1:]
                if taken is first and isinstance(first, Tensor)
            )
            self._stack.append((entry, first))

        def after(module: Module, args: Any, kwargs: Any, output: Any) -> None:
            _, first = self._stack.pop()
            self._note(entry, first, output)

        return before, after

    def _note(self, entry: Traced, first: Any, output: Any) -> None:
        entry.calls += 1
        entry.order = self._ended
        self._ended += 1
        entry.output = type(output).__name__
        if not isinstance(output, Tensor):
            return
        class_name = type(entry.module).__name__
        if (
            entry.is_leaf
            and is_gate_module(class_name)
            and self._flow.gate(output) is None
        ):
            own = next(entry.module.parameters(), None) is None
            self._flow.pass_gate(class_name.lower(), first if own else None, output)
        entry.shape = tuple(output.shape)
        entry.is_quantized = output.is_quantized
        taken_shape = tuple(first.shape) if isinstance(first, Tensor) else ()
        entry.pools_all = (
            _GLOBAL_POOLING.search(class_name) is not None
            and len(taken_shape) == len(entry.shape) > 2
            and set(entry.shape[2:]) == {1} != set(taken_shape[2:])
        )
        entry.gate = self._flow.gate(output)

        def taken(gate: Gate) -> None:
            # Swish as x * sigmoid(x) takes its input twice.
            if entry.feeds is None or entry.feeds.is_positive:
                entry.feeds = gate

        self._flow.watch(output, taken)
