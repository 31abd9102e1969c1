"""Images as people have them: any folder of files, as a model takes them."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captum_rdr.bank.files import open_regular

Transform = Callable[[Any], Tensor]

# Others of Pillow's formats start programs (PostScript), or hold no photos.
_KNOWN = ["AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"]
_BY_ENDING = Image.registered_extensions().items()
_ENDINGS = tuple(sorted(ending for ending, name in _BY_ENDING if name in _KNOWN))
_FORMATS = [name for name in _KNOWN if name in Image.OPEN]
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


class DamagedImageError(ValueError):
    """A file that cannot be read as an image."""


def open_image(path: str | Path) -> Image.Image:
    """An image file in RGB, see `as_rgb`.

    Raises:
        DamagedImageError: it is no image, damaged, or too large to be one in earnest.
    """
    try:
        with open_regular(path) as file, Image.open(file, formats=_FORMATS) as image:
            return as_rgb(image)
    except Exception as error:  # decoders do not say what damaged bytes raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DamagedImageError(
            f"{os.fspath(path)!r} is no image that can be read ({reason}); restore it, "
            "move it away, or leave such files out with --skip-damaged"
        ) from error


def as_rgb(image: Image.Image) -> Image.Image:
    """An image in RGB as a viewer shows it.

    It is turned as its EXIF orientation says, and laid over white where it is
    transparent. Deep gray keeps its range: 16 bits become 8 by a division, floats count
    from 0 to 1 or from 0 to 255; what lies outside of that is stretched from its smallest
    to its largest value, and what is not finite counts as 0. Else it is what
    ``image.convert("RGB")`` makes of it.

    >>> ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    >>> len(np.unique(as_rgb(Image.fromarray(ramp))))
    256
    >>> as_rgb(Image.new("LA", (1, 1), (0, 128))).getpixel((0, 0))
    (127, 127, 127)
    """
    image.load()
    with suppress(Exception):  # damaged EXIF data says nothing of the pixels
        image = ImageOps.exif_transpose(image) or image
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(image, np.float64), posinf=0.0, neginf=0.0)
        tops = (1, 255) if image.mode == "F" else (65535,)
        low, high = values.min(), values.max()
        top = next((top for top in tops if low >= 0 and high <= top), None)
        gray = 255 * (values / top if top else (values - low) / (high - low or 1))
        return Image.fromarray(np.round(gray).astype(np.uint8)).convert("RGB")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def as_tensor(image: Any) -> Tensor:
    """Float tensor ``(3, H, W)`` in [0, 1] of a PIL image, as wide and high as it is.

    >>> as_tensor(Image.new("L", (4, 2), 255)).shape
    torch.Size([3, 2, 4])
    """
    pixels = np.asarray(as_rgb(image), dtype=np.float32)
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


class Images(Dataset[Any]):
    """All images under a folder, in the order in which torchvision's ImageFolder has them.

    What is hidden is left out. Links are followed.

    Args:
        folder: holds images, or one folder of images a class.
        transform: from an image in RGB to the model's input.
        skip_damaged: leave out files that cannot be read, rather than raise.

    Attributes:
        paths: of the images, relative to the folder.
        classes: names of the folders in it, or empty where it holds images itself.
        targets: class of each image, -1 where there are no classes.

    Raises:
        ValueError: it is no folder, or holds no image; or a link in it leads nowhere, or
            to a folder that it lies in.
    """

    def __init__(
        self, folder: str, transform: Transform = as_tensor, skip_damaged: bool = False
    ) -> None:
        if not os.path.isdir(folder):
            raise ValueError(f"{folder!r} is no folder; give a folder of images")
        self.folder, self.transform, self.skip_damaged = folder, transform, skip_damaged
        names, found = _under(folder)
        if not found:
            raise ValueError(
                f"{folder!r} holds no image; give one with {', '.join(_ENDINGS)} files"
            )
        if not all(map(os.path.dirname, found)):  # it holds images itself
            names = []
        numbers = {name: number for number, name in enumerate(names)}
        targets = {one: numbers.get(one.split(os.sep)[0], -1) for one in found}
        self.paths = sorted(found, key=lambda one: (targets[one], os.path.split(one)))
        self.targets = [targets[one] for one in self.paths]
        # Names that are no valid text can be opened, but not shown.
        self.classes = [os.fsencode(one).decode("utf-8", "replace") for one in names]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return self.transform(open_image(self.path(row))), self.targets[row]

    def path(self, row: int) -> str:
        """Where an image lies."""
        return os.path.join(self.folder, self.paths[row])

    def only(self, rows: Sequence[int]) -> None:
        """Leave all images out but those of the given rows."""
        self.paths = [self.paths[row] for row in rows]
        self.targets = [self.targets[row] for row in rows]

    def read(self, paths: Sequence[str | Path]) -> tuple[list[int], Tensor]:
        """The inputs of files, in this folder or elsewhere, and which of them they are.

        Raises:
            DamagedImageError: a file cannot be read.
            TypeError: the transform gives no tensor.
            ValueError: inputs differ in shape.
        """
        kept: dict[int, Tensor] = {}
        for number, path in enumerate(paths):
            try:
                one = self.transform(open_image(path))
            except DamagedImageError:
                if not self.skip_damaged:
                    raise
                continue
            if not isinstance(one, Tensor):
                raise TypeError(
                    f"the transform gave a {type(one).__name__}; return a tensor (C, H, W)"
                )
            kept[number] = one
            first = next(iter(kept))
            if one.shape != kept[first].shape:
                raise ValueError(
                    f"{os.fspath(path)!r} becomes an input of shape {tuple(one.shape)}, "
                    f"{os.fspath(paths[first])!r} one of {tuple(kept[first].shape)}; "
                    "resize images to one size, e.g. by a transform beside the model"
                )
        return list(kept), torch.stack([*kept.values()]) if kept else torch.empty(0)

    def read_rows(self, rows: Sequence[int]) -> tuple[list[int], Tensor]:
        """The same of images of this folder."""
        kept, inputs = self.read([self.path(row) for row in rows])
        return [rows[number] for number in kept], inputs


def _under(folder: str) -> tuple[list[str], list[str]]:
    """Names of the folders in a folder, sorted, and paths of the images under it."""

    def fail(error: OSError) -> None:
        raise error  # also of a link to a folder around it, which never ends

    found, names = [], []
    for here, folders, others in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if here == folder:
            names = [*folders]
        for name in others:
            path = os.path.join(here, name)
            if name.startswith("."):
                continue
            if name.lower().endswith(_ENDINGS):
                found.append(os.path.relpath(path, folder))
            elif not os.path.exists(path):
                raise ValueError(f"{path!r} is a link to nothing; mend or remove it")
    return names, found


class ImageBatches:
    """The inputs of a folder's images in batches.

    Args:
        images: the images; as in `Images.read`, damaged ones may be left out.
        batch_size: of them at once.
        workers: processes that read them.

    Attributes:
        rows: the images that the last pass gave, in order.
    """

    def __init__(self, images: Images, batch_size: int, workers: int = 0) -> None:
        self.rows: list[int] = []
        self._loader: DataLoader[Any] = DataLoader(
            range(len(images)),  # type: ignore[arg-type]  # read where it is collated
            batch_size,
            num_workers=workers,
            collate_fn=images.read_rows,
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Tensor]:
        self.rows = []
        for rows, inputs in self._loader:
            self.rows += rows
            if rows:
                yield inputs
