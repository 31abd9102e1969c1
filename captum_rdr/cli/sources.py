"""Where models and images come from: what the shell names, in Python's terms."""

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import Module

from captum_rdr import pooling
from captum_rdr.zoo import Setup, explain

try:
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import IMG_EXTENSIONS, is_image_file
except ImportError as error:
    raise ImportError(
        "the command line needs torchvision; install captum-rdr[zoo]"
    ) from error

Transform = Callable[[Any], Tensor]


def load_setup(
    model: str,
    weights: str | None,
    layer: int | str | None,
    pool: str | None,
    threshold: float | str,
    first_image: Path,
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
        first_image: tells the size of the input of a model that is not torchvision's.

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
        setup = explain(name, weights, **options)
        return replace(setup, transforms=setup.transforms or as_tensor)
    module, transform = _made(_imported(source, name), model)
    first = transform(open_image(first_image))
    if not isinstance(first, Tensor):
        raise TypeError(
            f"the transform of model={model!r} gave a {type(first).__name__}; return a "
            "tensor (C, H, W)"
        )
    setup = explain(module, inputs=tuple(first.shape), **options)
    return replace(setup, transforms=transform)


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


class Images(ImageFolder):  # type: ignore[misc]
    """All images under a folder, in the order of their paths.

    Args:
        folder: holds images, or one folder of images a class. What is hidden is no class.

    Attributes:
        paths: of the images, relative to the folder.
        classes: names of the folders in it, or empty where it holds images itself.
        targets: class of each image, -1 where there are no classes.

    Raises:
        ValueError: it is no folder, or holds no image.
    """

    def __init__(self, folder: str, transform: Transform | None = None) -> None:
        if not os.path.isdir(folder):
            raise ValueError(f"{folder!r} is no folder; give a folder of images")
        super().__init__(folder, transform, loader=open_image, allow_empty=True)
        self.paths = [os.path.relpath(path, folder) for path, _ in self.samples]
        if not self.paths:
            raise ValueError(
                f"{folder!r} holds no image; give a folder with files that end in "
                f"{', '.join(IMG_EXTENSIONS)}"
            )

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """The classes, and their numbers; the folder itself counts as one without name."""
        shown = [one for one in os.scandir(directory) if not one.name.startswith(".")]
        classes = sorted(one.name for one in shown if one.is_dir())
        if any(is_image_file(one.name) for one in shown):
            classes = []
        return classes, {name: i for i, name in enumerate(classes)} or {"": -1}


def open_image(path: str | Path) -> Image.Image:
    """An image file, in RGB where it has no more than eight bits a channel.

    Raises:
        ValueError: it is no image.
    """
    try:
        with Image.open(path) as image:
            is_deep = image.mode.startswith(("I", "F"))
            return image.copy() if is_deep else image.convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError(f"{os.fspath(path)!r} is no image that can be read") from error


def as_tensor(image: Any) -> Tensor:
    """Float tensor ``(3, H, W)`` in [0, 1] of a PIL image, as wide and high as it is.

    >>> as_tensor(Image.new("L", (4, 2), 255)).shape
    torch.Size([3, 2, 4])
    """
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1).contiguous()


def as_shown(inputs: Tensor, transform: Any) -> Tensor:
    """An input of the model as an image with values in [0, 1].

    Undoes the transform's ``mean`` and ``std``, which torchvision's have; another input
    outside [0, 1] is stretched from its smallest to its largest value.

    >>> as_shown(torch.tensor([[[-1.0, 3.0]]]), as_tensor)
    tensor([[[0., 1.]]])
    """
    mean, std = (getattr(transform, name, None) for name in ("mean", "std"))
    if mean is not None and std is not None:
        mean, std = (torch.as_tensor(one).reshape(-1, 1, 1) for one in (mean, std))
        return (inputs * std + mean).clamp(0, 1)
    low, high = inputs.min(), inputs.max()
    if low >= 0 and high <= 1:
        return inputs
    return (inputs - low) / (high - low)
