"""A map of a bank, regions outlined."""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from scipy.sparse.linalg import LinearOperator, lobpcg
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from captum_rdr._arguments import checked_rows
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.visualization import sheet
from captum_rdr.visualization.reference import Reference

Floats = npt.NDArray[np.float64]

Key = list[tuple[str, str, Any]]
"""Sign, name and color of everything on a map."""

_LINES = ("-", "--", ":", "-.")
MARKS = [(color, sign) for sign in "●▲" for color in sheet.PALETTE]
"""Color and sign of each class that has its own."""
_MOST = 0.5  # share of the map that an outline may cover
_BLOCK = 1 << 24  # states unpacked at a time
_EXTRA, _ROUNDS = 6, 40  # directions searched beside those wanted, and rounds at most


def visualize_bank(
    bank: ConfigurationBank,
    regions: Sequence[Region] = (),
    *,
    rows: Any = None,
    embedding: Tensor | npt.NDArray[Any] | None = None,
    labels: Any = None,
    class_names: Sequence[str] | None = None,
    **figure: Unpack[sheet.FigureOptions],
) -> sheet.FigureAxes:
    """Draw a map of a bank, or of some of its rows, with regions outlined.

    Args:
        bank: the reference bank.
        regions: regions of the bank; each is outlined by the convex hull of its members
            on the map, so that strangers may lie within, unless that covers most of it.
            "n.s." marks those that a test found not significant.
        rows: bank rows to draw, e.g. those of one class; None for all.
        embedding: two coordinates of each drawn row, ``(R, 2)``; None for the first two
            principal components of their states.
        labels: class of each bank row by position, which colors it, a whole number or a
            name; negative, None or NaN where unknown.
        class_names: name of each class.
        **figure: see `FigureOptions`.

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
    shown = checked_rows(range(len(bank)) if rows is None else rows, len(bank), "rows")
    if not len(shown):
        raise ValueError("there is no row to draw; give one bank row or more")
    axis_names, points = _placed(bank, shown, embedding)
    names = _class_of_each(bank, shown, labels, class_names)
    outlines = [
        (_caption(region), points[torch.isin(shown, region.members).numpy()])
        for region in regions
    ]
    extent = np.prod(np.ptp(points, axis=0))
    areas = [polygon_area(convex_hull(inside)) for _, inside in outlines]
    fits = [not area > _MOST * extent > 0 for area in areas]
    wide = [name for (name, _), fit in zip(outlines, fits, strict=True) if not fit]
    outlines = list(compress(outlines, fits))
    few = "All" if len(shown) == len(bank) else f"{len(shown)} of"
    outlined = f", {len(outlines)} region{'s' * (len(outlines) != 1)} outlined"
    counted = f"{few} {len(bank)} instances of the bank{outlined if regions else ''}."
    if wide:
        counted += f" Not outlined, since all over the map: {', '.join(wide)}."

    def content(width: float) -> list[sheet.Block]:
        block = _map_block(points, names, outlines, axis_names, width)
        return [sheet.paragraph(counted, width), block]

    return sheet.draw(content, **figure)


def _caption(region: Region) -> str:
    query = "new input" if region.query is None else f"row {region.query}"
    tested = region.significance
    if tested is None or tested.passed:
        return query
    return f"{query} ({'n.s.' if tested.testable else 'not testable'})"


def _placed(
    bank: ConfigurationBank, rows: Tensor, embedding: Any
) -> tuple[list[str], Floats]:
    if embedding is None:
        points, shares = principal_components(bank, rows)
        names = [
            f"component {i} ({share:.0%} of the variance)"
            for i, share in enumerate(shares, 1)
        ]
        return names, points
    given = np.asarray(torch.as_tensor(embedding).detach().cpu(), np.float64)
    if given.shape != (len(rows), 2) or not np.isfinite(given).all():
        raise ValueError(
            f"embedding has shape {given.shape}; give two finite coordinates for each of "
            f"the {len(rows)} drawn rows"
        )
    return ["embedding 1", "embedding 2"], given


def _class_of_each(
    bank: ConfigurationBank, rows: Tensor, labels: Any, class_names: Any
) -> list[str] | None:
    if labels is None:
        return None
    reference = Reference((), labels, class_names=class_names)
    if len(reference.labels) != len(bank):
        raise ValueError(
            f"labels has {len(reference.labels)} items, but the bank {len(bank)} "
            "instances; give one for every row of the bank"
        )
    return [reference.classes(row).label or "" for row in rows.tolist()]


def _map_block(
    points: Floats,
    names: list[str] | None,
    outlines: Sequence[tuple[str, Floats]],
    axis_names: Sequence[str],
    width: float,
) -> sheet.Block:
    """The map, and what its colors mean beside it where there is room."""
    side = min(4.0, width - 0.55)
    room = width - side - 0.6

    def draw(canvas: sheet.Canvas, x: float, y: float) -> None:
        ax = canvas.plot(x + 0.5, y + 0.05, side, side)
        key = _draw_points(ax, points, names, canvas.scale)
        for number, (name, inside) in enumerate(outlines):
            color = sheet.PALETTE[-1 - number % len(sheet.PALETTE)]
            line = _LINES[number % len(_LINES)]
            _draw_outline(ax, inside, color, line, canvas.scale)
            key.append((f"{'╌' if number % len(_LINES) else '─'}○", name, color))
        ax.margins(0.05)
        ax.set(xlabel=axis_names[0], ylabel=axis_names[1])
        for number, (sign, name, color) in enumerate(key[:25] if room > 0.7 else []):
            top = y + 0.1 + 0.16 * number
            canvas.text(x + side + 0.6, top, sign, 8, color=color)
            canvas.text(x + side + 0.85, top, sheet.shortened(name, room - 0.25, 8), 8)

    return sheet.Block(side + 0.45, draw)


def _draw_points(
    ax: Axes, points: Floats, names: list[str] | None, scale: float
) -> Key:
    """Draw the instances; returns what each color means."""
    area = float(np.clip(8000 / len(points), 3, 16)) * scale**2

    def draw(some: Any, color: Any, alpha: float, sign: str = "●") -> None:
        x, y = points[some].T
        marker = "^" if sign == "▲" else "o"
        ax.scatter(x, y, area, color, marker=marker, alpha=alpha, linewidths=0)

    if names is None:
        draw(slice(None), sheet.GRAY, 0.6)
        return []
    frequent = [name for name, _ in Counter(sorted(names)).most_common(len(MARKS))]
    key: Key = []
    for name, (color, sign) in zip(sorted(frequent), MARKS, strict=False):
        draw([one == name for one in names], color, 0.7, sign)
        key.append((sign, name, color))
    rest = [one not in frequent for one in names]
    if any(rest):
        draw(rest, sheet.GRAY, 0.4)
        key.append(("●", f"{len(set(names)) - len(frequent)} more", sheet.GRAY))
    return key


def _draw_outline(
    ax: Axes, inside: Floats, color: str, line: str, scale: float
) -> None:
    """Draw the convex hull of a region's members, and each of them."""
    corners = convex_hull(inside)
    closed = np.concatenate([corners, corners[:1]])
    ax.plot(*closed.T, color=color, linestyle=line, linewidth=1.4 * scale)
    x, y = inside.T
    ax.scatter(x, y, 9 * scale**2, facecolors="none", edgecolors=color, linewidths=0.6)


def polygon_area(corners: Floats) -> float:
    """The area within corners ``(M, 2)``, by the shoelace formula.

    >>> polygon_area(np.array([[0.0, 0], [2, 0], [2, 2], [0, 2]]))
    4.0
    """
    x, y = corners.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def convex_hull(points: Floats) -> Floats:
    """Corners of the convex hull of points ``(M, 2)``, counterclockwise.

    >>> convex_hull(np.array([[0.0, 0], [2, 0], [1, 0.5], [2, 2], [0, 2]])).tolist()
    [[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]]
    """
    try:
        corners: Floats = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):  # fewer than three points, or all on a line
        ordered = np.unique(points, axis=0)
        corners = np.concatenate([ordered[:1], ordered[1:][-1:]])
    return corners


def principal_components(
    bank: ConfigurationBank, rows: Tensor
) -> tuple[Floats, Floats]:
    """Coordinates of bank rows along two principal components of their states.

    A few rows are unpacked at a time. The largest coordinate along each component is
    positive.

    Args:
        bank: has the states.
        rows: bank rows, int64 ``(R,)``.

    Returns:
        coordinates, float64 ``(R, 2)``, zero along components that the states do not
        have; and each component's share of the variance, ``(2,)``.

    >>> bank = ConfigurationBank((3,))
    >>> bank.append(torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]]) > 0)
    >>> points, shares = principal_components(bank, torch.arange(4))
    >>> points.round(2)[:, 0], shares.round(2)
    (array([ 0.71,  0.71, -0.71, -0.71]), array([1., 0.]))
    """
    parts = torch.split(rows, max(1, _BLOCK // bank.n_neurons))
    mean = torch.stack([bank.states(part).sum(0) for part in parts]).sum(0) / len(rows)
    variance = float((mean * (1 - mean)).sum())
    if variance == 0:
        return np.zeros((len(rows), 2)), np.zeros(2)
    size = max(2, bank.n_neurons)

    def centered() -> Iterator[Tensor]:
        for part in parts:
            states = bank.states(part).float() - mean
            yield F.pad(states, (0, size - bank.n_neurons))

    def covariance(directions: Floats) -> Floats:
        basis = torch.from_numpy(directions.reshape(size, -1)).float()
        products = [block.T @ (block @ basis) for block in centered()]
        return torch.stack(products).sum(0).numpy() / len(rows)

    operator = LinearOperator((size, size), covariance, matmat=covariance, dtype="f4")
    start = np.random.default_rng(0).standard_normal((size, 2 + _EXTRA), np.float32)
    with warnings.catch_warnings(action="ignore"):  # of a few neurons, or many rounds
        values, axes = lobpcg(operator, start, tol=1e-5 * variance, maxiter=_ROUNDS)
    basis = torch.from_numpy(axes[:, :2].copy())
    points = torch.cat([block @ basis for block in centered()]).double().numpy()
    largest = points[np.abs(points).argmax(0), [0, 1]]
    shares = values[:2].astype(np.float64).clip(0) / variance
    return points * np.where(largest < 0, -1, 1), shares
