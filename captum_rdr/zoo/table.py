"""The table of a model's layers, and the choice of one."""

from dataclasses import dataclass
from typing import Any

from torch.nn import Module

from captum_rdr._arguments import check_whole, meant
from captum_rdr.axes import LayerAxes, axes_of
from captum_rdr.zoo.stages import Architecture
from captum_rdr.zoo.torchvision_models import build_untrained, example_inputs
from captum_rdr.zoo.tracing import Traced, example_arguments, trace

# What a forward pass raises on inputs that do not suit the model.
_FAILURES = (RuntimeError, TypeError, ValueError, IndexError, AssertionError)
_BODIES = ("backbone.body.", "backbone.features.")


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a model.

    Attributes:
        name: its qualified name.
        stage: index of its stage; None for heads and side paths, and where the sign of
            its output is no state.
        kind: the name of its class.
        shape: its output's shape without the batch; None where that is no tensor.
        n_neurons: the number of values of that.
        usable: whether `captum_rdr.RelaxedDecisionRegion` takes it as it is.
        reason: why not, or what the sign of its output means.
        recommended: whether it is the one that stands for its stage.
        axes: what the axes of its output mean; None where that is unknown.
        has_tokens: whether the output is a sequence of tokens, ``(T, E)``.
    """

    name: str
    stage: int | None
    kind: str
    shape: tuple[int, ...] | None
    n_neurons: int
    usable: bool
    reason: str
    recommended: bool
    axes: LayerAxes | None
    has_tokens: bool


class LayerTable(tuple[LayerInfo, ...]):
    """Layers in the order in which they end; its repr is a table."""

    __slots__ = ()

    def __repr__(self) -> str:
        """One line a layer, ``*`` before a recommended one."""
        rows = [("", "name", "stage", "kind", "shape", "neurons", "reason")]
        for one in self:
            mark, stage = "*" if one.recommended else "", one.stage
            number = "" if stage is None else str(stage)
            shape, count = "x".join(map(str, one.shape or ())), f"{one.n_neurons:,}"
            rows.append((mark, one.name, number, one.kind, shape, count, one.reason))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows
        )


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
       name  stage  kind    shape  neurons  reason
    *  0     0      Conv2d  8x6x6  288      feeds relu: active where positive
       1     0      ReLU    8x6x6  288      ends in relu: active where positive
       3            Linear  5      5        linear: nothing in the network switches at 0
    """
    if isinstance(model, str):
        name, model = model, build_untrained(model)
        inputs = example_inputs(name) if inputs is None else inputs
    arguments = example_arguments(model, inputs)
    try:
        traced = trace(model, arguments)
    except _FAILURES as error:
        given = dict((*enumerate(arguments.args), *arguments.kwargs.items()))
        shapes = {name: tuple(getattr(v, "shape", ())) for name, v in given.items()}
        raise ValueError(
            f"the model cannot run on {shapes}: {error}; pass inputs that it takes, e.g. "
            "inputs=(3, 299, 299)"
        ) from error
    refusals = {
        entry: _refusal(entry, arguments.batch_size)
        for entry in sorted(traced.values(), key=lambda entry: entry.order)
        if entry.name and (entry.is_layer or entry.is_activation or entry.holds_layers)
    }
    usable = [entry for entry, refusal in refusals.items() if refusal is None]
    architecture = Architecture(traced, usable)
    return LayerTable(
        _row(entry, refusal, architecture, model) for entry, refusal in refusals.items()
    )


def _row(
    entry: Traced, refusal: str | None, architecture: Architecture, model: Module
) -> LayerInfo:
    shape, axes = None, None
    if entry.shape is not None:
        shape = entry.shape[1:]
        axes = axes_of(entry.module, shape, model, leaf=entry.leaf)
    return LayerInfo(
        entry.name,
        architecture.stage_of(entry),
        type(entry.module).__name__,
        shape,
        entry.n_neurons,
        refusal is None,
        refusal or _meaning(entry),
        entry in architecture.recommended,
        axes,
        shape is not None and shape[:-1] == (entry.n_positions,),
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
    if not entry.decides and entry.gate is not None:
        return f"ends in {entry.gate.name}, never negative: use threshold='median'"
    return None


def _meaning(entry: Traced) -> str:
    """What the sign of a usable layer's output means."""
    if entry.gate is not None:
        return f"ends in {entry.gate.name}: active where positive"
    if entry.feeds is not None:
        return f"feeds {entry.feeds.name}: active where positive"
    return "linear: nothing in the network switches at 0"


def chosen(table: LayerTable, stage: int | str | None) -> LayerInfo:
    """The row of a table that stands for a stage, or that has a name.

    None is the last stage of the backbone's body where there is one, as in detection
    models, whose later stages belong to the pyramid and the heads; else the last stage.

    Raises:
        TypeError: the stage is neither a number nor a name.
        ValueError: there is no such row, or its layer cannot be used.
    """
    if isinstance(stage, str):
        return _named(table, stage)
    if stage is not None:
        check_whole("stage", stage, least=None)
    recommended = [info for info in table if info.recommended]
    recommended.sort(key=lambda info: info.stage or 0)
    if not recommended:
        raise ValueError(
            "no usable layer of the model makes or feeds a nonlinearity whose sign is a "
            "state; see layers(model) for the reasons, and choose one by its name"
        )
    if stage is None:
        body = [info for info in recommended if info.name.startswith(_BODIES)]
        return (body or recommended)[-1]
    count = len(recommended)
    if not -count <= stage < count:
        raise ValueError(
            f"stage={stage} but the model has {count} stages; use {-count} to {count - 1}"
        )
    return recommended[stage]


def _named(table: LayerTable, name: str) -> LayerInfo:
    info = next((info for info in table if info.name == name), None)
    if info is None:
        raise ValueError(
            f"layer {name!r} is not in the table; choose one that layers(model) lists, "
            f"e.g. {next((one.name for one in table if one.usable), None)!r}"
            f"{meant(name, [one.name for one in table if one.usable])}"
        )
    if not info.usable:
        raise ValueError(f"layer {name!r} cannot be used as it is: {info.reason}")
    return info
