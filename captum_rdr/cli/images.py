"""A folder of images as reference set."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset

Transform = Callable[[Any], Tensor]

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


class ImageFolder(Dataset[tuple[Tensor, int]]):
    """All images under a folder, in the order of their paths.

    Args:
        folder: holds images, or one folder of images a class.
        transform: makes the model's input of a PIL image.

    Attributes:
        paths: of the images, relative to the folder.
        transform: as given.
        classes: names of the folders in it, or empty where it holds images itself.
        labels: class of each image, -1 where there are no classes.

    Raises:
        ValueError: it is no folder, or holds no image.
    """

    def __init__(self, folder: str | os.PathLike[str], transform: Transform) -> None:
        self._folder, self.transform = Path(folder), transform
        if not self._folder.is_dir():
            raise ValueError(f"{str(folder)!r} is no folder; give a folder of images")
        self.paths = sorted(
            path.relative_to(self._folder)
            for path in self._folder.rglob("*")
            if path.suffix.lower() in SUFFIXES and path.is_file()
        )
        if not self.paths:
            raise ValueError(
                f"{str(folder)!r} holds no image; give a folder with files that end in "
                f"{', '.join(sorted(SUFFIXES))}"
            )
        tops = {path.parts[0] for path in self.paths if len(path.parts) > 1}
        in_classes = all(len(path.parts) > 1 for path in self.paths)
        self.classes = sorted(tops) if in_classes else []
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.labels = [numbers.get(path.parts[0], -1) for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = open_image(self._folder / self.paths[index], self.transform)
        return image, self.labels[index]


def open_image(path: str | os.PathLike[str], transform: Transform) -> Tensor:
    """The model's input of an image file.

    Raises:
        ValueError: it is no image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return transform(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"{os.fspath(path)!r} is no image that can be read") from error


def as_tensor(image: Any) -> Tensor:
    """Float tensor ``(3, H, W)`` in [0, 1] of a PIL image, as wide and high as it is.

    >>> as_tensor(Image.new("L", (4, 2), 255)).shape
    torch.Size([3, 2, 4])
    """
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1).contiguous()


def as_shown(inputs: Tensor, transform: Transform) -> Tensor:
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
