"""The paper's picture: a region on a plane through three instances."""

from functools import partial
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import Module

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.model.hooks import evaluating
from captum_rdr.model.inputs import input_arguments
from captum_rdr.model.reader import LayerReader
from captum_rdr.visualization import sheet, subjects, tiles
from captum_rdr.visualization.reference import Array, Floats

_KEY = [
    ("■", "region", "#D9CF3A"),
    ("━", "zero line, must be active", sheet.BLUE),
    ("━", "must be inactive", sheet.ORANGE),
]
_STEPS = 200  # sampled points along each side of the view
_BLOCK = 1 << 24  # values of sampled points held at a time
_ROOM = 0.6  # view around the anchors, in shares of their extent
_NEAR = 1e-4  # margins, in shares of the largest, that may be rounded to either side


def visualize_plane(
    region: Region,
    rdr: RelaxedDecisionRegion,
    anchors: Tensor,
    *,
    module: Module,
    **figure: Unpack[sheet.FigureOptions],
) -> sheet.FigureAxes:
    """Draw a region on the plane that three instances span in feature space.

    The features are what ``module`` takes in, which is run at 200 times 200 points of the
    plane. Each principal neuron's zero line is drawn, straight where the module is affine
    as linear layers and convolutions are; the region is shaded; the field is the
    configuration distance from the first anchor.

    Source: the figure of Chang, Kwon and Choi (AAAI 2024) that shows a region and its
    boundaries.

    Args:
        region: the region to show.
        rdr: fitted; the region is one of its own.
        anchors: three inputs, shape ``(3, ...)``; the first is the query.
        module: the part of the model, e.g. ``model[3]`` or ``model[3:5]``, that makes the
            layer's output of the features, up to the layer or the ReLU before its end.
        **figure: see `FigureOptions`.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the layer's states are not those that the module gives, the anchors'
            features lie on a line, or the region is not that of ``rdr``.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.ReLU())
    >>> data = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    >>> rdr = RelaxedDecisionRegion(model, model[1]).fit(data, show_progress=False)
    >>> region = rdr.attribute_members([3], 4, 3, weighting="evidence")[0]
    >>> anchors = data[[3, 1, 2]]
    >>> fig, ax = visualize_plane(region, rdr, anchors, module=model[0], use_pyplot=False)
    >>> [child.get_xlabel() for child in ax.child_axes][0]
    'feature space, towards the second anchor'
    """
    subject = subjects.of(region, rdr)
    picture = plane_picture(region, rdr, anchors, module)
    numbered = "1 is the query, 2 and 3 the other anchors of the plane."
    blocks = [_plane_block(picture, region), sheet.key(_KEY)]
    heads = subject.headed(f"{subject.described} {numbered}")
    return tiles.draw([*heads, *blocks], **figure)


class PlanePicture(NamedTuple):
    """A region on a plane in feature space, sampled.

    Attributes:
        anchors: the three points in the plane, float64 ``(3, 2)``.
        xs: coordinates of the columns, ``(G,)``.
        ys: coordinates of the rows, ``(G,)``.
        inside: whether each point lies in the region, bool ``(G, G)``.
        distances: configuration distance of each point from the first anchor,
            ``(G, G)``.
        margins: each principal neuron's value minus threshold, ``(t, G, G)``.
    """

    anchors: Floats
    xs: Floats
    ys: Floats
    inside: Array
    distances: Array
    margins: Floats


def plane_picture(
    region: Region, rdr: RelaxedDecisionRegion, anchors: Tensor, module: Module
) -> PlanePicture:
    """Sample what `visualize_plane` draws."""
    if not isinstance(anchors, Tensor) or len(anchors) != 3:
        raise ValueError(
            f"anchors is {tuple(getattr(anchors, 'shape', ()))}; give a tensor of three "
            "inputs, e.g. torch.stack([query, dataset[3], dataset[8]])"
        )
    bank = subjects.of(region, rdr).bank
    features, states = _read(rdr, bank, module, anchors)
    flat = features.flatten(1).double().cpu().numpy()
    axes = plane_through(flat)
    at = (flat - flat[0]) @ axes.T
    low, high = at.min(0), at.max(0)
    half = (0.5 + _ROOM) * float((high - low).max())
    xs, ys = np.linspace((low + high) / 2 - half, (low + high) / 2 + half, _STEPS).T
    points = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    sampled = []
    size = max(bank.n_neurons, flat.shape[1])
    for block in np.array_split(points, len(points) * size // _BLOCK + 1):
        at_points = features.new_tensor(flat[0] + block @ axes)
        values = _margins(module, at_points.reshape(-1, *features.shape[1:]), bank)
        away = ((values > 0) != states[0]).sum(1)
        sampled.append((region.contains(values > 0), away, values[:, region.neurons].T))
    inside, distances, margins = (
        torch.cat(part, -1).reshape(*part[0].shape[:-1], _STEPS, _STEPS).numpy()
        for part in zip(*sampled, strict=True)
    )
    return PlanePicture(at, xs, ys, inside, distances, margins)


def plane_through(points: Floats) -> Floats:
    """Orthonormal axes ``(2, F)`` of the plane through three points ``(3, F)``.

    The first axis points from the first to the second; distances in the plane are
    distances in the feature space.

    Raises:
        ValueError: two points coincide or all lie on a line.

    >>> plane_through(np.array([[0.0, 0, 1], [2, 0, 1], [1, 3, 1]])).round(3) + 0
    array([[1., 0., 0.],
           [0., 1., 0.]])
    """
    along, away = points[1:] - points[0]
    along = along / (np.linalg.norm(along) or 1.0)
    side = away - (away @ along) * along
    longest = np.linalg.norm(points[1:] - points[0])
    if not along.any() or np.linalg.norm(side) <= 1e-6 * longest:
        raise ValueError(
            "the features of the three anchors lie on a line, so they span no plane; "
            "give three instances that the layer tells apart"
        )
    side -= (side @ along) * along  # once more, against rounding
    return np.stack([along, side / np.linalg.norm(side)])


def _read(
    rdr: RelaxedDecisionRegion, bank: ConfigurationBank, module: Module, inputs: Tensor
) -> tuple[Tensor, Tensor]:
    """Features of inputs, and the layer's states ``(B, D)``, which the module must make."""
    first = module
    while isinstance(first, nn.Sequential) and len(first):
        first = first[0]  # a slice of a model is never called itself
    reader = LayerReader(rdr.forward_func, [first], None, [None], None)
    given = input_arguments(inputs.to(reader.device or inputs.device), None)
    with reader.reading(lambda _, values: (values.clone(),), True) as read:
        ((features,),) = read(given, "inputs", leave_early=True)
    found = rdr.states(inputs)
    if isinstance(found, list):
        found = found[subjects.banks_of(rdr).index(bank)]
    margins, states = _margins(module, features, bank), found.flatten(1)
    clear = margins.abs() > _NEAR * margins.abs().max()
    if ((margins > 0) != states)[clear].any():
        raise ValueError(
            f"module={module} does not give the states of the region's layer; give all "
            "modules between the features and the layer, which may be a ReLU behind them "
            "with thresholds of 0 or more"
        )
    return features, states


def _margins(module: Module, features: Tensor, bank: ConfigurationBank) -> Tensor:
    """What a module gives in evaluation mode minus thresholds, float64 ``(B, D)``."""
    with torch.no_grad(), evaluating(module):
        values: Tensor = module(features).flatten(1).double().cpu()
    if values.shape[1] != bank.n_neurons:
        raise ValueError(
            f"module gives {values.shape[1]} values an instance, but the region's layer "
            f"has {bank.n_neurons} neurons; give the modules that end at that layer"
        )
    return values - bank.threshold.double().cpu()


def _plane_block(picture: PlanePicture, region: Region) -> sheet.Block:
    side, xs, ys = 4.1, picture.xs, picture.ys

    def draw(canvas: sheet.Canvas, x: float, y: float) -> None:
        ax, scale = canvas.plot(x + 0.5, y + 0.05, side, side), canvas.scale
        extent = (xs[0], xs[-1], ys[0], ys[-1])
        show = partial(
            ax.imshow, extent=extent, origin="lower", interpolation="nearest"
        )
        field = show(picture.distances, cmap="Greys", alpha=0.5)
        show(np.where(picture.inside[..., None], (0.95, 0.9, 0.25, 0.55), 0))
        for values, active in zip(picture.margins, region.states, strict=True):
            if values.min() < 0 < values.max():
                color = sheet.BLUE if active else sheet.ORANGE
                ax.contour(xs, ys, values, [0], colors=color, linewidths=0.9 * scale)
        options: Any = {"size": 8 * scale, "ha": "center", "va": "center", "zorder": 5}
        options["bbox"] = {"boxstyle": "circle", "fc": "white", "ec": sheet.INK}
        for number, (a, b) in enumerate(picture.anchors, 1):
            ax.text(a, b, str(number), **options)
        ax.set(xlim=extent[:2], ylim=extent[2:], ylabel="at right angles to it")
        ax.set_xlabel("feature space, towards the second anchor")
        bar = canvas.plot(x + side + 0.7, y + 0.05, 0.12, side)
        ax.figure.colorbar(field, cax=bar)
        bar.set_ylabel("configuration distance from the first anchor")

    return sheet.Block(side + 0.45, draw)
