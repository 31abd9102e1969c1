"""Images as text that a page can hold, each stored once."""

import base64
import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from captum_rdr.visualization.reference import Picture

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
        self._numbers: dict[str, int] = {}

    @property
    def uris(self) -> list[str]:
        """The pictures by number."""
        return list(self._numbers)

    def number(self, picture: Picture) -> int:
        """The number of a picture, by which the page's style sheet knows it."""
        return self._numbers.setdefault(thumbnail_uri(picture), len(self._numbers))


def thumbnail_uri(picture: Picture) -> str:
    """A picture as a data URI: as it is where it is small, else averaged to 112 pixels.

    Small pictures are PNG, exact to the pixel; averaged ones JPEG, a fraction of that.

    >>> thumbnail_uri(np.zeros((2, 2, 3)))[:22]
    'data:image/png;base64,'
    """
    pixels = np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)
    image = Image.fromarray(pixels)
    if max(image.size) <= _SMALL:
        return _uri(image, "png")
    image.thumbnail((_LARGEST, _LARGEST), Image.Resampling.BOX)
    return _uri(image, "jpeg")


def figure_uri(fig: Figure) -> str:
    """A figure as a data URI: PNG, or JPEG where photographs make that smaller."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=_DPI)
    image = Image.open(buffer).convert("RGB")
    return min(_uri(image, "png"), _uri(image, "jpeg"), key=len)


def _uri(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
