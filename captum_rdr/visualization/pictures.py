"""From what users hold as images to what is drawn: RGB arrays."""

from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.colors import Colormap
from torch import Tensor

Picture = npt.NDArray[np.float64]
"""Red, green and blue from 0 to 1, shape ``(H, W, 3)``."""

MISSING = (1.0, 0.0, 1.0)
"""The color of pixels that are NaN: magenta."""


def as_picture(
    image: Any, cmap: str | Colormap | None = None, name: str = "image"
) -> Picture:
    """What to draw for an image.

    Args:
        image: a NumPy array, channels last ``(H, W)`` or ``(H, W, C)`` as Captum's
            visualizers take it; or a tensor, channels first ``(H, W)`` or ``(C, H, W)``
            as models take it. C is 1, 3 or 4 (with alpha, laid over white). Floats lie
            from 0 to 1, whole numbers from 0 to 255. NaN pixels become magenta.
        cmap: colormap of images without color; gray by default.
        name: how errors call the image.

    Returns:
        float64 ``(H, W, 3)``; never a view of ``image``.

    Raises:
        TypeError: it is neither array nor tensor, or holds no real numbers.
        ValueError: its shape or a value is out of range.

    >>> as_picture(np.array([[0, 255]], np.uint8)).tolist()
    [[[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]
    >>> as_picture(np.array([[np.nan]])).tolist()
    [[[1.0, 0.0, 1.0]]]
    """
    values = _in_range(_channels_last(image, name), name)
    missing = np.asarray(np.isnan(values).any(2))
    values = np.where(missing[..., None], 0.0, values)
    if values.shape[2] == 1:
        colors = matplotlib.colormaps.get_cmap(cmap or "gray")(values[..., 0])
        picture: Picture = np.asarray(colors, np.float64)[..., :3]
    elif values.shape[2] == 4:
        alpha = values[..., 3:]
        picture = values[..., :3] * alpha + 1.0 - alpha
    else:
        picture = values
    picture[missing] = MISSING
    return picture


def _channels_last(image: Any, name: str) -> npt.NDArray[Any]:
    """The image as an array ``(H, W, C)``."""
    first = isinstance(image, Tensor)
    if isinstance(image, Tensor):
        values = image.detach().cpu().numpy()
    elif isinstance(image, np.ndarray):
        values = image
    else:
        raise TypeError(
            f"{name} is a {type(image).__name__}; give a NumPy array (channels last), a "
            "tensor (channels first), or to_image, which makes one of what the dataset "
            "holds"
        )
    if values.ndim == 2:
        values = values[None] if first else values[..., None]
    wanted = "a tensor (C, H, W)" if first else "an array (H, W, C)"
    axis = 0 if first else -1
    if values.ndim != 3 or values.shape[axis] not in (1, 3, 4) or not values.size:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}; give one image as {wanted} with 1, 3 "
            "or 4 channels: channels come first in a tensor and last in an array"
        )
    return np.moveaxis(values, 0, -1) if first else values


def _in_range(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.float64]:
    """The values as floats from 0 to 1, or NaN."""
    if values.dtype.kind not in "buif":
        raise TypeError(
            f"{name} has dtype {values.dtype}; give floats from 0 to 1 or whole numbers "
            "from 0 to 255"
        )
    high = 255 if values.dtype.kind in "ui" else 1
    floats = values.astype(np.float64)
    known = floats[~np.isnan(floats)]
    slack = 1e-6 * high
    if known.size and not (known.min() >= -slack and known.max() <= high + slack):
        raise ValueError(
            f"{name} has values from {known.min():.4g} to {known.max():.4g}; give "
            f"{values.dtype} from 0 to {high}, e.g. undo a normalization with "
            "to_image=lambda x: (x * std + mean).clamp(0, 1)"
        )
    return np.clip(floats / high, 0.0, 1.0)
