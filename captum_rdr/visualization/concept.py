"""Where in the input a region's concept is."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

import numpy as np
from captum.attr import visualization
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from torch import Tensor

from captum_rdr._arguments import check_choice
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.visualization import sheet, subjects, tiles
from captum_rdr.visualization.reference import Array, as_batch

_GAP = 0.08
_FOR = ("■", "for the concept", sheet.BLUE)
_AGAINST = ("■", "against the concept", sheet.ORANGE)
_KEYS: dict[str, tuple[Any, list[tuple[str, str, str]]]] = {
    "all": (sheet.SIGNED, [_FOR, _AGAINST]),
    "positive": ("Blues", [_FOR]),
    "negative": ("Oranges", [_AGAINST]),
    "absolute_value": ("Purples", [("■", "for or against it", "#54278F")]),
}
"""Colors of each sign of attributions, and what they mean."""

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
    show_colorbar: bool = False,
    **figure: Unpack[sheet.FigureOptions],
) -> sheet.FigureAxes:
    """Draw where in the query and in members the region's concept is.

    The first row shows the images, the second what any Captum attribution of the
    region's concept score gives for them, alone, and the third both, drawn by
    `captum.attr.visualization.visualize_image_attr`. What is below an image stays
    bare where its attributions are all zero. Behind a ReLU that happens to gradients
    where every principal neuron must be inactive: explain the layer before it then.

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
        show_colorbar: as for ``visualize_image_attr``: one bar for all, since the values
            of each image are scaled to it.
        **figure: see `FigureOptions`.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the region is not that of ``rdr``, the query is missing, the data set
            is too small, or an image or its attribution cannot be drawn.

    >>> import torch
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
    >>> len(ax.child_axes)  # the query three times
    3
    """
    check_choice("sign", sign, list(_KEYS))
    subject = subjects.of(region, rdr, dataset, query)
    rows = subject.ranked(n_members)
    items = [subject.item, *map(subject.reference.item, rows.tolist())]
    attributions = _attributed(attribute, items)
    bare = [_is_bare(values, sign) for values in attributions]
    shown = [
        replace(one, notes=(*one.notes, *["no attribution"] * is_bare))
        for one, is_bare in zip([subject.tile, *subject.tiles(rows)], bare, strict=True)
    ]
    options: Any = {"sign": sign, "outlier_perc": outlier_perc, "cmap": _KEYS[sign][0]}
    options["alpha_overlay"] = alpha_overlay

    def lower(way: str, ax: Axes, number: int) -> None:
        if bare[number]:
            ax.set_axis_off()
            return
        image = np.round(255 * shown[number].picture).astype(np.uint8)
        options.update(plt_fig_axis=(ax.figure, ax), use_pyplot=False)
        with warnings.catch_warnings():  # of small attributions, which it scales anyway
            warnings.filterwarnings("ignore", "Attempting to normalize by value")
            draw = visualization.visualize_image_attr
            draw(attributions[number], image, way, **options)

    side = min(1.4, (sheet.WIDTH + _GAP) / max(len(shown), 5) - _GAP)
    ways = [partial(lower, way) for way in dict.fromkeys(("heat_map", method))]
    parts: list[tiles.Part] = [*subject.headed(f"Query and {subject.counted(rows)}")]
    parts.append(tiles.block(shown, side, _GAP, ways))
    if not all(bare):
        parts += _key(sign, show_colorbar)
    return tiles.draw(parts, **figure)


def _is_bare(values: Array, sign: str) -> bool:
    """Whether no place has an attribution of the wanted sign."""
    total = values.sum(2)
    wanted = {"positive": total > 0, "negative": total < 0}.get(sign, total != 0)
    return not wanted.any()


def _key(sign: str, show_colorbar: bool) -> list[tiles.Part]:
    """What the colors mean."""
    cmap, names = _KEYS[sign]

    def bar(canvas: sheet.Canvas, x: float, y: float) -> None:
        colors = ScalarMappable(Normalize(-1 if sign == "all" else 0, 1), cmap)
        ax = canvas.plot(x + 0.1, y, 2.0, 0.1)
        ax.figure.colorbar(colors, ax, orientation="horizontal")

    heading = tiles.Row("Colors, by each image's own scale:")
    return [heading, sheet.key(names), *[sheet.Block(0.35, bar)] * show_colorbar]


def _attributed(attribute: Attribute, items: Sequence[Any]) -> list[Array]:
    """Attributions ``(H, W, C)`` of each input."""
    batch = as_batch(items).detach().requires_grad_()
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
    return [one.permute(1, 2, 0).numpy() for one in values]
