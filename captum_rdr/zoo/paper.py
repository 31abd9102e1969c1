"""The networks of the paper, cut at their block boundaries, with a new head."""

from dataclasses import replace
from typing import Any, NamedTuple

from torch.nn import Linear

from captum_rdr.zoo.setups import Setup, explain


class _Recipe(NamedTuple):
    head: str
    layers: tuple[str, ...]


_RECIPES = {
    "vgg19": _Recipe(
        "classifier.6", tuple(f"features.{i}" for i in (2, 7, 16, 25, 34))
    ),
    "resnet50": _Recipe("fc", ("layer1.2", "layer2.3", "layer3.5", "layer4.2")),
    "mobilenet_v2": _Recipe(
        "classifier.1", tuple(f"features.{i}" for i in (1, 3, 6, 10, 13, 16, 17, 18))
    ),
}


def paper_setup(
    name: str, n_classes: int, weights: Any = "DEFAULT", threshold: Any = 0.0
) -> Setup:
    """Set one of the paper's networks up at all its block boundaries.

    The head is replaced by a new linear layer; train it, or load weights into
    ``setup.model``, before ``setup.rdr.fit``. The boundaries are the last convolution
    of each of VGG-19's five blocks (before its ReLU: the same states), the last block
    of each of ResNet-50's four layers, and the last bottleneck of each of MobileNetV2's
    seven settings, with the convolution behind them. A bottleneck's output is linear:
    nothing in the network switches at 0 there, but the states are defined all the same.

    Args:
        name: ``"vgg19"``, ``"resnet50"`` or ``"mobilenet_v2"``.
        n_classes: outputs of the new head.
        weights: as in `explain`; of all but the head.
        threshold: as in `captum_rdr.RelaxedDecisionRegion`.

    Returns:
        the `Setup`; its ``rdr`` has a list of layers.

    Raises:
        ValueError: the paper has no such network, or ``n_classes`` is below 1.

    Source: Chang, Kwon and Choi (AAAI 2024), Section 4.

    >>> setup = paper_setup("mobilenet_v2", 100, weights=None)
    >>> setup.model.classifier[1].out_features, len(setup.layers)
    (100, 8)
    """
    if name not in _RECIPES:
        raise ValueError(
            f"name={name!r} is not one of the paper's networks {sorted(_RECIPES)}; use "
            "explain for any other"
        )
    if n_classes < 1:
        raise ValueError(
            f"n_classes={n_classes} is below 1; give the number of classes"
        )
    recipe = _RECIPES[name]
    setup = explain(name, weights, recipe.layers, threshold=threshold)
    holder, _, last = recipe.head.rpartition(".")
    parent, old = (setup.model.get_submodule(path) for path in (holder, recipe.head))
    if isinstance(old, Linear):
        setattr(parent, last, Linear(old.in_features, n_classes))
    return replace(setup, categories=())
