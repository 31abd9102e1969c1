"""Where in the input a region's concept is."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from captum.attr import visualization
from matplotlib.axes import Axes
from torch import Tensor

from captum_rdr._arguments import check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.visualization import sheet, tiles
from captum_rdr.visualization.reference import Picture, as_batch, as_reference, input_of

_GAP = 0.08
_SCALES: dict[str, Any] = {
    "positive": "Blues",
    "negative": "Oranges",
    "absolute_value": "Purples",
    "all": sheet.SIGNED,
}

_ENDS = {
    "positive": ("none", "for the concept"),
    "negative": ("none", "against the concept"),
    "absolute_value": ("none", "for or against the concept"),
    "all": ("against the concept", "for the concept"),
}

Array = npt.NDArray[Any]

Attribute = Callable[[Tensor], Tensor]
"""Attributes inputs ``(B, C, H, W)``: the ``attribute`` method of a Captum attribution."""


def visualize_concept(
    region: Region,
    rdr: RelaxedDecisionRegion,
    dataset: Any,
    query: Any = None,
    *,
    attribute: Attribute,
    n_members: int = 4,
    method: str = "blended_heat_map",
    sign: str = "all",
    outlier_perc: float = 2,
    alpha_overlay: float = 0.5,
    show_colorbar: bool = True,
    cmap: Any = None,
    **figure: Unpack[sheet.FigureOptions],
) -> sheet.FigureAxes:
    """Draw where in the query and in members the region's concept is.

    The first row shows the images, the second what any Captum attribution of the
    region's concept score gives for them, alone, and the third both, drawn by
    `captum.attr.visualization.visualize_image_attr`. An image whose attributions are all
    zero stays bare. Behind a ReLU that happens to gradients where every principal neuron
    must be inactive: explain the layer before it then.

    Args:
        region: the region to show.
        rdr: fitted; the region is one of its own.
        dataset: the reference set that was fitted, or a `Reference` of it.
        query: the input, without the batch dimension, or a tuple of it, its class and
            the class that the model predicts; not needed where the bank holds it.
        attribute: from a batch of inputs to attributions of the same shape, e.g.
            ``Saliency(rdr.concept_score(region)).attribute``.
        n_members: members to show beside the query at most, the nearest first.
        method: of the third row, as for ``visualize_image_attr``; ``"heat_map"`` leaves
            that row out.
        sign: as for ``visualize_image_attr``.
        outlier_perc: as for ``visualize_image_attr``: the color scale of each image ends
            where this share of its attribution, in percent, lies beyond.
        alpha_overlay: as for ``visualize_image_attr``.
        show_colorbar: say below what the colors mean.
        cmap: colormap of the attributions, as for ``visualize_image_attr``; by default
            from orange, against the concept, to blue, for it.
        **figure: see `FigureOptions`.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the region is not that of ``rdr``, the query is missing, the data set
            is too small, or an image or its attribution cannot be drawn.

    >>> from captum.attr import Saliency
    >>> from captum_rdr import RelaxedDecisionRegion
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Conv2d(1, 6, 3)
    >>> data = torch.rand(30, 1, 8, 8)
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> region = rdr.attribute_members([3], 4, 5, weighting="evidence")[0]
    >>> attribute = Saliency(rdr.concept_score(region)).attribute
    >>> fig, ax = visualize_concept(
    ...     region, rdr, data, attribute=attribute, n_members=0, use_pyplot=False
    ... )
    >>> len(ax.child_axes)  # the query three times, and the color bar
    4
    """
    check_whole("n_members", n_members, 0)
    _, bank = tiles.layer_of(region, rdr)
    reference = as_reference(dataset)
    tile = tiles.of_query(region.query, reference, query)
    rows = tiles.ranked(region, bank)[:n_members]
    shown = [tile, *tiles.of_members(region, bank, rows, reference)]
    own = reference.input(region.query or 0) if query is None else input_of(query)
    inputs = [own, *(reference.input(row) for row in rows.tolist())]
    attributions = _attributed(attribute, inputs)
    bare = [not _has_sign(values, sign) for values in attributions]
    shown = list(map(_noted, shown, bare))
    few = f"{len(rows)} of {len(region.members)} members"
    heading = f"Query and {few}, {tiles.order_name(region)}"

    colors = matplotlib.colormaps.get_cmap(cmap or _SCALES.get(sign, sheet.SIGNED))
    options = (sign, colors, outlier_perc, alpha_overlay)

    draw = partial(_draw_attribution, shown, attributions, options)
    lower = [partial(draw, one) for one in dict.fromkeys(("heat_map", method))]

    def content(width: float) -> list[sheet.Block]:
        side = min(1.4, (width + _GAP) / max(len(shown), 5) - _GAP)
        blocks = [*tiles.headed(region, heading, width)]
        blocks.append(tiles.block(shown, side, _GAP, lower))
        if show_colorbar and not all(bare):
            blocks.append(_colorbar(colors, sign))
        return blocks

    return sheet.draw(content, **figure)


def _draw_attribution(
    shown: Sequence[tiles.Tile],
    attributions: Sequence[Array],
    options: tuple[str, Any, float, float],
    method: str,
    ax: Axes,
    number: int,
) -> None:
    """Draw the attribution of a tile, by the arguments of `_overlay`, where it has one."""
    picture = shown[number].picture
    if _has_sign(attributions[number], options[0]):
        _overlay(ax, attributions[number], picture, method, *options)
    elif method != "heat_map":
        tiles.show_picture(ax, picture)
    else:
        ax.set_axis_off()


def _noted(tile: tiles.Tile, is_bare: bool) -> tiles.Tile:
    return replace(tile, notes=(*tile.notes, *["no attribution"] * is_bare))


def _colorbar(colors: Any, sign: str) -> sheet.Block:
    """What the colors mean, each image by its own scale."""
    low, high = _ENDS.get(sign, _ENDS["all"])
    start = sheet.text_width(low, 8) + 0.1

    def draw(canvas: sheet.Canvas, x: float, y: float) -> None:
        canvas.text(x, y, low)
        ax = canvas.inset(x + start, y + 0.01, 1.6, 0.12)
        ax.imshow(np.linspace(0, 1, 256)[None], cmap=colors, aspect="auto")
        ax.set(xticks=[], yticks=[])
        canvas.text(x + start + 1.7, y, f"{high}, by each image's own scale")

    return sheet.Block(0.22, draw)


def _attributed(attribute: Attribute, inputs: Sequence[Any]) -> list[Array]:
    """Attributions ``(H, W, C)`` of each input, in shares of their largest."""
    batch = as_batch(inputs).detach().requires_grad_()
    found = attribute(batch)
    if not isinstance(found, Tensor) or found.shape != batch.shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"attribute gave {got} for inputs of shape {tuple(batch.shape)}; give the "
            "attribute method of an attribution to the input, e.g. "
            "Saliency(rdr.concept_score(region)).attribute"
        )
    values = found.detach().cpu().double()
    if not bool(values.isfinite().all()):
        raise ValueError(
            "attribute gave NaN or infinite values; check the inputs for NaN, or use "
            "another attribution"
        )
    # Captum warns of small attributions although it scales them anyway.
    largest = values.abs().amax((1, 2, 3), keepdim=True)
    scaled = values / torch.where(largest > 0, largest, 1)
    return [one.permute(1, 2, 0).numpy() for one in scaled]


def _has_sign(values: Array, sign: str) -> bool:
    """Whether any place has an attribution of the wanted sign."""
    total = values.sum(2)
    wanted = {"positive": total > 0, "negative": total < 0}.get(sign, total != 0)
    return bool(wanted.any())


def _overlay(
    ax: Axes,
    values: Array,
    picture: Picture,
    method: str,
    sign: str,
    cmap: Any,
    outlier_perc: float,
    alpha_overlay: float,
) -> None:
    """Let Captum draw attributions over a picture."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attempting to normalize by value")
        visualization.visualize_image_attr(
            values,
            np.round(255 * picture).astype(np.uint8),
            method,
            sign,
            plt_fig_axis=(ax.figure, ax),
            outlier_perc=outlier_perc,
            cmap=cmap,
            alpha_overlay=alpha_overlay,
            use_pyplot=False,
        )
