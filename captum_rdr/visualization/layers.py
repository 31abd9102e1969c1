"""One query in several layers: the members in each, and how far they are the same."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from captum_rdr._arguments import check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.metrics._regions import jaccard as of_sets
from captum_rdr.visualization.canvas import (
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
from captum_rdr.visualization.query import Query, banks_of, find_query
from captum_rdr.visualization.reference import Reference, as_reference
from captum_rdr.visualization.tiles import TileRow, row_blocks

_CELL = 0.36


def jaccard(first: Region, second: Region) -> float:
    """Members that two regions share, as a share of those that either has.

    Jaccard (1901); 0 where neither has a member.

    >>> import torch
    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model = torch.nn.Identity()
    >>> data = torch.tensor([[1.0, 1, -1], [1, 1, 1], [-1, -1, 1], [-1, 1, 1]])
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> regions = rdr.attribute_members([0, 1], n_neighbors=2, n_neurons=1)
    >>> [region.members.tolist() for region in regions], round(jaccard(*regions), 2)
    ([[0, 1], [0, 1]], 1.0)
    """
    if not len(first.members) and not len(second.members):
        return 0.0
    return of_sets(first.members, second.members)


def visualize_layers(
    rdr: RelaxedDecisionRegion,
    regions: Sequence[Region],
    dataset: Any,
    query: Any = None,
    *,
    query_label: int | None = None,
    query_prediction: int | None = None,
    n_members: int = 7,
    plt_fig_axis: FigureAxes | None = None,
    use_pyplot: bool = True,
    fig_size: tuple[float, float] | None = None,
    title: str | None = None,
    cmap: Any = None,
) -> FigureAxes:
    """Draw members of one query's region in each layer, and how much they overlap.

    Below the rows stands the Jaccard index of each two layers' members.

    Args:
        rdr: fitted for a list of layers.
        regions: the query's region in each layer, in the layers' order.
        dataset: the reference set that was fitted, or a `Reference` of it.
        query: the input, without the batch dimension; not needed where the bank holds
            it.
        query_label: class of the given query.
        query_prediction: class that the model predicts for the given query.
        n_members: members to show in each layer at most, the nearest first.
        plt_fig_axis: figure and Axes to draw in, as for Captum's visualizers.
        use_pyplot: make a new figure known to pyplot; it is never shown.
        fig_size: size of a new figure, in inches; None for 6 wide and as high as needed.
        title: a heading.
        cmap: colormap of images without color; gray by default.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the regions are not one a layer, the query is missing, the data set
            is too small, or an image cannot be drawn.

    >>> import torch
    >>> from captum_rdr import RelaxedDecisionRegion
    >>> conv, flat = torch.nn.Conv2d(1, 6, 3), torch.nn.Flatten()
    >>> data = torch.rand(30, 1, 8, 8)
    >>> rdr = RelaxedDecisionRegion(torch.nn.Sequential(conv, flat), [conv, flat])
    >>> found = rdr.fit(data, show_progress=False).attribute_members([3], 2, 3)
    >>> regions = [region for (region,) in found]
    >>> fig, ax = visualize_layers(rdr, regions, data, use_pyplot=False)
    >>> "Members in common (Jaccard index)" in [text.get_text() for text in ax.texts]
    True
    """
    reference = as_reference(dataset)
    row = next((one.query for one in regions if one.query is not None), None)
    asked = find_query(rdr, row, reference, query, query_label, query_prediction, cmap)
    rows = layer_rows(rdr, regions, reference, asked, n_members, cmap)
    names = rdr.reader.names

    def content(width: float) -> list[Block]:
        blocks = row_blocks(rows, width)
        if len(regions) > 1:
            heading = paragraph("Members in common (Jaccard index)", width)
            blocks += [heading, _overlap_block(overlaps(regions), names, width)]
        return blocks

    return draw_sheet(content, plt_fig_axis, use_pyplot, fig_size, title)


def overlaps(regions: Sequence[Region]) -> npt.NDArray[np.float64]:
    """The Jaccard index of each two regions, ``(L, L)``."""
    return np.array([[jaccard(a, b) for b in regions] for a in regions])


def layer_rows(
    rdr: RelaxedDecisionRegion,
    regions: Sequence[Region],
    reference: Reference,
    query: Query,
    n_members: int,
    cmap: Any = None,
) -> list[TileRow]:
    """What `visualize_layers` shows, row by row."""
    check_whole("n_members", n_members)
    banks, rows = banks_of(rdr), []
    if len(regions) != len(banks):
        raise ValueError(
            f"regions has {len(regions)} items for {len(banks)} layers; give the query's "
            "region in each, e.g. [found[0] for found in regions_by_layer]"
        )
    layers = zip(rdr.reader.names, regions, banks, query.states, strict=True)
    for name, region, bank, states in layers:
        region.check_layer(bank.layer_shape, bank.fingerprint)
        others = region.members
        if query.row is not None:
            others = others[others != query.row]
        shown = ranked(region, others, bank, states)[:n_members]
        heading = (
            f"Layer {name}: {len(shown)} of {len(region.members)} members, "
            f"{order_name(region, None)}"
        )
        tiles = member_tiles(region, shown, bank, reference, cmap)
        rows += [TileRow(heading), *significance_rows(region)]
        rows.append(TileRow("", (query.tile, *tiles)))
    return rows


def _overlap_block(
    values: npt.NDArray[np.float64], names: Sequence[str], width: float
) -> Block:
    """A table of Jaccard indices, darker where more is in common."""
    count = len(names)
    margin = 1.1
    cell = min(0.9, (width - margin) / count)

    def draw(canvas: Canvas, x: float, y: float) -> None:
        ax = canvas.inset(x + margin, y + 0.22, cell * count, _CELL * count)
        ax.imshow(values, cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
        ax.set(xticks=[], yticks=[])
        for i in range(count):
            middle = y + 0.22 + (i + 0.5) * _CELL
            name = shortened(names[i], margin - 0.1, 7)
            canvas.text(x + margin - 0.07, middle, name, 7, ha="right", va="center")
            across = shortened(names[i], cell - 0.04, 7)
            canvas.text(x + margin + (i + 0.5) * cell, y + 0.08, across, 7, ha="center")
            for j in range(count):
                ax.text(
                    j,
                    i,
                    f"{values[i, j]:.2f}",
                    size=7 * canvas.scale,
                    ha="center",
                    va="center",
                )

    return Block(_CELL * count + 0.3, draw)
