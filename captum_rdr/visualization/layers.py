"""One query in several layers: the members in each, and how far they are the same."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Unpack

import numpy as np

from captum_rdr._arguments import check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.metrics._regions import jaccard
from captum_rdr.visualization import sheet
from captum_rdr.visualization.reference import as_reference
from captum_rdr.visualization.subject import Subject, banks_of
from captum_rdr.visualization.tiles import Part, Row, draw

_CELL = 0.36


def visualize_layers(
    regions: Sequence[Region],
    rdr: RelaxedDecisionRegion,
    dataset: Any,
    query: Any = None,
    *,
    n_members: int = 7,
    **figure: Unpack[sheet.FigureOptions],
) -> sheet.FigureAxes:
    """Draw members of one query's region in each layer, and how much they overlap.

    Below the rows stands the Jaccard index of each two layers' members: a table for three
    layers or more.

    Args:
        regions: the query's region in each layer, in the layers' order.
        rdr: fitted for a list of layers.
        dataset: the reference set that was fitted, or a `Reference` of it.
        query: the input, without the batch dimension, or a tuple of it, its class and
            the class that the model predicts; not needed where the bank holds it.
        n_members: members to show in each layer at most, the nearest first.
        **figure: see `FigureOptions`.

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
    >>> fig, ax = visualize_layers(regions, rdr, data, use_pyplot=False)
    >>> [text.get_text()[:18] for text in ax.texts][-1]
    'Members in common:'
    """
    check_whole("n_members", n_members)
    banks, names = banks_of(rdr), rdr.reader.names
    if len(regions) != len(banks):
        raise ValueError(
            f"regions has {len(regions)} items for {len(banks)} layers; give the query's "
            "region in each, e.g. [found[0] for found in regions_by_layer]"
        )
    reference = as_reference(dataset)
    subjects = []
    for region, bank in zip(regions, banks, strict=True):
        region.check_layer(bank.layer_shape, bank.fingerprint)
        subjects.append(Subject(region, bank, reference, query))
    known = (one for one in subjects if one.region.query is not None)
    tile = next(known, subjects[0]).tile
    parts: list[Part] = []
    for name, subject in zip(names, subjects, strict=True):
        shown = subject.tiles(subject.ranked()[:n_members])
        parts += subject.headed(f"Layer {name}: {subject.counted(shown)}")
        parts.append(Row("", [tile, *shown]))
    shared = overlaps(regions)
    if len(regions) == 2:
        text = f"Members in common: {shared[0][1]:.2f} (Jaccard index)"
        parts.append(Row(text))
    elif len(regions) > 2:
        parts.append(Row("Members in common (Jaccard index)"))
        parts.append(partial(_overlap_block, shared, names))
    return draw(parts, **figure)


def overlaps(regions: Sequence[Region]) -> list[list[float]]:
    """The Jaccard index of each two regions' members."""
    return [[jaccard(a.members, b.members) for b in regions] for a in regions]


def _overlap_block(
    values: Sequence[Sequence[float]], names: Sequence[str], width: float
) -> sheet.Block:
    """A table of Jaccard indices, darker where more is in common."""
    count, margin = len(names), 1.1
    across = min(0.9, (width - margin) / count)
    below = [sheet.shortened(name, across - 0.04, 8) for name in names]

    def draw(canvas: sheet.Canvas, x: float, y: float) -> None:
        ax = canvas.plot(x + margin, y, across * count, _CELL * count)
        ax.imshow(values, cmap="Blues", vmin=0, vmax=1.4, aspect="auto")
        ax.set_xticks(range(count), below)
        ax.set_yticks(range(count), [sheet.shortened(one, 1, 8) for one in names])
        for (i, j), value in np.ndenumerate(np.array(values)):
            size = 8 * canvas.scale
            ax.text(j, i, f"{value:.2f}", size=size, ha="center", va="center")

    return sheet.Block(_CELL * count + 0.3, draw)
