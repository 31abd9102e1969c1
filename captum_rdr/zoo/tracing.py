"""One traced forward pass: what each module takes, gives and is followed by."""

import math
import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_rdr.axes import channel_axis, channels_of
from captum_rdr.model.hooks import undisturbed
from captum_rdr.model.inputs import ForwardArguments, input_arguments
from captum_rdr.zoo.flow import Flow, Gate, is_gate_module

_GLOBAL_POOLING = re.compile("adaptive|global")
_DEFAULT_SHAPE = (3, 224, 224)  # of an instance, where the model does not tell its own
_BATCH = 2  # tells a batch from a single instance
_TOKENS = 8


@dataclass(eq=False)
class Traced:
    """What a forward pass showed of one module.

    Attributes:
        name: its qualified name.
        module: the module.
        is_leaf: whether it has no submodules.
        calls: how often it fired.
        order: the number of modules that ended before its last call did.
        shape: its output's shape, batch included; None where that is no tensor.
        output: its output's class.
        is_quantized: whether its output is a quantized tensor.
        leaf: the last layer with channels of its own that ran in it, or before it; None
            where the output is no tensor.
        n_positions: spatial positions or tokens of its output; 0 where they are unknown.
        gate: the nonlinearity that its output comes from, or None.
        feeds: the nonlinearity that takes its output as it is, or None.
        enters: names of the modules around it whose input it takes as it is.
        pools_all: whether it is a global pooling that makes one position of several.
        kind: what it is, see `captum_rdr.zoo.kinds.tell_kinds`; None until that told it.
    """

    name: str
    module: Module
    is_leaf: bool
    calls: int = 0
    order: int = -1
    shape: tuple[int, ...] | None = None
    output: str = ""
    is_quantized: bool = False
    leaf: Module | None = None
    n_positions: int = 0
    gate: Gate | None = None
    feeds: Gate | None = None
    enters: set[str] = field(default_factory=set)
    pools_all: bool = False
    kind: str | None = None

    @property
    def n_neurons(self) -> int:
        """Values of an instance in its output, 0 where that is no tensor."""
        return 0 if self.shape is None else math.prod(self.shape[1:])

    @property
    def decides(self) -> bool:
        """Whether the sign of its output is what the network goes on with."""
        gates = (self.gate, self.feeds)
        return any(gate is not None and not gate.is_positive for gate in gates)

    def taken(self, gate: Gate) -> None:
        """Note a nonlinearity that takes the output."""
        # Swish as x * sigmoid(x) takes its input twice.
        if self.feeds is None or self.feeds.is_positive:
            self.feeds = gate


def trace(model: Module, arguments: ForwardArguments) -> dict[str, Traced]:
    """Run one forward pass in evaluation mode and describe every module.

    The model is left as found. Works on the meta device too.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    >>> traced = trace(net, example_arguments(net, (4,)))
    >>> traced["0"].feeds.name, traced["1"].gate.name, traced["1"].shape
    ('relu', 'relu', (2, 3))
    """
    traced = {
        name: Traced(name, module, next(module.children(), None) is None)
        for name, module in model.named_modules()
    }
    running = _Running()
    with undisturbed([], model), ExitStack() as stack:
        for entry in traced.values():
            before = entry.module.register_forward_pre_hook(
                partial(running.begin, entry), with_kwargs=True
            )
            after = entry.module.register_forward_hook(partial(running.end, entry))
            stack.callback(before.remove)
            stack.callback(after.remove)
        with running.flow:
            model(*arguments.args, **arguments.kwargs)
    return traced


class _Running:
    """The modules that are being called, outermost first, with their first inputs."""

    def __init__(self) -> None:
        self.flow = Flow()
        self._stack: list[tuple[Traced, Any]] = []
        self._ended = 0
        self._leaf: Module | None = None

    def begin(self, entry: Traced, _: Module, args: Any, kwargs: Any) -> None:
        """Before a module is called."""
        first = next(iter((*args, *kwargs.values())), None)
        if isinstance(first, Tensor):
            around = self._stack[1:]
            entry.enters.update(outer.name for outer, own in around if own is first)
        self._stack.append((entry, first))

    def end(self, entry: Traced, module: Module, _: Any, output: Any) -> None:
        """After a module was called."""
        _, first = self._stack.pop()
        entry.calls += 1
        entry.order, self._ended = self._ended, self._ended + 1
        entry.output = type(output).__name__
        if not isinstance(output, Tensor):
            return
        kind, flow = type(module).__name__.lower(), self.flow
        if entry.is_leaf and is_gate_module(kind) and flow.gate(output) is None:
            own = next(module.parameters(), None) is None
            flow.pass_gate(kind, first if own else None, output)
        entry.gate, entry.is_quantized = flow.gate(output), output.is_quantized
        flow.watch(output, entry.taken)
        if entry.is_leaf and is_learned(module):
            self._leaf = module
        shape = entry.shape = tuple(output.shape)
        entry.leaf = self._leaf
        if self._leaf is not None:
            channels = (
                shape[1:][channel_axis(self._leaf, shape[1:])] if shape[1:] else 1
            )
            entry.n_positions = entry.n_neurons // max(channels, 1)
        given = tuple(first.shape) if isinstance(first, Tensor) else ()
        if _GLOBAL_POOLING.search(kind) and len(given) == len(shape) > 2:
            entry.pools_all = set(shape[2:]) == {1} != set(given[2:])


def is_learned(module: Module) -> bool:
    """Whether a leaf has channels of its own: a convolution, a linear layer, a norm."""
    return channels_of(module)[0] > 0


def example_arguments(model: Module, inputs: Any = None) -> ForwardArguments:
    """Forward arguments for a traced pass, on the model's device.

    Args:
        model: its first parameter tells device and dtype.
        inputs: a batch as `captum_rdr.RelaxedDecisionRegion.attribute` takes it, the
            shape of one instance, or None for what the model's configuration tells.

    Raises:
        TypeError: the inputs are of another kind.

    >>> example_arguments(torch.nn.Linear(4, 3), (4,)).args[0].shape
    torch.Size([2, 4])
    """
    given = _configured(model) if inputs is None else inputs
    floats = (one for one in model.parameters() if one.is_floating_point())
    parameter = next(floats, torch.empty(0))
    if isinstance(given, (tuple, list)) and all(isinstance(n, int) for n in given):
        generator = torch.Generator().manual_seed(0)
        batch = torch.randn(_BATCH, *given, generator=generator)
        given = batch.to(parameter.dtype)
    return input_arguments(given, None).to(parameter.device)


def _configured(model: Module) -> Any:
    """A shape (timm, Hugging Face vision) or token ids (Hugging Face text)."""
    pretrained = getattr(model, "pretrained_cfg", None)
    if isinstance(pretrained, dict) and "input_size" in pretrained:
        return tuple(pretrained["input_size"])
    config = getattr(model, "config", None)
    for holder in (model, config):  # torchvision's ViT knows its size itself
        side = getattr(holder, "image_size", None)
        if isinstance(side, int):
            return (getattr(holder, "num_channels", 3), side, side)
    words = getattr(config, "vocab_size", None)
    if not isinstance(words, int):
        return _DEFAULT_SHAPE
    ids = torch.arange(_BATCH * _TOKENS).reshape(_BATCH, _TOKENS) % words
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
