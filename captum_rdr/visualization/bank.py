"""A map of a bank, regions outlined."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.axes import Axes
from torch import Tensor

from captum_rdr._arguments import checked_rows
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.visualization.canvas import (
    GRAY,
    Block,
    Canvas,
    FigureAxes,
    draw_sheet,
    paragraph,
    shortened,
)
from captum_rdr.visualization.components import principal_components
from captum_rdr.visualization.reference import Reference

Floats = npt.NDArray[np.float64]

Key = list[tuple[str, str, Any]]
"""Sign, name and color of everything on a map."""

_OUTLINES = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00")
_MARKED = 10  # classes that get a color of their own


def visualize_bank(
    bank: ConfigurationBank,
    regions: Sequence[Region] = (),
    *,
    rows: Sequence[int] | Tensor | None = None,
    embedding: Tensor | npt.NDArray[Any] | None = None,
    labels: Sequence[int | None] | Tensor | None = None,
    class_names: Sequence[str] | None = None,
    plt_fig_axis: FigureAxes | None = None,
    use_pyplot: bool = True,
    fig_size: tuple[float, float] | None = None,
    title: str | None = None,
    cmap: Any = None,
) -> FigureAxes:
    """Draw a map of a bank, or of some of its rows, with regions outlined.

    Args:
        bank: the reference bank.
        regions: regions of the bank; each is outlined by the convex hull of its members
            on the map, so that strangers may lie within. "n.s." marks those that a test
            found not significant.
        rows: bank rows to draw, e.g. those of one class; None for all.
        embedding: two coordinates of each drawn row, ``(R, 2)``; None for the first two
            principal components of their states.
        labels: class of each bank row, which colors it; negative or None where unknown.
        class_names: name of each class.
        plt_fig_axis: figure and Axes to draw in, as for Captum's visualizers.
        use_pyplot: make a new figure known to pyplot; it is never shown.
        fig_size: size of a new figure, in inches; None for 6 wide and as high as needed.
        title: a heading.
        cmap: colormap of the classes; ``"tab10"`` by default.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: the rows are no whole numbers.
        ValueError: rows, labels or embedding do not fit the bank or each other, or a
            region is that of another bank.

    >>> bank = ConfigurationBank((12,))
    >>> bank.append(torch.rand(50, 12, generator=torch.Generator().manual_seed(0)) > 0.5)
    >>> fig, ax = visualize_bank(bank, use_pyplot=False)
    >>> ax.child_axes[0].collections[0].get_offsets().shape
    (50, 2)
    """
    for region in regions:
        region.check_layer(bank.layer_shape, bank.fingerprint)
    shown = checked_rows(range(len(bank)) if rows is None else rows, len(bank))
    if not len(shown):
        raise ValueError("there is no row to draw; give one bank row or more")
    axes_names, points = _placed(bank, shown, embedding)
    names = _class_of_each(bank, shown, labels, class_names)
    few = "All" if len(shown) == len(bank) else f"{len(shown)} of"
    outlined = f", {len(regions)} region{'s' * (len(regions) > 1)} outlined"
    counted = f"{few} {len(bank)} instances of the bank{outlined if regions else ''}."

    def content(width: float) -> list[Block]:
        return [
            paragraph(counted, width),
            _map_block(
                points, shown, names, regions, axes_names, width, cmap or "tab10"
            ),
        ]

    return draw_sheet(content, plt_fig_axis, use_pyplot, fig_size, title)


def _placed(
    bank: ConfigurationBank, rows: Tensor, embedding: Any
) -> tuple[tuple[str, str], Floats]:
    if embedding is None:
        points, shares = principal_components(bank, rows)
        names = [
            f"component {i} ({share:.0%} of the variance)"
            for i, share in enumerate(shares, 1)
        ]
        return (names[0], names[1]), points
    given = np.asarray(torch.as_tensor(embedding).detach().cpu(), np.float64)
    if given.shape != (len(rows), 2) or not np.isfinite(given).all():
        raise ValueError(
            f"embedding has shape {given.shape}; give two finite coordinates for each of "
            f"the {len(rows)} drawn rows"
        )
    return ("embedding 1", "embedding 2"), given


def _class_of_each(
    bank: ConfigurationBank, rows: Tensor, labels: Any, class_names: Any
) -> list[str] | None:
    if labels is None:
        return None
    if len(labels) != len(bank):
        raise ValueError(
            f"labels has {len(labels)} items, but the bank {len(bank)} instances; give one "
            "for every row of the bank"
        )
    reference = Reference((), class_names=class_names)
    return [reference.name(labels[row]) for row in rows.tolist()]


def _map_block(
    points: Floats,
    rows: Tensor,
    names: list[str] | None,
    regions: Sequence[Region],
    axes_names: tuple[str, str],
    width: float,
    cmap: Any,
) -> Block:
    side = min(4.05, width - 0.5)

    def draw(canvas: Canvas, x: float, y: float) -> None:
        ax = canvas.plot(x + 0.45, y + 0.05, side, side)
        key = _draw_points(ax, points, names, cmap, canvas.scale)
        key += _draw_outlines(ax, points, rows, regions, canvas.scale)
        ax.margins(0.05)
        ax.set_xlabel(axes_names[0], size=7 * canvas.scale, labelpad=1)
        ax.set_ylabel(axes_names[1], size=7 * canvas.scale, labelpad=1)
        room = width - side - 0.6
        if room > 0.7:
            for number, (sign, name, color) in enumerate(key[:25]):
                top = y + 0.1 + 0.16 * number
                canvas.text(x + side + 0.55, top, sign, 7, color=color)
                canvas.text(x + side + 0.7, top, shortened(name, room - 0.15, 7), 7)

    return Block(side + 0.45, draw)


def _draw_points(
    ax: Axes, points: Floats, names: list[str] | None, cmap: Any, scale: float
) -> Key:
    """Draw the instances; returns what each color means."""
    area = float(np.clip(4000 / len(points), 2, 14)) * scale**2
    if names is None:
        ax.scatter(points[:, 0], points[:, 1], s=area, c=GRAY, alpha=0.6, linewidths=0)
        return []
    counted = {name: names.count(name) for name in sorted(set(names))}
    frequent = sorted(counted, key=lambda name: -counted[name])[:_MARKED]
    colors = matplotlib.colormaps.get_cmap(cmap)
    key: Key = []
    for number, name in enumerate([one for one in counted if one in frequent]):
        color = colors(number if colors.N <= 20 else number / max(1, len(frequent) - 1))
        own = np.array([one == name for one in names])
        ax.scatter(
            points[own, 0], points[own, 1], s=area, color=color, alpha=0.7, linewidths=0
        )
        key.append(("●", name, color))
    rest = np.array([one not in frequent for one in names])
    if rest.any():
        ax.scatter(
            points[rest, 0], points[rest, 1], s=area, c=GRAY, alpha=0.4, linewidths=0
        )
        key.append(("●", f"{len(counted) - len(frequent)} more", GRAY))
    return key


def _draw_outlines(
    ax: Axes, points: Floats, rows: Tensor, regions: Sequence[Region], scale: float
) -> Key:
    key: Key = []
    for number, region in enumerate(regions):
        color = _OUTLINES[number % len(_OUTLINES)]
        inside = torch.isin(rows, region.members).numpy()
        corners = convex_hull(points[inside])
        if len(corners):
            closed = np.concatenate([corners, corners[:1]])
            ax.plot(*closed.T, color=color, linewidth=1.4 * scale)
            ax.scatter(
                points[inside, 0],
                points[inside, 1],
                s=9 * scale**2,
                facecolors="none",
                edgecolors=color,
                linewidths=0.6,
            )
        query = "new input" if region.query is None else f"row {region.query}"
        failed = region.significance is not None and not region.significance.passed
        key.append(("○", f"{query}{' (n.s.)' * failed}", color))
    return key


def convex_hull(points: Floats) -> Floats:
    """Corners of the convex hull of points ``(M, 2)``, counterclockwise.

    Andrew's monotone chain (1979).

    >>> convex_hull(np.array([[0.0, 0], [2, 0], [1, 0.5], [2, 2], [0, 2]])).tolist()
    [[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]]
    """
    ordered = np.unique(points, axis=0)
    if len(ordered) < 3:
        return ordered
    return np.array([*_chain(ordered)[:-1], *_chain(ordered[::-1])[:-1]])


def _chain(ordered: Floats) -> list[Floats]:
    """One side of the hull of sorted points."""
    chain: list[Floats] = []
    for point in ordered:
        while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
            chain.pop()
        chain.append(point)
    return chain


def _turn(a: Floats, b: Floats, c: Floats) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
