"""Images as text that a page can hold."""

import base64
import io

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from captum_rdr.visualization.reference import Picture

_SMALL = 64  # pixels along the longer side of a picture that is stored as it is
_DPI, _INK = 110, "#7a838f"  # of figures


def thumbnail_uri(picture: Picture, side: int = 112) -> str:
    """A picture as a data URI: as it is where it is small, else averaged.

    Small pictures are PNG, exact to the pixel; averaged ones JPEG, a fraction of that.

    Args:
        picture: the picture.
        side: pixels along the longer side, at most.

    >>> thumbnail_uri(np.zeros((2, 2, 3)))[:22]
    'data:image/png;base64,'
    """
    pixels = np.round(255 * np.clip(picture, 0, 1)).astype(np.uint8)
    image = Image.fromarray(pixels)
    if max(image.size) <= _SMALL:
        return _uri(image, "png")
    image.thumbnail((side, side), Image.Resampling.BOX)
    return _uri(image, "jpeg")


def veil_uri(shares: Picture, aspect: float) -> str:
    """A veil over what matters little, as a data URI of a black image with alpha.

    Args:
        shares: how much each place matters, from 0 to 1, ``(H, W)``.
        aspect: height of the picture below it in shares of its width.

    >>> veil_uri(np.eye(2), 1.0)[:22]
    'data:image/png;base64,'
    """
    alpha = np.round(215 * (1 - np.clip(shares, 0, 1))).astype(np.uint8)
    size = [max(1, round(28 * one / max(1.0, aspect))) for one in (1.0, aspect)]
    fine = Image.fromarray(alpha).resize((size[0], size[1]), Image.Resampling.BICUBIC)
    return _uri(Image.merge("LA", [Image.new("L", fine.size), fine]), "png")


def figure_uri(fig: Figure, *, on_any: bool = False) -> str:
    """A figure without ground as a data URI.

    Args:
        fig: the figure.
        on_any: make its words of a gray that reads on light and dark: a page can turn
            the colors of a chart around, but not those of photos.

    >>> figure_uri(Figure(figsize=(1, 1)))[:23]
    'data:image/webp;base64,'
    """
    for text in fig.findobj(Text):
        if on_any and max(to_rgb(text.get_color())) < 0.5:
            text.set_color(_INK)
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=_DPI, transparent=True)
    return _uri(Image.open(buffer), "webp")


def _uri(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
