"""One traced forward pass: what each module takes, gives and is followed by."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, ModuleDict, ModuleList, Sequential

from captum_rdr.axes import channel_axis, channels_of
from captum_rdr.model.hooks import add_hook, undisturbed
from captum_rdr.model.inputs import ForwardArguments, input_arguments
from captum_rdr.zoo.flow import Flow, Gate, is_gate_module

_CONTAINERS = (Sequential, ModuleList, ModuleDict)
_DEFAULT_SHAPE = (3, 224, 224)  # of an instance, where the model does not tell its own
_BATCH = 2  # tells a batch from a single instance
_TOKENS = 8


@dataclass(eq=False)
class Traced:
    """What a forward pass showed of one module.

    Attributes:
        name: its qualified name.
        module: the module.
        calls: how often it fired.
        order: the number of modules that ended before its last call did.
        shape: its output's shape, batch included; None where that is no tensor.
        output: its output's class.
        leaf: the last layer with channels of its own that ran in it, or before it; None
            where the output is no tensor.
        n_positions: spatial positions or tokens of its output; 0 where they are unknown.
        gate: the nonlinearity that its output comes from, or None.
        feeds: the nonlinearity with its output's sign that takes it as it is, or None.
    """

    name: str
    module: Module
    calls: int = 0
    order: int = -1
    shape: tuple[int, ...] | None = None
    output: str = ""
    leaf: Module | None = None
    n_positions: int = 0
    gate: Gate | None = None
    feeds: Gate | None = None

    def __post_init__(self) -> None:
        name = type(self.module).__name__
        learned = [one for one in self.module.modules() if channels_of(one)[0] > 0]
        self.is_layer = learned == [self.module]
        """Whether it has channels of its own: a convolution, a linear layer, a norm."""
        self.is_norm = self.is_layer and "norm" in name.lower()
        has_parts = next(self.module.children(), None) is not None
        self.is_activation = is_gate_module(name) and not has_parts
        is_container = type(self.module) in _CONTAINERS
        self.holds_layers = bool(learned) and not self.is_layer and not is_container

    @property
    def n_neurons(self) -> int:
        """Values of an instance in its output, 0 where that is no tensor."""
        return 0 if self.shape is None else math.prod(self.shape[1:])

    @property
    def decides(self) -> bool:
        """Whether the sign of its output is what the network goes on with."""
        ends = self.gate is not None and not self.gate.is_positive
        return ends or self.feeds is not None

    def taken(self, gate: Gate) -> None:
        """Note a nonlinearity that takes the output."""
        self.feeds = self.feeds or gate


def trace(model: Module, arguments: ForwardArguments) -> dict[str, Traced]:
    """Run one forward pass in evaluation mode and describe every module.

    The model is left as found. Works on the meta device too.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    >>> traced = trace(net, example_arguments(net, (4,)))
    >>> traced["0"].feeds.name, traced["1"].gate.name, traced["1"].shape
    ('relu', 'relu', (2, 3))
    """
    traced = {name: Traced(name, module) for name, module in model.named_modules()}
    running = _Running()
    with undisturbed([], model) as undo:
        for entry in traced.values():
            add_hook(entry.module._forward_hooks, partial(running.end, entry), undo)
        with running.flow:
            model(*arguments.args, **arguments.kwargs)
    return traced


class _Running:
    """What is known while the modules are called."""

    def __init__(self) -> None:
        self.flow = Flow()
        self._ended = 0
        self._leaf: Module | None = None

    def end(self, entry: Traced, module: Module, args: Any, output: Any) -> None:
        """After a module was called."""
        entry.calls += 1
        entry.order, self._ended = self._ended, self._ended + 1
        entry.output = type(output).__name__
        if not isinstance(output, Tensor):
            return
        if entry.is_activation and self.flow.gate(output) is None:
            own = next(module.parameters(), None) is None
            name = type(module).__name__.lower()
            self.flow.pass_gate(name, args if own else None, output)
        entry.gate = self.flow.gate(output)
        self.flow.watch(output, entry.taken)
        if entry.is_layer:
            self._leaf = module
        entry.shape, entry.leaf = tuple(output.shape), self._leaf
        shape = entry.shape[1:]
        if shape and self._leaf is not None:
            channels = shape[channel_axis(self._leaf, shape)]
            entry.n_positions = entry.n_neurons // max(channels, 1)


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
