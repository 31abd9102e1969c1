"""The paper's picture: a region on a plane through three instances."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Unpack

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor
from torch.nn import Module

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.visualization import sheet, tiles
from captum_rdr.visualization.affine import PlanePicture, plane_picture

_LIGHT = LinearSegmentedColormap.from_list("light", ["white", "#888888"])


def visualize_plane(
    region: Region,
    rdr: RelaxedDecisionRegion,
    affine: Module | Sequence[Module],
    anchors: Tensor,
    others: Tensor | None = None,
    **figure: Unpack[sheet.FigureOptions],
) -> sheet.FigureAxes:
    """Draw a region on the plane that three instances span in feature space.

    The features are what the first module of ``affine`` takes in. On the plane the zero
    line of each principal neuron is straight; the region is shaded; the
    field is the configuration distance from the first anchor. Other instances are
    projected, filled where they are members: a projection may fall inside the region
    though the instance, off the plane, is outside.

    Source: the figure of Chang, Kwon and Choi (AAAI 2024) that shows a region and its
    boundaries.

    Args:
        region: the region to show.
        rdr: fitted; the region is one of its own. Its layer is the last module of
            ``affine``, or the ReLU behind it.
        affine: the module, or modules in order, that make the layer's pre-activation of
            the features: linear layers and convolutions, with batch norm, average
            pooling, flatten and dropout.
        anchors: three inputs, shape ``(3, ...)``; the first is the query.
        others: inputs to project, shape ``(M, ...)``, or None.
        **figure: see `FigureOptions`.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the layer's pre-activation is no affine map of the features, the
            anchors' features lie on a line, or the region is not that of ``rdr``.

    >>> import torch
    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.ReLU())
    >>> data = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    >>> rdr = RelaxedDecisionRegion(model, model[1]).fit(data, show_progress=False)
    >>> region = rdr.attribute_members([3], 4, 3, weighting="evidence")[0]
    >>> fig, ax = visualize_plane(region, rdr, model[0], data[[3, 1, 2]], use_pyplot=False)
    >>> [child.get_xlabel() for child in ax.child_axes][0]
    'feature space, towards the second anchor'
    """
    picture = plane_picture(region, rdr, affine, anchors, others)
    text = f"{tiles.described(region)} {_counted(picture)}"

    def content(width: float) -> list[sheet.Block]:
        block = _plane_block(picture, region, width)
        return [*tiles.headed(region, text, width), block]

    return sheet.draw(content, **figure)


def _counted(picture: PlanePicture) -> str:
    """What the view shows, in words."""
    visible = int(picture.crossing.sum())
    text = "1 is the query, 2 and 3 the other anchors of the plane."
    text += f" {visible} of {len(picture.lines)} zero lines cross this view."
    if len(picture.others):
        low, high = picture.corners[[0, -1]]
        near = ((picture.others >= low) & (picture.others <= high)).all(1).sum()
        text += f" {near} of {len(picture.others)} other instances project into it."
    return text


def _plane_block(picture: PlanePicture, region: Region, width: float) -> sheet.Block:
    side = min(4.1, width - 0.55)

    def draw(canvas: sheet.Canvas, x: float, y: float) -> None:
        ax = canvas.plot(x + 0.5, y + 0.05, side, side)
        ax.set(xlabel="feature space, towards the second anchor")
        ax.set(ylabel="at right angles to it")
        field = _draw_field(ax, picture)
        _draw_lines(ax, picture, region, canvas.scale)
        _draw_instances(ax, picture, canvas.scale)
        _draw_key(canvas, x, y + side + 0.42)
        if width - side > 1:
            bar = canvas.plot(x + side + 0.7, y + 0.05, 0.12, side)
            ax.figure.colorbar(field, cax=bar)
            bar.set_ylabel("configuration distance from the first anchor")

    return sheet.Block(side + 0.85, draw)


def _draw_field(ax: Axes, picture: PlanePicture) -> Any:
    xs, ys = picture.xs, picture.ys
    extent = (xs[0], xs[-1], ys[0], ys[-1])
    show = partial(ax.imshow, extent=extent, origin="lower", aspect="equal")
    field = show(picture.distances, cmap=_LIGHT, interpolation="bilinear")
    shade = np.zeros((*picture.inside.shape, 4))
    shade[picture.inside] = (0.95, 0.9, 0.25, 0.55)
    show(shade, interpolation="nearest")
    ax.set(xlim=extent[:2], ylim=extent[2:])
    return field


def _draw_lines(ax: Axes, picture: PlanePicture, region: Region, scale: float) -> None:
    """Zero lines; the region lies on the side that its neuron's state asks for."""
    visible = picture.crossing
    states = region.states.numpy()[visible]
    for (a, b, c), active in zip(picture.lines[visible], states, strict=True):
        nearest = -c * np.array([a, b]) / (a * a + b * b)
        further = nearest + np.array([-b, a]) / np.hypot(a, b) * np.ptp(picture.xs)
        color = sheet.BLUE if active else sheet.ORANGE
        ax.axline(tuple(nearest), tuple(further), color=color, linewidth=0.9 * scale)


def _draw_instances(ax: Axes, picture: PlanePicture, scale: float) -> None:
    area = 12 * scale**2
    for members, face in ((False, "white"), (True, "#009E73")):
        x, y = picture.others[picture.members == members].T
        ax.scatter(x, y, area, face, edgecolors=sheet.INK, linewidths=0.5, zorder=3)
    for number, (x, y) in enumerate(picture.plane.anchors, 1):
        ax.scatter(
            x, y, 8 * area, "white", edgecolors=sheet.INK, linewidths=1, zorder=4
        )
        text = ax.text(x, y, str(number), size=8 * scale, ha="center", zorder=5)
        text.set_verticalalignment("center_baseline")


def _draw_key(canvas: sheet.Canvas, x: float, y: float) -> None:
    """What the colors mean."""
    entries = [
        ("region", "#D9CF3A"),
        ("zero line, must be active", sheet.BLUE),
        ("must be inactive", sheet.ORANGE),
        ("member, projected", "#009E73"),
        ("other, projected", "white"),
    ]
    for index, (name, color) in enumerate(entries):
        start = x + 0.35 + (index % 3) * 1.85
        top = y + (index // 3) * 0.17
        patch = canvas.inset(start, top + 0.02, 0.12, 0.1)
        patch.set(facecolor=color, xticks=[], yticks=[])
        canvas.text(start + 0.18, top, name, 8)
