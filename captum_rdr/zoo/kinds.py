"""What kind of layer a module is, told by its attributes, children and siblings."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from torch.nn import Module, ModuleDict, ModuleList, Sequential

from captum_rdr.axes import channel_axis, channels_of
from captum_rdr.zoo.flow import Gate, is_gate_module
from captum_rdr.zoo.tracing import Traced

_CONTAINERS = (Sequential, ModuleList, ModuleDict)


def kinds_of(traced: Mapping[str, Traced]) -> dict[str, str]:
    """The kind of every module that is worth explaining, by name, in calling order.

    A *block* is a module with children and parameters of its own class beside which,
    under one parent, stands another of that class, or any such module beside blocks.
    An *attention* is the innermost module whose class is named after it, an *MLP* a
    module whose own children are linear layers around an activation. The root,
    containers, pooling, dropout and embeddings are left out.

    >>> import torch
    >>> from captum_rdr.zoo.tracing import example_arguments, trace
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    >>> kinds_of(trace(net, example_arguments(net, (4,))))
    {'0': 'linear', '1': 'activation'}
    """
    children: dict[str, list[Traced]] = {}
    for name, entry in traced.items():
        if name:
            children.setdefault(name.rpartition(".")[0], []).append(entry)
    blocks = set(_blocks(children))
    found = {}
    for entry in sorted(traced.values(), key=lambda entry: entry.order):
        kind = _kind(entry, children.get(entry.name, []), blocks)
        if entry.name and kind is not None:
            found[entry.name] = kind
    return found


def ancestors(name: str) -> Iterator[str]:
    """The module's name and those of the modules around it, outermost first.

    >>> list(ancestors("layer1.0.conv1"))
    ['layer1', 'layer1.0', 'layer1.0.conv1']
    """
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def n_positions(module: Module, shape: tuple[int, ...]) -> int:
    """Spatial positions or tokens of an output of ``module``, a leaf with parameters.

    Args:
        module: tells the number of channels, and on which side they stand.
        shape: an output's shape, batch included; it may be that of a module around.

    Returns:
        the number of values an instance divided by that of the channels.

    >>> import torch
    >>> n_positions(torch.nn.Conv2d(3, 8, 1), (2, 8, 7, 7))
    49
    >>> n_positions(torch.nn.Linear(3, 8), (2, 7, 7, 8))
    49
    """
    rest = shape[1:]
    return math.prod(rest) // max(rest[channel_axis(module, rest)], 1) if rest else 1


def is_learned(module: Module) -> bool:
    """Whether a leaf has channels of its own: a convolution, a linear layer, a norm."""
    return channels_of(module)[0] > 0


def _blocks(children: Mapping[str, list[Traced]]) -> Iterator[str]:
    """Names of modules that stand several times in one place, and of those beside."""
    places = [list(filter(_may_repeat, entries)) for entries in children.values()]
    counts = [Counter(type(one.module) for one in entries) for entries in places]
    repeated = {kind for count in counts for kind, n in count.items() if n > 1}
    for entries, count in zip(places, counts, strict=True):
        has_several = max(count.values(), default=0) > 1
        for entry in entries:
            beside = has_several and entry.shape is not None
            if beside or type(entry.module) in repeated:
                yield entry.name


def _may_repeat(entry: Traced) -> bool:
    if entry.is_leaf or type(entry.module) in _CONTAINERS:
        return False
    return any(map(is_learned, entry.module.modules()))


def _kind(entry: Traced, children: list[Traced], blocks: set[str]) -> str | None:
    module, name = entry.module, type(entry.module).__name__
    if not entry.is_leaf and _attention_names(module) == [name]:
        return "attention"
    if _is_mlp(module, children):
        return "MLP"
    if entry.is_leaf and hasattr(module, "kernel_size") and is_learned(module):
        return "convolution"
    if _is_norm(module):
        return "normalization"
    if entry.is_leaf and is_learned(module):
        return "linear"
    if entry.is_leaf and (is_gate_module(name) or Gate(name.lower()).is_positive):
        return "activation"
    return "block" if entry.name in blocks else None


def _attention_names(module: Module) -> list[str]:
    """Classes named after attention, of the module and those within."""
    names = [type(one).__name__ for one in module.modules()]
    return [name for name in names if re.search("attention|attn", name, re.IGNORECASE)]


def _is_norm(module: Module) -> bool:
    """Whether it is a norm; timm's hold an activation."""
    inner = list(module.modules())[1:]
    is_own = is_learned(module) and not any(map(is_learned, inner))
    return is_own and "norm" in type(module).__name__.lower()


def _is_mlp(module: Module, children: list[Traced]) -> bool:
    if type(module) in _CONTAINERS or not all(child.is_leaf for child in children):
        return False
    leaves = [child.module for child in children]
    linear = [one for one in leaves if channels_of(one)[1] == -1 and not _is_norm(one)]
    acts = [one for one in leaves if is_gate_module(type(one).__name__)]
    convolved = any(hasattr(one, "kernel_size") for one in leaves)
    return len(linear) > 1 and len(acts) == 1 and not convolved
