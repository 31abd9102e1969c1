"""A query, its neighbors and the members of its region."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Unpack

import torch
from torch import Generator, Tensor

from captum_rdr._arguments import check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.metrics._labels import without_query
from captum_rdr.visualization import sheet, tiles
from captum_rdr.visualization.reference import Reference, as_reference


def visualize_region(
    region: Region,
    rdr: RelaxedDecisionRegion,
    dataset: Any,
    query: Any = None,
    *,
    n_members: int = 16,
    generator: Generator | None = None,
    **figure: Unpack[sheet.FigureOptions],
) -> sheet.FigureAxes:
    """Draw a query, its neighbors in S and the further members of its region.

    Below each picture stand its label, the model's prediction (behind an arrow), how far
    it is away (in neurons, for neighbors by the distance that chose them) or how evident,
    and where some may differ, in how many principal neurons it does. A wrong prediction
    is framed in orange, the query in blue. The figure says how many members are shown,
    and what a test of the region found.

    Args:
        region: the region to show.
        rdr: fitted; the region is one of its own.
        dataset: the reference set that was fitted, or a `Reference` of it, which also
            knows labels and predictions.
        query: the input, without the batch dimension, or a tuple of it, its class and
            the class that the model predicts; not needed where the bank holds it.
        n_members: neighbors, and further members, to show at most.
        generator: draws the further members at random; None for the nearest first.
        **figure: see `FigureOptions`.

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
    >>> fig, ax = visualize_region(region, rdr, data, use_pyplot=False)
    >>> [text.get_text() for text in ax.texts][:2]
    ['5 principal neurons of 16 (3 active, 2 inactive), all must agree. 4 of 4 members
     shown.', 'Query and its 3 neighbors, nearest first']
    """
    check_whole("n_members", n_members)
    _, bank = tiles.layer_of(region, rdr)
    reference = as_reference(dataset)
    tile = tiles.of_query(region.query, reference, query)
    rows = region_rows(region, bank, reference, tile, n_members, generator)
    return sheet.draw(partial(tiles.blocks, rows), **figure)


def region_rows(
    region: Region,
    bank: ConfigurationBank,
    reference: Reference,
    query: tiles.Tile,
    n_members: int,
    generator: Generator | None = None,
) -> list[tiles.Row]:
    """What `visualize_region` shows, row by row."""
    near = without_query(region.neighbors, region)
    is_other = region.neighbors != (-1 if region.query is None else region.query)
    form = "at {:.3g}" if region.distances.is_floating_point() else "{} away"
    notes = [form.format(far) for far in region.distances[is_other].tolist()]
    others = without_query(region.members, region)
    far = tiles.ranked(region, bank, others[~torch.isin(others, near)], generator)
    hidden = torch.cat([near[n_members:], far[n_members:]])
    n_shown = int((~torch.isin(region.members, hidden)).sum())

    def shown(rows: Tensor, notes: Sequence[str] | None = None) -> list[tiles.Tile]:
        return tiles.of_members(region, bank, rows[:n_members], reference, notes)

    counted = f"{n_shown} of {len(region.members)} members shown."
    order = tiles.order_name(region, generator)
    return [
        tiles.Row(f"{tiles.described(region)} {counted}"),
        *tiles.significance_rows(region),
        tiles.Row(
            _neighbors_heading(len(near), n_members),
            [query, *shown(near, notes[:n_members])],
        ),
        tiles.Row(_further_heading(len(far), n_members, order), shown(far)),
    ]


def _neighbors_heading(count: int, most: int) -> str:
    if count == 0:
        return "Query, which has no neighbor"
    few = "" if count <= most else f"{most} of "
    return f"Query and {few}its {count} neighbor{'s' * (count > 1)}, nearest first"


def _further_heading(count: int, most: int, order: str) -> str:
    if count == 0:
        return "No further members"
    few = f"All {count}" if count <= most else f"{most} of {count}"
    return f"{few} further members, {order}"
