"""Where models come from: what the shell names, in Python's terms."""

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import Module

from captum_rdr import pooling
from captum_rdr.cli.images import (
    DamagedImageError,
    Images,
    Transform,
    as_tensor,
    open_image,
)
from captum_rdr.zoo import Setup, explain


def load_setup(
    model: str,
    weights: str | None,
    layer: int | str | None,
    pool: str | None,
    threshold: float | str,
    images: Images,
    skip_damaged: bool,
) -> Setup:
    """A model with its layer and the transform of its images.

    Args:
        model: ``"torchvision:NAME"``, or ``"package.module:factory"`` for a function
            without arguments that returns a module, or a module and the transform from a
            PIL image to its input.
        weights: of a model of torchvision; None for random ones.
        layer: number of a stage or a layer's name, None for the last stage.
        pool: name of one of `captum_rdr.pooling`, or None for what suits the layer.
        threshold: as in `captum_rdr.RelaxedDecisionRegion`.
        images: the first tells the size of the input of a model that is not torchvision's.
        skip_damaged: take the first that can be read.

    Raises:
        ImportError: the module cannot be imported.
        TypeError: the factory returns something else.
        ValueError: there is no such model or layer.
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
        return explain(name, weights, **options)
    module, transform = _made(_imported(source, name), model)
    first = transform(_first_image(images, skip_damaged))
    if not isinstance(first, Tensor):
        raise TypeError(
            f"the transform of model={model!r} gave a {type(first).__name__}; return a "
            "tensor (C, H, W)"
        )
    setup = explain(module, inputs=tuple(first.shape), **options)
    return replace(setup, transforms=transform)


def _first_image(images: Images, skip_damaged: bool) -> Any:
    for row in range(len(images)):
        try:
            return open_image(images.path(row))
        except DamagedImageError:
            if not skip_damaged:
                raise
    raise ValueError(
        f"none of the {len(images)} images in {images.folder!r} can be read"
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
