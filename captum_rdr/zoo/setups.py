"""Model, layer, pool, preprocessing and class names in one object."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.pooling import Pool, class_token, last_token, token_mean
from captum_rdr.zoo.table import LayerInfo, chosen, layers
from captum_rdr.zoo.torchvision_models import build, example_inputs, weights_of
from captum_rdr.zoo.tracing import example_arguments

_CLASS_TOKENS = {"class_token", "cls_token", "class_embedding", "cls_pos"}


@dataclass(frozen=True, repr=False)
class Setup:
    """What is needed to explain a model.

    Attributes:
        name: the model's name or class, with that of its weights.
        model: the model.
        layers: the rows of the layers to explain.
        pools: the pool of each, or None.
        transforms: the preprocessing of an image that goes with the weights, or None.
        categories: the names of the model's outputs, empty where they are not known.
        rdr: ready for ``fit``; for one layer, or for a list of layers.
    """

    name: str
    model: Module
    layers: tuple[LayerInfo, ...]
    pools: tuple[Pool | None, ...]
    transforms: Callable[[Any], Any] | None
    categories: tuple[str, ...]
    rdr: RelaxedDecisionRegion

    def __repr__(self) -> str:
        """Several lines: the model, and each layer with its pool and reason."""
        lines = [f"Setup({self.name}"]
        for info, pool in zip(self.layers, self.pools, strict=True):
            shape = "x".join(map(str, info.shape or ()))
            pooled = "" if pool is None else f", {getattr(pool, '__name__', pool)}"
            lines.append(f"  layer {info.name}: {shape}{pooled}; {info.reason}")
        return "\n".join(lines) + ")"


def explain(
    model: Module | str,
    weights: Any = "DEFAULT",
    layer: int | str | Sequence[int | str] | None = None,
    *,
    inputs: Any = None,
    pool: Pool | str | None = "auto",
    threshold: Any = "median",
    **options: Any,
) -> Setup:
    """Set up the explanation of a model: the only call that a named model needs.

    Args:
        model: the name of one of torchvision's models, or any module.
        weights: for a name: ``"DEFAULT"``, another of its weights' names, such a
            member itself, or None for random weights. Weights that are not on this
            machine are downloaded by torchvision. For a module, leave it.
        layer: number of a stage, or a layer's qualified name (see `layer`), or a list
            of these; None for the last stage (of the backbone's body where there is
            one, as in detection models).
        inputs: what the model is traced on, as in `layers`; None for what suits it.
        pool: applied to each layer's output before it is binarized; ``"auto"`` chooses
            one token of a sequence.
        threshold: as in `captum_rdr.RelaxedDecisionRegion`; a neuron's median suits
            layers of every kind, also those that no ReLU follows.
        **options: passed to torchvision's builder, e.g. ``num_classes``.

    Returns:
        the `Setup`; its ``rdr`` is ready for ``fit``.

    Raises:
        ImportError: a name is given and torchvision is not installed.
        TypeError: an argument is of the wrong type.
        ValueError: there is no such model, weights, stage or layer.

    >>> setup = explain("squeezenet1_1", weights=None, num_classes=10)
    >>> setup
    Setup(squeezenet1_1 without weights
      layer features.12: 512x13x13; ends in relu: active where positive)
    >>> setup.rdr.bank is None
    True
    """
    entry = None
    if isinstance(model, str):
        entry = weights_of(model, weights)
        network = build(model, entry, **options)
        told = "without weights" if entry is None else f"with {entry.name}"
        title = f"{model} {told}"
        inputs = example_inputs(model) if inputs is None else inputs
    elif options or weights not in ("DEFAULT", None):
        given = sorted(options) or f"weights={weights!r}"
        raise ValueError(
            f"{given} is for a model given by its name; build the module with it, and "
            "leave it out here"
        )
    else:
        network, title = model, type(model).__name__
    several = isinstance(layer, Sequence) and not isinstance(layer, str)
    wanted: Sequence[Any] = layer if several else [layer]  # type: ignore[assignment]
    table = layers(network, inputs)
    rows = tuple(chosen(table, one) for one in wanted)
    pools: list[Any] = [pool] * len(rows)
    if pool == "auto":
        pools = [_pool(network, row, inputs) for row in rows]
    modules = [network.get_submodule(row.name) for row in rows]
    each: tuple[Any, ...] = (modules, pools, [row.axes for row in rows])
    of_layer, pooled, axes = each if several else (one[0] for one in each)
    rdr = RelaxedDecisionRegion(
        network, of_layer, threshold=threshold, pool=pooled, axes=axes
    )
    transforms = None if entry is None else entry.transforms()
    categories = _categories(network, entry)
    return Setup(title, network, rows, tuple(pools), transforms, categories, rdr)


def _pool(network: Module, info: LayerInfo, inputs: Any) -> Pool | None:
    """The pool that suits a layer of tokens: one of several.

    Text: `last_token` where the layer's first token does not see the last one (a
    decoder), else `class_token`. Images and clips: `class_token` where the model has a
    parameter of such a name, else `token_mean`.
    """
    if not info.has_tokens:
        return None
    arguments = example_arguments(network, inputs)
    if "input_ids" in arguments.kwargs:
        layer = network.get_submodule(info.name)
        is_causal = _is_causal(network, layer, arguments.kwargs)
        return last_token if is_causal else class_token
    names = {name.rpartition(".")[2] for name, _ in network.named_parameters()}
    return class_token if names & _CLASS_TOKENS else token_mean


def _is_causal(model: Module, layer: Module, inputs: dict[str, Tensor]) -> bool:
    """Whether the layer's first token stays the same when the last input changes."""
    ids = inputs["input_ids"]
    other = ids.clone()
    other[:, -1] = torch.where(ids[:, -1] == 0, 1, 0)
    batches = [{**inputs, "input_ids": given} for given in (ids, other)]
    rdr = RelaxedDecisionRegion(model, layer, pool=class_token)
    rdr.fit(batches, keep_features=True, show_progress=False)
    first, second = rdr.bank.features.chunk(2)
    return bool(torch.allclose(first, second, rtol=1e-4, atol=1e-6))


def _categories(network: Module, entry: Any) -> tuple[str, ...]:
    """Names of the outputs, from torchvision's weights or Hugging Face's config."""
    if entry is not None:
        return tuple(entry.meta.get("categories") or ())
    labels = getattr(getattr(network, "config", None), "id2label", None) or {}
    names = tuple(str(labels[index]) for index in sorted(labels))
    return () if all(name.startswith("LABEL_") for name in names) else names
