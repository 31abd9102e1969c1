"""A query, its neighbors and the members of its region."""

from typing import Any, Unpack

import torch
from torch import Generator

from captum_rdr._arguments import check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.metrics._labels import without_query
from captum_rdr.visualization.sheet import FigureAxes, FigureOptions
from captum_rdr.visualization.subject import Subject, subject_of
from captum_rdr.visualization.tiles import Row, draw


def visualize_region(
    region: Region,
    rdr: RelaxedDecisionRegion,
    dataset: Any,
    query: Any = None,
    *,
    n_members: int = 16,
    generator: Generator | None = None,
    **figure: Unpack[FigureOptions],
) -> FigureAxes:
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
     shown.', 'Query and 3 of 3 neighbors, nearest first']
    """
    check_whole("n_members", n_members)
    subject = subject_of(region, rdr, dataset, query)
    return draw(region_rows(subject, n_members, generator), **figure)


def region_rows(
    subject: Subject, n_members: int, generator: Generator | None = None
) -> list[Row]:
    """What `visualize_region` shows, row by row."""
    region = subject.region
    near = without_query(region.neighbors, region)
    others = without_query(region.members, region)
    far = subject.ranked(others[~torch.isin(others, near)], generator)
    hidden = torch.cat([near[n_members:], far[n_members:]])
    n_shown = int((~torch.isin(region.members, hidden)).sum())
    form = "at {:.3g}" if region.distances.is_floating_point() else "{} away"
    away = dict(zip(region.neighbors.tolist(), region.distances.tolist(), strict=True))
    notes = [form.format(away[row]) for row in near[:n_members].tolist()]
    neighbors = subject.tiles(near[:n_members], notes)
    further = subject.tiles(far[:n_members])
    shown = f"{n_shown} of {len(region.members)} members shown."
    few = f"Query and {len(neighbors)} of {len(near)} neighbors, nearest first"
    order = subject.order if generator is None else "drawn at random"
    return [
        *subject.headed(f"{subject.described} {shown}"),
        Row(few, [subject.tile, *neighbors]),
        Row(f"{len(further)} of {len(far)} further members, {order}", further),
    ]
