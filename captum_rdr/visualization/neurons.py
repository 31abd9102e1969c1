"""Where in a layer's grid and channels the principal neurons sit."""

from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from captum_rdr._arguments import check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.axes import KINDS, LayerAxes, guessed_axes
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.visualization import sheet, subjects, tiles
from captum_rdr.visualization.reference import Floats, Picture

_MAP, _GAP = 1.65, 0.15
_NAMED = 10  # columns that are named one by one, at most
_SHOWN = 8  # instances of a neuron, at most
_CROP = 0.3  # of an image around a neuron's place, at least


def visualize_principal_neurons(
    region: Region,
    rdr: RelaxedDecisionRegion,
    dataset: Any = None,
    query: Any = None,
    *,
    n_neurons: int = 4,
    **figure: Unpack[sheet.FigureOptions],
) -> sheet.FigureAxes:
    """Draw where in a layer the principal neurons sit, and what the first respond to.

    The maps show the summed scores at each place of the layer, over the query's image
    where it is known: on one map the neurons that must be active, on the other those
    that must be inactive, so that neither hides the other. The bars show the summed
    scores of each channel, and of each time or token where those have no grid: upwards
    what must be active, downwards what must be inactive.

    Below are the instances at which each of the first principal neurons is most active,
    cropped to what lies around its place, where the bank keeps features.

    Args:
        region: the region to show.
        rdr: fitted; the region is one of its own. `ConfigurationBank.axes` of the bank
            say what the layer's axes mean.
        dataset: the reference set that was fitted, or a `Reference` of it; None for maps
            and bars alone.
        query: the input, without the batch dimension; not needed where the bank holds it.
        n_neurons: neurons to show by their own instances at most, the highest score
            first.
        **figure: see `FigureOptions`.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the region is not that of ``rdr``, the data set is too small, or an
            image cannot be drawn.

    Source: the instances stand for a neuron as in Achtibat et al., *From attribution maps
    to human-understandable explanations through Concept Relevance Propagation*, 2023.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Conv2d(1, 6, 3)
    >>> data = torch.rand(30, 1, 8, 8)
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> region = rdr.attribute_members([3], 4, 5, weighting="evidence")[0]
    >>> fig, ax = visualize_principal_neurons(region, rdr, use_pyplot=False)
    >>> ax.child_axes[-1].get_xlabel()
    'channel'
    """
    check_whole("n_neurons", n_neurons, 0)
    subject, picture = subjects.of(region, rdr, dataset, query), None
    if query is not None or (dataset is not None and region.query is not None):
        picture = subject.tile.picture
    aspect = 1.0 if picture is None else picture.shape[0] / picture.shape[1]
    places, bars = neuron_layout(region, bank_axes(subject.bank), aspect)
    parts: list[tiles.Part] = [*subject.headed(subject.described)]
    if not len(region.neurons):
        parts.append(tiles.Row("The region has no principal neuron."))
        return tiles.draw(parts, **figure)
    blocks = [bars_block(*one) for one in bars.items()]
    if places is not None:  # they stand beside the bars of the channels
        blocks[0] = _maps_block(places, picture, *next(iter(bars.items())))
    parts += blocks
    features = subject.bank.features
    if dataset is not None and features is not None:
        parts += _top_rows(subject, features, n_neurons, aspect)
    return tiles.draw(parts, **figure)


def bank_axes(bank: ConfigurationBank) -> LayerAxes:
    """What a bank's axes mean, or by its shape probably mean."""
    return bank.axes or guessed_axes(bank.layer_shape)


def neuron_layout(
    region: Region, axes: LayerAxes, aspect: float = 1.0
) -> tuple[Floats | None, dict[str, Floats]]:
    """Sum the scores of a region's principal neurons by place, time and channel.

    Args:
        region: the region.
        axes: what its layer's axes mean.
        aspect: height of the image in shares of its width.

    Returns:
        scores of the neurons that must be active, and of those that must be inactive,
        summed at each place, ``(2, H, W)``, None for a layer without a grid; and summed
        for each channel, ``(2, C)``, by what a channel is called, and behind it for each
        time, token of a series, or token before the grid, where there are any.
    """
    mask = region.mask().double()
    signed = torch.stack([mask.clamp(min=0), -mask.clamp(max=0)])
    found, prefix = (part.numpy() for part in axes.arranged(signed, aspect))
    unit = "feature" if "token" in axes.kinds else "channel"
    unit = unit if len(axes.kinds) > 1 else "neuron"
    bars = {unit: found.sum((2, 3, 4)) + prefix.sum(2)}
    if found.shape[2] > 1:
        bars["time"] = found.sum((1, 3, 4))
    places = found.sum((1, 2))
    has_grid = places[0].size > 1
    if has_grid and places.shape[1] == 1 and "height" not in axes.kinds:
        bars["token"], has_grid = places[:, 0], False
    if prefix.shape[2]:
        bars["class token" if prefix.shape[2] == 1 else "other token"] = prefix.sum(1)
    return places if has_grid else None, bars


def _top_rows(
    subject: subjects.Subject, features: Tensor, n_neurons: int, aspect: float
) -> list[tiles.Row]:
    """The instances in which each of the first neurons is most active."""
    region, bank = subject.region, subject.bank
    axes, rows = bank_axes(bank), []
    flat = torch.arange(bank.n_neurons).reshape(1, *bank.layer_shape)
    numbers, _ = axes.arranged(flat, aspect)
    for which in region.named(n_neurons).tolist():
        neuron = int(region.neurons[which])
        values = features[:, neuron].cpu().double()
        order = values.argsort(descending=True, stable=True)[:_SHOWN]
        order = order[values[order] > bank.threshold.expand(bank.n_neurons)[neuron]]
        grid = (numbers == neuron).sum((0, 1, 2))
        notes = {row: [f"{values[row]:.3g}"] for row in order.tolist()}
        found = subjects.tiles_of(subject.reference, notes)
        found = [replace(one, picture=_crop(one.picture, grid)) for one in found]
        wanted = "active" if region.states[which] else "inactive"
        named = axes.named(region.unravel()[which])
        place = ", ".join(f"{kind} {named[kind]}" for kind in KINDS if kind in named)
        text = f"{place.capitalize()}, must be {wanted}; most active in:"
        rows.append(tiles.Row(text, found))
    return rows


def _crop(picture: Picture, grid: Tensor) -> Picture:
    """The part of a picture around the one place ``(H, W)`` that is not zero.

    All of it where there is none, as for a class token, or no grid.
    """
    if len(grid) == 1 or not bool(grid.any()):
        return picture
    sizes, pixels = np.array(grid.shape), np.array(picture.shape[:2])
    sides = np.ceil(np.maximum(3 / sizes, _CROP) * pixels).clip(0, pixels).astype(int)
    middle = (grid.nonzero()[0].numpy() + 0.5) / sizes * pixels
    y, x = np.round(middle - sides / 2).clip(0, pixels - sides).astype(int)
    return picture[y : y + sides[0], x : x + sides[1]]


def _maps_block(
    places: Floats, picture: Picture | None, unit: str, channels: Floats
) -> sheet.Block:
    """The maps that are not empty and, beside them, the bars."""
    if picture is None:
        picture = np.ones((*places.shape[1:], 3))
    pale = 0.35 + 0.65 * picture.mean(2, keepdims=True).repeat(3, 2)
    kinds = [("must be active", 1, places[0]), ("must be inactive", -1, places[1])]
    kinds = [kind for kind in kinds if kind[2].any()]
    used = len(kinds) * (_MAP + _GAP)

    def draw(canvas: sheet.Canvas, x: float, y: float) -> None:
        for index, (name, sign, scores) in enumerate(kinds):
            left = x + index * (_MAP + _GAP)
            canvas.text(left, y, name, color=sheet.SIGNED(0.5 + sign * 0.5))
            ax = canvas.inset(left, y + 0.2, _MAP, _MAP)
            tiles.show_picture(ax, pale, sheet.GRAY)
            overlay = sheet.SIGNED(0.5 + 0.5 * sign * scores / places.max())
            overlay[..., 3] = 0.8 * (scores != 0)
            extent = ax.images[0].get_extent()
            ax.imshow(overlay, interpolation="nearest", extent=extent)

    bars = bars_block(unit, channels, sheet.WIDTH - used, _MAP + 0.2)
    return sheet.beside(sheet.Block(_MAP + 0.35, draw), used, bars)


def bars_block(
    unit: str, values: Floats, width: float = sheet.WIDTH, height: float = 1.4
) -> sheet.Block:
    """Summed scores of each channel, time or token, ``(2, n)``.

    What has a score stands side by side where that is little, else at its place.
    """
    used, count = np.flatnonzero(values.sum(0)), values.shape[1]
    at, are_named = used, len(used) <= _NAMED and unit not in ("time", "token")
    if are_named:
        at, count = np.arange(len(used)), max(len(used), 4)

    def draw(canvas: sheet.Canvas, x: float, y: float) -> None:
        canvas.text(x + 0.4, y, f"score by {unit}")
        ax = canvas.plot(x + 0.4, y + 0.2, width - 0.45, height - 0.7)
        ax.set(xlabel=unit, xlim=(-0.7, count - 0.3))
        if are_named:
            ax.set_xticks(at, [str(one) for one in used], rotation=60)
        # As lines, since thousands of bars take minutes.
        thick = max(1.0, 55 * (width - 0.45) * canvas.scale / count)
        for heights, color in ((values[0], sheet.BLUE), (-values[1], sheet.ORANGE)):
            ax.vlines(at, 0, heights[used], color=color, linewidth=thick)
        ax.axhline(0, color=sheet.GRAY, linewidth=0.6)

    return sheet.Block(height + 0.1, draw)
