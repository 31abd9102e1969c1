"""Where in the input a region's concept is."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Unpack

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

Array = npt.NDArray[Any]

Attribute = Callable[[Tensor], Tensor]
"""Attributes inputs ``(B, C, H, W)``: the ``attribute`` method of a Captum attribution."""


def visualize_concept(
    region: Region,
    rdr: RelaxedDecisionRegion,
    attribute: Attribute,
    dataset: Any,
    query: Any = None,
    *,
    n_members: int = 4,
    method: str = "blended_heat_map",
    sign: str = "all",
    cmap: Any = None,
    **figure: Unpack[sheet.FigureOptions],
) -> sheet.FigureAxes:
    """Draw where in the query and in members the region's concept is.

    The first row shows the images, the second what any Captum attribution of the
    region's concept score gives for them, drawn by
    `captum.attr.visualization.visualize_image_attr`. An image whose attributions are all
    zero stays bare. Behind a ReLU that happens to gradients where every principal neuron
    must be inactive: explain the layer before it then.

    Args:
        region: the region to show.
        rdr: fitted; the region is one of its own.
        attribute: from a batch of inputs to attributions of the same shape, e.g.
            ``Saliency(rdr.concept_score(region)).attribute``.
        dataset: the reference set that was fitted, or a `Reference` of it.
        query: the input, without the batch dimension, or a tuple of it, its class and
            the class that the model predicts; not needed where the bank holds it.
        n_members: members to show beside the query at most, the nearest first.
        method: as for ``visualize_image_attr``.
        sign: as for ``visualize_image_attr``.
        cmap: colormap of the attributions, as for ``visualize_image_attr``.
        **figure: see `FigureOptions`.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the region is not that of ``rdr``, the query is missing, the data set
            is too small, or an image or its attribution cannot be drawn.

    >>> from captum.attr import Saliency
    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model = torch.nn.Conv2d(1, 6, 3)
    >>> data = torch.rand(30, 1, 8, 8)
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> region = rdr.attribute_members([3], 4, 5, weighting="evidence")[0]
    >>> attribute = Saliency(rdr.concept_score(region)).attribute
    >>> fig, ax = visualize_concept(region, rdr, attribute, data, use_pyplot=False)
    >>> len(ax.child_axes) in (4, 6, 8, 10)  # query and members, each twice
    True
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
    for number in np.flatnonzero(bare):
        notes = (*shown[number].notes, "no attribution")
        shown[number] = replace(shown[number], notes=notes)
    few = f"{len(rows)} of {len(region.members)} members"
    heading = f"Query and {few}, {tiles.order_name(region)}"

    def draw_attribution(ax: Axes, number: int) -> None:
        picture = shown[number].picture
        if bare[number]:
            tiles.show_picture(ax, picture)
        else:
            _overlay(ax, attributions[number], picture, method, sign, cmap)

    def content(width: float) -> list[sheet.Block]:
        side = min(1.4, (width + _GAP) / max(len(shown), 5) - _GAP)
        pairs = tiles.block(shown, side, _GAP, draw_attribution)
        return [*tiles.headed(region, heading, width), pairs, sheet.spacer(0.01)]

    return sheet.draw(content, **figure)


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
    ax: Axes, values: Array, picture: Picture, method: str, sign: str, cmap: Any
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
            cmap=cmap,
            use_pyplot=False,
        )
