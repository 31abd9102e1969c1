"""Images as text that a page can hold, each stored once."""

import base64
import io

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.image import imread, imsave

from captum_rdr.visualization.pictures import Picture

_SMALL, _LARGEST = 64, 112  # pixels along the longer side
_DPI = 110


class Thumbnails:
    """Pictures that a page shows, the same ones once.

    >>> thumbnails = Thumbnails()
    >>> black = np.zeros((2, 2, 3))
    >>> thumbnails.number(black), thumbnails.number(black), thumbnails.number(black + 1)
    (0, 0, 1)
    >>> len(thumbnails.uris)
    2
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[tuple[int, ...], bytes], int] = {}
        self.uris: list[str] = []

    def number(self, picture: Picture) -> int:
        """The number of a picture, by which the page's style sheet knows it."""
        pixels = np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)
        key = (pixels.shape, pixels.tobytes())
        if key not in self._numbers:
            self._numbers[key] = len(self.uris)
            self.uris.append(thumbnail_uri(picture))
        return self._numbers[key]


def thumbnail_uri(picture: Picture) -> str:
    """A picture as a data URI: as it is where it is small, else averaged to 112 pixels.

    Small pictures are PNG, exact to the pixel; averaged ones JPEG, a fraction of that.

    >>> thumbnail_uri(np.zeros((2, 2, 3)))[:22]
    'data:image/png;base64,'
    """
    picture = np.clip(picture, 0, 1)
    longest = max(picture.shape[:2])
    if longest <= _SMALL:
        return _uri(picture, "png")
    height, width = picture.shape[:2]
    channels = torch.from_numpy(picture).permute(2, 0, 1)
    if longest > _LARGEST:
        scale = _LARGEST / longest
        shape = max(1, round(height * scale)), max(1, round(width * scale))
        channels = F.adaptive_avg_pool2d(channels, shape)
    return _uri(channels.permute(1, 2, 0).numpy(), "jpeg")


def _uri(picture: Picture, kind: str) -> str:
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(picture), format=kind)
    return _data_uri(buffer, kind)


def _data_uri(buffer: io.BytesIO, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def figure_uri(fig: Figure) -> str:
    """A figure as a data URI: PNG, or JPEG where photographs make that smaller."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=_DPI)
    png = _data_uri(buffer, "png")
    buffer.seek(0)
    picture = imread(buffer, format="png")[..., :3]
    return min(png, _uri(picture, "jpeg"), key=len)
