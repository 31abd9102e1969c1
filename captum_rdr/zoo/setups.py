"""Model, layer, preprocessing and class names in one object."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.nn import Module

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.pooling import Pool
from captum_rdr.zoo.inputs import example_arguments
from captum_rdr.zoo.layerinfo import LayerInfo, chosen
from captum_rdr.zoo.pools import dequantized, token_pool
from captum_rdr.zoo.table import layers
from captum_rdr.zoo.torchvision_models import build, example_inputs, weights_of


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
        """Several lines: the model, each layer with its reason, the rest."""
        lines = [f"Setup({self.name}"]
        for info, pool in zip(self.layers, self.pools, strict=True):
            shape = "x".join(map(str, info.shape or ()))
            pooled = "" if pool is None else f", {getattr(pool, '__name__', pool)}"
            lines.append(f"  layer {info.name}: {shape}{pooled}; {info.reason}")
        if self.transforms is not None:
            first = str(self.transforms).splitlines()[0].rstrip("(")
            lines.append(f"  transforms: {first}")
        if self.categories:
            ends = f"{self.categories[0]} ... {self.categories[-1]}"
            lines.append(f"  categories: {len(self.categories)}, {ends}")
        return "\n".join(lines) + ")"


def explain(
    model: Module | str,
    weights: Any = "DEFAULT",
    layer: int | str | Sequence[int | str] | None = None,
    *,
    inputs: Any = None,
    pool: Pool | str | None = "auto",
    threshold: Any = 0.0,
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
            one token of a sequence and turns quantized outputs into floats.
        threshold: as in `captum_rdr.RelaxedDecisionRegion`.
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
    if isinstance(model, str):
        entry = weights_of(model, weights) if _is_name(weights) else weights
        network = build(model, entry, **options)
        title = (
            f"{model} {'without weights' if entry is None else f'with {entry.name}'}"
        )
        inputs = example_inputs(model) if inputs is None else inputs
    else:
        _refuse_extras(weights, options)
        network, entry, title = model, None, type(model).__name__
    table = layers(network, inputs)
    several = isinstance(layer, Sequence) and not isinstance(layer, str)
    wanted: Sequence[Any] = layer if several else [layer]  # type: ignore[assignment]
    rows = tuple(chosen(table, one) for one in wanted)
    modules = [network.get_submodule(row.name) for row in rows]
    pools = tuple(
        _pool(network, module, row, inputs) if pool == "auto" else pool
        for module, row in zip(modules, rows, strict=True)
    )
    rdr = RelaxedDecisionRegion(
        network,
        modules if several else modules[0],
        threshold=threshold,
        pool=list(pools) if several else pools[0],  # type: ignore[arg-type]
    )
    return Setup(
        title,
        network,
        rows,
        pools,  # type: ignore[arg-type]
        None if entry is None else entry.transforms(),
        _categories(network, entry),
        rdr,
    )


def _is_name(weights: Any) -> bool:
    return weights is None or isinstance(weights, str)


def _refuse_extras(weights: Any, options: dict[str, Any]) -> None:
    if options or weights not in ("DEFAULT", None):
        given = sorted(options) or f"weights={weights!r}"
        raise ValueError(
            f"{given} is for a model given by its name; build the module with it, and "
            "leave it out here"
        )


def _pool(network: Module, layer: Module, info: LayerInfo, inputs: Any) -> Pool | None:
    if info.is_quantized:
        return dequantized
    if not info.has_tokens:
        return None
    return token_pool(network, layer, example_arguments(network, inputs))


def _categories(network: Module, entry: Any) -> tuple[str, ...]:
    """Names of the outputs, from torchvision's weights or Hugging Face's config."""
    if entry is not None:
        return tuple(entry.meta.get("categories") or ())
    labels = getattr(getattr(network, "config", None), "id2label", None) or {}
    names = tuple(str(labels[index]) for index in sorted(labels))
    return () if all(name.startswith("LABEL_") for name in names) else names
