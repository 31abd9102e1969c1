"""A query, its neighbors and the members of its region."""

from functools import partial
from typing import Any

import torch
from torch import Generator

from captum_rdr._arguments import check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.visualization.canvas import FigureAxes, draw_sheet
from captum_rdr.visualization.members import (
    described,
    member_tiles,
    order_name,
    outside_neighbors,
    ranked,
    significance_rows,
)
from captum_rdr.visualization.query import Query, bank_of, find_query, layer_index
from captum_rdr.visualization.reference import Reference, as_reference
from captum_rdr.visualization.tiles import Tile, TileRow, row_blocks


def visualize_region(
    rdr: RelaxedDecisionRegion,
    region: Region,
    dataset: Any,
    query: Any = None,
    *,
    query_label: int | None = None,
    query_prediction: int | None = None,
    n_members: int = 16,
    generator: Generator | None = None,
    plt_fig_axis: FigureAxes | None = None,
    use_pyplot: bool = True,
    fig_size: tuple[float, float] | None = None,
    title: str | None = None,
    cmap: Any = None,
) -> FigureAxes:
    """Draw a query, its neighbors in S and the further members of its region.

    Below each picture stand its label, the model's prediction (behind an arrow) and in
    how many principal neurons it differs. A wrong prediction is framed in orange, the
    query in blue. The figure says how many members are shown, and what a test of the
    region found.

    Args:
        rdr: fitted; the region is one of its own.
        region: the region to show.
        dataset: the reference set that was fitted, or a `Reference` of it, which also
            knows labels and predictions.
        query: the input, without the batch dimension; not needed where the bank holds
            it.
        query_label: class of the given query.
        query_prediction: class that the model predicts for the given query.
        n_members: neighbors, and further members, to show at most.
        generator: draws the further members at random; None for the nearest first.
        plt_fig_axis: figure and Axes to draw in, as for Captum's visualizers.
        use_pyplot: make a new figure known to pyplot; it is never shown.
        fig_size: size of a new figure, in inches; None for 6 wide and as high as needed.
        title: a heading.
        cmap: colormap of images without color; gray by default.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the region is not that of ``rdr``, the query is missing, the data set
            is too small, or an image cannot be drawn.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model = torch.nn.Flatten()
    >>> data = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> rdr = RelaxedDecisionRegion(model, model, threshold=0.5)
    >>> region = rdr.fit(data, show_progress=False).attribute_members([3], 4, 5)[0]
    >>> fig, ax = visualize_region(rdr, region, data, use_pyplot=False)
    >>> [text.get_text() for text in ax.texts][:2]
    ['5 principal neurons of 16 (3 active, 2 inactive), all must agree. 4 of 4 members
     shown.', 'Query and its 3 neighbors, nearest first']
    """
    check_whole("n_members", n_members)
    layer_index(rdr, region)  # a region of another layer is refused at once
    reference = as_reference(dataset)
    asked = find_query(
        rdr, region.query, reference, query, query_label, query_prediction, cmap
    )
    rows = region_rows(rdr, region, reference, asked, n_members, generator, cmap)
    return draw_sheet(
        partial(row_blocks, rows),
        plt_fig_axis,
        use_pyplot,
        fig_size,
        title,
    )


def region_rows(
    rdr: RelaxedDecisionRegion,
    region: Region,
    reference: Reference,
    query: Query,
    n_members: int,
    generator: Generator | None = None,
    cmap: Any = None,
) -> list[TileRow]:
    """What `visualize_region` shows, row by row."""
    bank = bank_of(rdr, region)
    states = query.states[layer_index(rdr, region)]
    neighbors = region.neighbors
    if region.query is not None:
        neighbors = neighbors[neighbors != region.query]
    further = outside_neighbors(region)
    near = neighbors[:n_members]
    far = ranked(region, further, bank, states, generator)[:n_members]
    own = [] if region.query is None else [region.query]
    shown = torch.cat([near, far, torch.tensor(own, dtype=torch.int64)])
    n_shown = int(torch.isin(region.members, shown).sum())
    summary = f"{described(region)}. {n_shown} of {len(region.members)} members shown."
    inside = (query.tile, *member_tiles(region, near, bank, reference, cmap))
    return [
        TileRow(summary),
        *significance_rows(region),
        TileRow(_neighbors_heading(len(near), len(neighbors)), inside),
        _further_row(
            member_tiles(region, far, bank, reference, cmap),
            len(further),
            order_name(region, generator),
        ),
    ]


def _neighbors_heading(shown: int, total: int) -> str:
    if total == 0:
        return "Query, which has no neighbor"
    few = "" if shown == total else f"{shown} of "
    return f"Query and {few}its {total} neighbor{'s' * (total > 1)}, nearest first"


def _further_row(tiles: tuple[Tile, ...], total: int, order: str) -> TileRow:
    if not total:
        return TileRow("No further members")
    if len(tiles) == total:
        return TileRow(f"All {total} further members, {order}", tiles)
    return TileRow(f"{len(tiles)} of {total} further members, {order}", tiles)
