"""Where models come from: what the shell names, in Python's terms."""

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from torch.nn import Module

from captum_rdr import pooling
from captum_rdr.cli.images import ImageBatches, Images, Transform, as_tensor
from captum_rdr.zoo import Setup, explain


def load_setup(
    options: argparse.Namespace, images: Images, threshold: float | str
) -> Setup:
    """A model with its layer; ``images`` get the transform that it takes.

    Args:
        options: of the command line. ``model`` is ``"torchvision:NAME"``, or
            ``"package.module:factory"`` for a function without arguments that returns a
            module, or a module and the transform from a PIL image to its input.
        images: the first that can be read tells the size of the input of a model that
            is not torchvision's.
        threshold: as in `captum_rdr.RelaxedDecisionRegion`.

    Raises:
        ImportError: the module cannot be imported.
        TypeError: the factory returns something else.
        ValueError: there is no such model or layer, or no image can be read.
    """
    source, _, name = options.model.partition(":")
    if not source or not name:
        raise ValueError(
            f"model={options.model!r} has no known form; write torchvision:resnet50 or "
            "package.module:factory"
        )
    choices: dict[str, Any] = {
        "layer": options.layer,
        "pool": "auto" if options.pool is None else getattr(pooling, options.pool),
        "threshold": threshold,
    }
    if source == "torchvision":
        weights = None if options.weights == "none" else options.weights
        setup = explain(name, weights, **choices)
        images.transform = setup.transforms or as_tensor
        return setup
    module, images.transform = _made(_imported(source, name), options.model)
    first = next(iter(ImageBatches(images, 1)), None)
    if first is None:
        raise ValueError(
            f"none of the {len(images)} images in {images.folder!r} can be read"
        )
    return explain(module, inputs=tuple(first.shape[1:]), **choices)


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
