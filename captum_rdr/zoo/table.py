"""The table of a model's layers."""

from collections.abc import Mapping
from typing import Any

from torch.nn import Module

from captum_rdr.zoo.inputs import example_arguments
from captum_rdr.zoo.kinds import kinds
from captum_rdr.zoo.layerinfo import LayerInfo, LayerTable, chosen
from captum_rdr.zoo.stages import Architecture, decides
from captum_rdr.zoo.torchvision_models import build_untrained, example_inputs
from captum_rdr.zoo.tracing import Traced, trace

# What a forward pass raises on inputs that do not suit the model.
_FAILURES = (RuntimeError, TypeError, ValueError, IndexError, AssertionError)


def layers(model: Module | str, inputs: Any = None) -> LayerTable:
    """List the layers of a model that are worth explaining.

    One forward pass in evaluation mode shows each layer's shape, how often it fires, and
    which nonlinearity makes or takes its output. It works on the meta device too, where
    it costs neither memory nor arithmetic. The model is left as found.

    Args:
        model: any module, or the name of one of torchvision's, which is then built
            without weights, on the meta device where it can.
        inputs: what the model takes: a tensor, a tuple of tensors or a dict of tensors
            passed as keywords, batch first; or the shape of one instance. None for what
            the model's own configuration tells (torchvision by name, timm, Hugging
            Face), else ``(3, 224, 224)``.

    Returns:
        the layers in the order in which they end.

    Raises:
        TypeError: the inputs are of another kind.
        ValueError: the model cannot run on them.

    >>> import torch
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(),
    ...     torch.nn.Linear(288, 5),
    ... )
    >>> layers(net, (3, 8, 8))
       name  stage  kind         shape  neurons  calls  reason
    *  0     0      convolution  8x6x6  288      1      feeds relu: active where positive
       1     0      activation   8x6x6  288      1      ends in relu: active where positive
       3            linear       5      5        1      linear: nothing in the network
                                                        switches at 0
    """
    if isinstance(model, str):
        name, model = model, build_untrained(model)
        inputs = example_inputs(name) if inputs is None else inputs
    arguments = example_arguments(model, inputs)
    try:
        traced = trace(model, arguments)
    except _FAILURES as error:
        raise ValueError(
            f"the model cannot run on {_describe(arguments)}: {error}; pass inputs that "
            "it takes, e.g. inputs=(3, 299, 299)"
        ) from error
    return _table(traced, arguments.batch_size)


def _table(traced: Mapping[str, Traced], batch_size: int) -> LayerTable:
    found = kinds(traced)
    refusals = {name: _refusal(traced[name], batch_size) for name in found}
    architecture = Architecture(
        traced, found, [name for name, why in refusals.items() if why is None]
    )
    stages = architecture.stages()
    recommended = {stage.recommended for stage in stages}
    return LayerTable(
        LayerInfo(
            name=name,
            stage=architecture.stage_of(name, stages),
            kind=kind,
            shape=traced[name].instance_shape,
            n_neurons=traced[name].n_neurons,
            n_positions=architecture.positions(name),
            calls=traced[name].calls,
            usable=refusals[name] is None,
            reason=refusals[name] or _meaning(traced[name]),
            recommended=name in recommended,
            is_quantized=traced[name].is_quantized,
        )
        for name, kind in found.items()
    )


def layer(model: Module, stage: int | str = -1, inputs: Any = None) -> Module:
    """Choose the layer that stands for a stage, the one whose sign is a neuron's state.

    That is the last block's output where a ReLU makes it; else, in the stage's last
    block, the widest layer that a nonlinearity takes; outside of blocks the last such
    layer. `layers` says why.

    Args:
        model: any module.
        stage: number of the stage, negative from the end; or a layer's qualified name.
        inputs: as in `layers`.

    Returns:
        the module.

    Raises:
        ValueError: there is no such stage or layer, or it cannot be used.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    >>> layer(net, -1, inputs=(4,))
    Linear(in_features=4, out_features=3, bias=True)
    """
    return model.get_submodule(chosen(layers(model, inputs), stage).name)


def _refusal(entry: Traced, batch_size: int) -> str | None:
    """Why a layer cannot be used as it is, or None."""
    if entry.calls == 0:
        return "did not fire: trains only, or is used as a function"
    if entry.calls > 1:
        return f"fires {entry.calls} times: choose one call with call_index"
    if entry.shape is None:
        return f"gives a {entry.output}: pick a tensor in it with pool"
    if not entry.shape or entry.shape[0] != batch_size:
        size = entry.shape[0] if entry.shape else "none"
        return f"first dimension {size} is not the batch of {batch_size}: use pool"
    if not decides(entry) and entry.gate is not None:
        return f"ends in {entry.gate.name}, never negative: use threshold='median'"
    return None


def _meaning(entry: Traced) -> str:
    """What the sign of a usable layer's output means."""
    suffix = "; quantized: use pool=dequantized" if entry.is_quantized else ""
    if entry.gate is not None:
        return f"ends in {entry.gate.name}: active where positive{suffix}"
    if entry.feeds is not None and not entry.feeds.is_positive:
        return f"feeds {entry.feeds.name}: active where positive{suffix}"
    return f"linear: nothing in the network switches at 0{suffix}"


def _describe(arguments: Any) -> str:
    given = {**dict(enumerate(arguments.args)), **arguments.kwargs}
    shapes = [f"{name}: {tuple(getattr(v, 'shape', ()))}" for name, v in given.items()]
    return "{" + ", ".join(shapes) + "}"
