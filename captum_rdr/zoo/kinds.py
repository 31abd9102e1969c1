"""What kind of layer a module is, told by its attributes, children and siblings."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from torch.nn import Module, ModuleDict, ModuleList, Sequential

from captum_rdr.axes import channels_of
from captum_rdr.zoo.flow import Gate, is_gate_module
from captum_rdr.zoo.tracing import Traced, is_learned

_CONTAINERS = (Sequential, ModuleList, ModuleDict)


def tell_kinds(traced: Mapping[str, Traced]) -> list[Traced]:
    """Tell the kind of every module, and list those worth explaining in calling order.

    A *block* is a module with children and parameters of its own class beside which,
    under one parent, stands another of that class, or any such module beside blocks.
    An *attention* is the innermost module whose class is named after it, an *MLP* a
    module whose own children are linear layers around an activation. The root,
    containers, pooling, dropout and embeddings have no kind and are left out.

    >>> import torch
    >>> from captum_rdr.zoo.tracing import example_arguments, trace
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
    >>> traced = trace(net, example_arguments(net, (4,)))
    >>> [entry.kind for entry in tell_kinds(traced)]
    ['linear', 'activation']
    """
    children: dict[str, list[Traced]] = {name: [] for name in traced}
    for name, entry in traced.items():
        if name:
            children[name.rpartition(".")[0]].append(entry)
    blocks = set(_blocks(list(children.values())))
    for name, entry in traced.items():
        if name:
            entry.kind = _kind(entry, children[name], entry in blocks)
    listed = (entry for entry in traced.values() if entry.kind is not None)
    return sorted(listed, key=lambda entry: entry.order)


def _blocks(places: Sequence[Sequence[Traced]]) -> Iterator[Traced]:
    """Modules that stand several times in one place, and those beside."""
    places = [[one for one in place if _may_repeat(one)] for place in places]
    counts = [Counter(type(one.module) for one in place) for place in places]
    repeated = {kind for count in counts for kind, n in count.items() if n > 1}
    for place, count in zip(places, counts, strict=True):
        has_several = len(count) < len(place)
        for entry in place:
            beside = has_several and entry.shape is not None
            if beside or type(entry.module) in repeated:
                yield entry


def _may_repeat(entry: Traced) -> bool:
    if entry.is_leaf or type(entry.module) in _CONTAINERS:
        return False
    return any(map(is_learned, entry.module.modules()))


def _kind(entry: Traced, children: Sequence[Traced], is_block: bool) -> str | None:
    module, name = entry.module, type(entry.module).__name__
    learned_leaf = entry.is_leaf and is_learned(module)
    if not entry.is_leaf and _attention_names(module) == [name]:
        return "attention"
    if _is_mlp(module, children):
        return "MLP"
    if learned_leaf and hasattr(module, "kernel_size"):
        return "convolution"
    if _is_norm(module):
        return "normalization"
    if learned_leaf:
        return "linear"
    if entry.is_leaf and (is_gate_module(name) or Gate(name.lower()).is_positive):
        return "activation"
    return "block" if is_block else None


def _attention_names(module: Module) -> list[str]:
    """Classes named after attention, of the module and those within."""
    names = [type(one).__name__ for one in module.modules()]
    return [name for name in names if re.search("attention|attn", name, re.IGNORECASE)]


def _is_norm(module: Module) -> bool:
    """Whether it is a norm; timm's hold an activation."""
    learned = [one for one in module.modules() if is_learned(one)]
    return learned == [module] and "norm" in type(module).__name__.lower()


def _is_mlp(module: Module, children: Sequence[Traced]) -> bool:
    if type(module) in _CONTAINERS or not all(child.is_leaf for child in children):
        return False
    leaves = [child.module for child in children]
    linear = [one for one in leaves if channels_of(one)[1] == -1 and not _is_norm(one)]
    acts = [one for one in leaves if is_gate_module(type(one).__name__)]
    convolved = any(hasattr(one, "kernel_size") for one in leaves)
    return len(linear) > 1 and len(acts) == 1 and not convolved
