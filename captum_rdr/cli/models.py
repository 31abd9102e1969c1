"""Models given by a name in the shell."""

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import Module

from captum_rdr import pooling
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.cli.images import ImageFolder, Transform, as_tensor
from captum_rdr.zoo import Setup, explain

POOLS = ("spatial_mean", "spatial_max", "class_token", "last_token", "token_mean")


def load(
    model: str,
    folder: str,
    *,
    weights: str | None = "DEFAULT",
    layer: int | str | None = None,
    pool: str | None = None,
    threshold: float | str = 0.0,
) -> tuple[Setup, ImageFolder]:
    """A model with its layer, and the reference images as it takes them.

    Args:
        model: ``"torchvision:NAME"``, or ``"package.module:factory"`` for a function
            without arguments that returns a module, or a module and the transform from a
            PIL image to its input.
        folder: the reference images.
        weights: of a model of torchvision; None for random ones.
        layer: number of a stage or a layer's name, None for the last stage.
        pool: one of `POOLS`, or None for what suits the layer.
        threshold: as in `captum_rdr.RelaxedDecisionRegion`.

    Raises:
        ImportError: the module cannot be imported.
        TypeError: the factory returns something else.
        ValueError: there is no such model, layer, or folder.
    """
    source, _, name = model.partition(":")
    if not source or not name:
        raise ValueError(
            f"model={model!r} has no known form; write torchvision:resnet50 or "
            "package.module:factory"
        )
    options: dict[str, Any] = {
        "layer": layer,
        "pool": "auto" if pool is None else getattr(pooling, pool),
        "threshold": threshold,
    }
    if source == "torchvision":
        setup = explain(name, weights, **options)
        return setup, ImageFolder(folder, setup.transforms or as_tensor)
    module, transform = _made(_imported(source, name), model)
    images = ImageFolder(folder, transform)
    first, _ = images[0]
    if not isinstance(first, Tensor):
        raise TypeError(
            f"the transform of model={model!r} gave a {type(first).__name__}; return a "
            "tensor (C, H, W)"
        )
    setup = explain(module, inputs=tuple(first.shape), **options)
    return replace(setup, transforms=transform), images


def with_bank(setup: Setup, bank: ConfigurationBank) -> RelaxedDecisionRegion:
    """A set-up model with a bank that was fitted earlier."""
    return RelaxedDecisionRegion(
        setup.model, setup.rdr.layer, pool=setup.pools[0], bank=bank
    )


def _imported(module: str, name: str) -> Any:
    """An object of a module that may lie in the current folder."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError as error:
        raise ValueError(
            f"module {module!r} has no {name!r}; name a function that returns the model"
        ) from error


def _made(factory: Callable[[], Any], model: str) -> tuple[Module, Transform]:
    made = factory()
    module, transform = made if isinstance(made, tuple) else (made, as_tensor)
    if not isinstance(module, Module) or not callable(transform):
        raise TypeError(
            f"model={model!r} gave a {type(made).__name__}; return a torch.nn.Module, or "
            "a tuple of one and a transform"
        )
    return module.eval(), transform
