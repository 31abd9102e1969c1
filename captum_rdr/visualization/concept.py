"""Where in the input a region's concept is."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from captum.attr import visualization
from torch import Tensor

from captum_rdr._arguments import check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.visualization.canvas import (
    INK,
    Block,
    Canvas,
    FigureAxes,
    draw_sheet,
    paragraph,
    shortened,
)
from captum_rdr.visualization.members import (
    member_tiles,
    order_name,
    ranked,
    significance_rows,
)
from captum_rdr.visualization.query import bank_of, find_query, layer_index
from captum_rdr.visualization.reference import as_reference
from captum_rdr.visualization.tiles import Tile, frame_of, row_blocks, show_picture

_GAP = 0.08

Attribute = Callable[[Tensor], Tensor]
"""Attributes inputs ``(B, C, H, W)``: the ``attribute`` method of a Captum attribution."""


def visualize_concept(
    rdr: RelaxedDecisionRegion,
    region: Region,
    attribute: Attribute,
    dataset: Any,
    query: Any = None,
    *,
    query_label: int | None = None,
    query_prediction: int | None = None,
    n_members: int = 4,
    method: str = "blended_heat_map",
    sign: str = "all",
    plt_fig_axis: FigureAxes | None = None,
    use_pyplot: bool = True,
    fig_size: tuple[float, float] | None = None,
    title: str | None = None,
    cmap: Any = None,
) -> FigureAxes:
    """Draw where in the query and in members the region's concept is.

    The first row shows the images, the second what any Captum attribution of the
    region's concept score gives for them, drawn by
    `captum.attr.visualization.visualize_image_attr`. An image whose attributions are all
    zero stays bare. Behind a ReLU that happens to gradients where every principal neuron
    must be inactive: explain the layer before it then.

    Args:
        rdr: fitted; the region is one of its own.
        region: the region to show.
        attribute: from a batch of inputs to attributions of the same shape, e.g.
            ``Saliency(rdr.concept_score(region)).attribute``.
        dataset: the reference set that was fitted, or a `Reference` of it.
        query: the input, without the batch dimension; not needed where the bank holds
            it.
        query_label: class of the given query.
        query_prediction: class that the model predicts for the given query.
        n_members: members to show beside the query at most, the nearest first.
        method: as for ``visualize_image_attr``.
        sign: as for ``visualize_image_attr``.
        plt_fig_axis: figure and Axes to draw in, as for Captum's visualizers.
        use_pyplot: make a new figure known to pyplot; it is never shown.
        fig_size: size of a new figure, in inches; None for 6 wide and as high as needed.
        title: a heading.
        cmap: colormap of the attributions, as for ``visualize_image_attr``.

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
    >>> fig, ax = visualize_concept(rdr, region, attribute, data, use_pyplot=False)
    >>> len(ax.child_axes) in (4, 6, 8, 10)  # query and members, each twice
    True
    """
    check_whole("n_members", n_members, 0)
    reference = as_reference(dataset)
    asked = find_query(
        rdr, region.query, reference, query, query_label, query_prediction
    )
    bank = bank_of(rdr, region)
    states = asked.states[layer_index(rdr, region)]
    others = region.members[region.members != (-1 if asked.row is None else asked.row)]
    rows = ranked(region, others, bank, states)[:n_members]
    tiles = (asked.tile, *member_tiles(region, rows, bank, reference))
    own = reference.input(asked.row or 0) if query is None else query
    inputs = [own, *(reference.input(row) for row in rows.tolist())]
    attributions = _attributed(attribute, inputs)
    order = order_name(region, None)
    heading = f"Query and {len(rows)} of {len(region.members)} members, {order}"

    def content(width: float) -> list[Block]:
        return [
            paragraph(heading, width),
            *row_blocks(significance_rows(region), width),
            _pairs_block(tiles, attributions, width, (method, sign, cmap)),
        ]

    return draw_sheet(content, plt_fig_axis, use_pyplot, fig_size, title)


def _attributed(attribute: Attribute, inputs: list[Tensor]) -> list[npt.NDArray[Any]]:
    """Attributions ``(H, W, C)`` of each input, in shares of their largest."""
    batch = torch.stack(inputs).detach().clone().requires_grad_()
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


def _pairs_block(
    tiles: tuple[Tile, ...],
    attributions: list[npt.NDArray[Any]],
    width: float,
    style: tuple[str, str, Any],
) -> Block:
    """Pictures above, attributions below, captions under both."""
    side = min(1.4, (width + _GAP) / max(len(tiles), 5) - _GAP)
    captions = [
        (*tile.lines, *([] if _has_sign(values, style[1]) else ["no attribution"]))
        for tile, values in zip(tiles, attributions, strict=True)
    ]
    n_lines = max(len(lines) for lines in captions)

    def draw(canvas: Canvas, x: float, y: float) -> None:
        for index, (tile, values) in enumerate(zip(tiles, attributions, strict=True)):
            start = x + index * (side + _GAP)
            upper = canvas.inset(start, y, side, side)
            show_picture(upper, tile.picture, frame_of(tile))
            lower = canvas.inset(start, y + side + _GAP, side, side)
            _draw_attribution(lower, values, tile, style)
            for number, line in enumerate(captions[index]):
                below = y + 2 * side + _GAP + 0.04 + 0.125 * number
                text = shortened(line, side, 7)
                canvas.text(start + side / 2, below, text, 7, ha="center", color=INK)

    return Block(2 * side + _GAP + 0.125 * n_lines + 0.1, draw)


def _has_sign(values: npt.NDArray[Any], sign: str) -> bool:
    """Whether any place has an attribution of the wanted sign."""
    total = values.sum(2)
    wanted = {"positive": total > 0, "negative": total < 0}.get(sign, total != 0)
    return bool(wanted.any())


def _draw_attribution(
    ax: Any, values: npt.NDArray[Any], tile: Tile, style: tuple[str, str, Any]
) -> None:
    """Let Captum draw; the picture alone where nothing has the wanted sign."""
    method, sign, cmap = style
    if not _has_sign(values, sign):
        show_picture(ax, tile.picture)
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attempting to normalize by value")
        visualization.visualize_image_attr(
            values,
            np.round(255 * tile.picture).astype(np.uint8),
            method,
            sign,
            plt_fig_axis=(ax.figure, ax),
            cmap=cmap,
            use_pyplot=False,
        )
