"""The paper's picture: a region on a plane through three instances."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor
from torch.nn import Module

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.region import Region
from captum_rdr.visualization.affine import (
    Floats,
    Plane,
    affine_modules,
    plane_through,
    read_affine,
)
from captum_rdr.visualization.canvas import (
    BLUE,
    INK,
    ORANGE,
    Block,
    Canvas,
    FigureAxes,
    draw_sheet,
    left,
    paragraph,
)
from captum_rdr.visualization.members import described, significance_rows
from captum_rdr.visualization.query import bank_of, layer_index
from captum_rdr.visualization.tiles import row_blocks

_STEPS = 240  # sampled points along each side of the view
_BLOCK = 1 << 25  # states of sampled points held at a time
_LIGHT = LinearSegmentedColormap.from_list("light", ["white", "#888888"])
_ROOM = 0.6  # view around the anchors, in shares of their extent


class PlanePicture(NamedTuple):
    """A region on a plane, sampled.

    Attributes:
        plane: the plane in feature space.
        xs: coordinates of the columns, ``(G,)``.
        ys: coordinates of the rows, ``(G,)``.
        inside: whether each point lies in the region, bool ``(G, G)``.
        distances: configuration distance of each point from the first anchor,
            ``(G, G)``.
        lines: each principal neuron's margin ``a x + b y + c`` on the plane, ``(t, 3)``.
        others: projections of the other instances, ``(M, 2)``.
        members: which of the other instances are members, bool ``(M,)``.
    """

    plane: Plane
    xs: Floats
    ys: Floats
    inside: npt.NDArray[np.bool_]
    distances: npt.NDArray[np.int64]
    lines: Floats
    others: Floats
    members: npt.NDArray[np.bool_]


def plane_picture(
    rdr: RelaxedDecisionRegion,
    region: Region,
    affine: Module | Sequence[Module],
    anchors: Tensor,
    others: Tensor | None = None,
) -> PlanePicture:
    """Sample what `visualize_plane` draws."""
    if not isinstance(anchors, Tensor) or len(anchors) != 3:
        got = tuple(anchors.shape) if isinstance(anchors, Tensor) else type(anchors)
        raise ValueError(
            f"anchors is {got}; give a tensor of three inputs, e.g. "
            "torch.stack([query, dataset[3], dataset[8]])"
        )
    modules, bank = affine_modules(affine), bank_of(rdr, region)
    layer = (
        rdr.layer
        if isinstance(rdr.layer, Module)
        else rdr.layer[layer_index(rdr, region)]
    )
    inputs = anchors if others is None else torch.cat([anchors, others])
    features, margins = read_affine(rdr, layer, bank, modules, inputs)
    plane = plane_through(features[:3])
    # The margins are affine on the plane, so their values at three points fix them.
    system = np.concatenate([plane.anchors, np.ones((3, 1))], 1)
    on_plane = np.linalg.solve(system, margins[:3])
    xs, ys = _view(plane.anchors)
    points = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    own = torch.from_numpy(margins[:1] > 0)
    inside, distances = [], []
    for block in np.array_split(points, max(1, len(points) * bank.n_neurons // _BLOCK)):
        states = torch.from_numpy(block @ on_plane[:2] + on_plane[2] > 0)
        inside.append(region.contains(states).numpy())
        distances.append((states != own).sum(1).numpy())
    shape = (len(ys), len(xs))
    return PlanePicture(
        plane,
        xs,
        ys,
        np.concatenate(inside).reshape(shape),
        np.concatenate(distances).reshape(shape),
        on_plane.T[region.neurons.numpy()],
        plane.project(features[3:]),
        region.contains(torch.from_numpy(margins[3:] > 0)).numpy(),
    )


def _view(anchors: Floats) -> tuple[Floats, Floats]:
    """Sampled columns and rows of a square around the anchors."""
    low, high = anchors.min(0), anchors.max(0)
    half = (0.5 + _ROOM) * float((high - low).max())
    middle = (low + high) / 2
    steps = np.linspace(-half, half, _STEPS)
    return middle[0] + steps, middle[1] + steps


def visualize_plane(
    rdr: RelaxedDecisionRegion,
    region: Region,
    affine: Module | Sequence[Module],
    anchors: Tensor,
    others: Tensor | None = None,
    *,
    plt_fig_axis: FigureAxes | None = None,
    use_pyplot: bool = True,
    fig_size: tuple[float, float] | None = None,
    title: str | None = None,
    cmap: Any = None,
) -> FigureAxes:
    """Draw a region on the plane that three instances span in feature space.

    The features are what the first module of ``affine`` takes in. On the plane the zero
    line of each principal neuron is straight; the region is shaded; the
    field is the configuration distance from the first anchor. Other instances are
    projected, filled where they are members: a projection may fall inside the region
    though the instance, off the plane, is outside.

    Source: the figure of Chang, Kwon and Choi (AAAI 2024) that shows a region and its
    boundaries.

    Args:
        rdr: fitted; the region is one of its own. Its layer is the last module of
            ``affine``, or the ReLU behind it.
        region: the region to show.
        affine: the module, or modules in order, that make the layer's pre-activation of
            the features: linear layers and convolutions, with batch norm, average
            pooling, flatten and dropout.
        anchors: three inputs, shape ``(3, ...)``; the first is the query.
        others: inputs to project, shape ``(M, ...)``, or None.
        plt_fig_axis: figure and Axes to draw in, as for Captum's visualizers.
        use_pyplot: make a new figure known to pyplot; it is never shown.
        fig_size: size of a new figure, in inches; None for 6 wide and as high as needed.
        title: a heading.
        cmap: colormap of the configuration distance.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the layer's pre-activation is no affine map of the features, the
            anchors' features lie on a line, or the region is not that of ``rdr``.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.ReLU())
    >>> data = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    >>> rdr = RelaxedDecisionRegion(model, model[1]).fit(data, show_progress=False)
    >>> region = rdr.attribute_members([3], 4, 3, weighting="evidence")[0]
    >>> fig, ax = visualize_plane(rdr, region, model[0], data[[3, 1, 2]], use_pyplot=False)
    >>> [child.get_xlabel() for child in ax.child_axes][0]
    'feature space, towards the second anchor'
    """
    picture = plane_picture(rdr, region, affine, anchors, others)

    def content(width: float) -> list[Block]:
        return [
            paragraph(f"{described(region)}. {_counted(picture)}", width),
            *row_blocks(significance_rows(region), width),
            _plane_block(picture, region, width, cmap),
        ]

    return draw_sheet(content, plt_fig_axis, use_pyplot, fig_size, title)


def _counted(picture: PlanePicture) -> str:
    visible = sum(_crosses(line, picture) for line in picture.lines)
    text = f"{visible} of {len(picture.lines)} zero lines cross this view."
    if len(picture.others):
        in_view = int(_in_view(picture).sum())
        text += f" {in_view} of {len(picture.others)} other instances project into it."
    return text


def _crosses(line: Floats, picture: PlanePicture) -> bool:
    """Whether a neuron's zero line passes through the view."""
    corners = np.array(
        [[x, y, 1] for x in picture.xs[[0, -1]] for y in picture.ys[[0, -1]]]
    )
    values = corners @ line
    return bool(values.min() < 0 < values.max())


def _in_view(picture: PlanePicture) -> npt.NDArray[np.bool_]:
    x, y = picture.others.T
    inside: npt.NDArray[np.bool_] = (
        (x >= picture.xs[0])
        & (x <= picture.xs[-1])
        & (y >= picture.ys[0])
        & (y <= picture.ys[-1])
    )
    return inside


def _plane_block(
    picture: PlanePicture, region: Region, width: float, cmap: Any
) -> Block:
    side = min(4.1, width - 0.5)

    def draw(canvas: Canvas, x: float, y: float) -> None:
        ax = canvas.plot(x + 0.45, y + 0.05, side, side)
        size = 7 * canvas.scale
        field = _draw_field(ax, picture, cmap)
        _draw_lines(ax, picture, region, canvas.scale)
        _draw_instances(ax, picture, canvas.scale)
        ax.set_xlabel("feature space, towards the second anchor", size=size, labelpad=1)
        ax.set_ylabel("at right angles to it", size=size, labelpad=1)
        _draw_key(canvas, x, y + side + 0.42)
        if width - side > 1:
            bar = canvas.plot(x + side + 0.65, y + 0.05, 0.12, side)
            ax.figure.colorbar(field, cax=bar)
            bar.set_ylabel("configuration distance from the first anchor", size=size)

    return Block(side + 0.85, left(draw))


def _draw_field(ax: Axes, picture: PlanePicture, cmap: Any) -> Any:
    xs, ys = picture.xs, picture.ys
    extent = (xs[0], xs[-1], ys[0], ys[-1])
    field = ax.imshow(
        picture.distances,
        extent=extent,
        origin="lower",
        cmap=cmap or _LIGHT,
        interpolation="bilinear",
        aspect="equal",
    )
    shade = np.zeros((*picture.inside.shape, 4))
    shade[picture.inside] = (0.95, 0.9, 0.25, 0.55)
    ax.imshow(shade, extent=extent, origin="lower", interpolation="nearest")
    ax.set(xlim=extent[:2], ylim=extent[2:])
    return field


def _draw_lines(ax: Axes, picture: PlanePicture, region: Region, scale: float) -> None:
    """Zero lines; the region lies on the side that its neuron's state asks for."""
    for line, active in zip(picture.lines, region.states.tolist(), strict=True):
        if _crosses(line, picture):
            a, b, c = line
            nearest = -c * np.array([a, b]) / (a * a + b * b)
            further = nearest + np.array([-b, a]) / np.hypot(a, b) * np.ptp(picture.xs)
            color = BLUE if active else ORANGE
            ax.axline(
                tuple(nearest), tuple(further), color=color, linewidth=0.9 * scale
            )


def _draw_instances(ax: Axes, picture: PlanePicture, scale: float) -> None:
    area = 12 * scale**2
    for members, face in ((False, "white"), (True, "#009E73")):
        x, y = picture.others[picture.members == members].T
        ax.scatter(x, y, area, face, edgecolors=INK, linewidths=0.5, zorder=3)
    for number, (x, y) in enumerate(picture.plane.anchors, 1):
        ax.scatter(x, y, 8 * area, "white", edgecolors=INK, linewidths=1, zorder=4)
        ax.text(
            x,
            y,
            str(number),
            size=8 * scale,
            ha="center",
            va="center_baseline",
            zorder=5,
        )


def _draw_key(canvas: Canvas, x: float, y: float) -> None:
    """What the colors mean."""
    entries = [
        ("region", "#D9CF3A"),
        ("zero line, must be active", BLUE),
        ("must be inactive", ORANGE),
        ("member, projected", "#009E73"),
        ("other, projected", "white"),
    ]
    for index, (name, color) in enumerate(entries):
        start = x + 0.35 + (index % 3) * 1.75
        top = y + (index // 3) * 0.17
        patch = canvas.inset(start, top + 0.02, 0.12, 0.1)
        patch.set(facecolor=color, xticks=[], yticks=[])
        canvas.text(start + 0.18, top, name, 7)
