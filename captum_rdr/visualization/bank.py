"""A map of a bank, regions outlined."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from captum_rdr._arguments import checked_rows
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.visualization import sheet, tiles
from captum_rdr.visualization.reference import as_reference

Floats = npt.NDArray[np.float64]

_MAP = 4.0  # side of the map, in inches
_LINES = ("-", "--", ":", "-.")
MARKS = [(color, sign) for sign in "●▲" for color in sheet.PALETTE]
"""Color and sign of each class that has its own."""
_MOST = 0.5  # share of the map that an outline may cover
_BLOCK = 1 << 24  # states unpacked at a time
_DIRECTIONS, _ROUNDS = 16, 16  # of the search for components


def visualize_bank(
    regions: Sequence[Region],
    bank: ConfigurationBank,
    dataset: Any = None,
    *,
    rows: Any = None,
    embedding: Tensor | npt.NDArray[Any] | None = None,
    **figure: Unpack[sheet.FigureOptions],
) -> sheet.FigureAxes:
    """Draw a map of a bank, or of some of its rows, with regions outlined.

    Args:
        regions: regions of the bank, or none; each is outlined by the convex hull of its
            members on the map, so that strangers may lie within, unless that covers most
            of it. "n.s." marks those that a test did not find significant.
        bank: the reference bank.
        dataset: a `Reference` of the reference set that was fitted, whose labels color
            the map; None for one color.
        rows: bank rows to draw, e.g. those of one class; None for all.
        embedding: two coordinates of each drawn row, ``(R, 2)``; None for the first two
            principal components of their states.
        **figure: see `FigureOptions`.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: the rows are no whole numbers.
        ValueError: rows, labels or embedding do not fit the bank or each other, or a
            region is that of another bank.

    >>> bank = ConfigurationBank((12,))
    >>> bank.append(torch.rand(50, 12, generator=torch.Generator().manual_seed(0)) > 0.5)
    >>> fig, ax = visualize_bank([], bank, use_pyplot=False)
    >>> ax.child_axes[0].collections[0].get_offsets().shape
    (50, 2)
    """
    for region in regions:
        region.check_layer(bank.layer_shape, bank.fingerprint)
    shown = checked_rows(range(len(bank)) if rows is None else rows, len(bank), "rows")
    if not len(shown):
        raise ValueError("there is no row to draw; give one bank row or more")
    axis_names, points = _placed(bank, shown, embedding)
    reference, names = as_reference(dataset), None
    if reference.labels is not None:
        names = np.array([str(reference.classes(row).label) for row in shown.tolist()])
    outlines: list[tuple[str, Floats]] = []
    wide: list[str] = []
    for region in regions:
        inside = points[torch.isin(shown, region.members).numpy()]
        if convex_hull(inside)[1] > _MOST * np.prod(np.ptp(points, axis=0)) > 0:
            wide.append(_caption(region))
        else:
            outlines.append((_caption(region), inside))
    few = "All" if len(shown) == len(bank) else f"{len(shown)} of"
    text = f"{few} {len(bank)} instances of the bank."
    if regions:
        text += f" Outlined: {len(outlines)} of {len(regions)} regions."
    if wide:
        text += f" Not outlined, since all over the map: {', '.join(wide)}."
    block = _map_block(points, _clouds(points, names), outlines, axis_names)
    return tiles.draw([tiles.Row(text), block], **figure)


def _caption(region: Region) -> str:
    name = "new input" if region.query is None else f"row {region.query}"
    tested = region.significance
    return name if tested is None or tested.passed else f"{name} (n.s.)"


def _placed(
    bank: ConfigurationBank, rows: Tensor, embedding: Any
) -> tuple[list[str], Floats]:
    """The names of the map's axes, and where rows lie on it."""
    if embedding is None:
        points, shares = principal_components(bank, rows)
        parts = [f"{share:.0%} of the variance" for share in shares]
        return [f"component {i} ({part})" for i, part in enumerate(parts, 1)], points
    given = np.asarray(torch.as_tensor(embedding).detach().cpu(), np.float64)
    if given.shape != (len(rows), 2) or not np.isfinite(given).all():
        raise ValueError(
            f"embedding has shape {given.shape}; give two finite coordinates for each of "
            f"the {len(rows)} drawn rows"
        )
    return ["embedding 1", "embedding 2"], given


def _clouds(
    points: Floats, names: npt.NDArray[np.str_] | None
) -> list[tuple[str, str, str, Floats]]:
    """Sign, name, color and points of each class; too many share what they have."""
    if names is None:
        return [("●", "", sheet.GRAY, points)]
    counts = Counter(sorted(names)).most_common(len(MARKS))
    clouds = [
        (sign, name, color, points[names == name])
        for (name, _), (color, sign) in zip(sorted(counts), MARKS, strict=False)
    ]
    rest = ~np.isin(names, [name for name, _ in counts])
    if rest.any():
        more = f"{len(set(names[rest]))} more"
        clouds.append(("●", more, sheet.GRAY, points[rest]))
    return clouds


def _map_block(
    points: Floats,
    clouds: Sequence[tuple[str, str, str, Floats]],
    outlines: Sequence[tuple[str, Floats]],
    axis_names: Sequence[str],
) -> sheet.Block:
    """The map, and what its colors mean beside it."""
    colors = [sheet.PALETTE[-1 - i % len(sheet.PALETTE)] for i in range(len(outlines))]
    key = [(sign, name, color) for sign, name, color, _ in clouds if name]
    key += [
        ("╌○" if i % len(_LINES) else "─○", name, color)
        for i, ((name, _), color) in enumerate(zip(outlines, colors, strict=True))
    ]

    def draw(canvas: sheet.Canvas, left: float, top: float) -> None:
        ax, scale = canvas.plot(left + 0.5, top + 0.05, _MAP, _MAP), canvas.scale
        area = float(np.clip(8000 / len(points), 3, 16)) * scale**2
        for sign, _, color, some in clouds:
            x, y = some.T
            marker = "^" if sign == "▲" else "o"
            alpha = 0.4 if color == sheet.GRAY else 0.7
            ax.scatter(x, y, area, color, marker=marker, alpha=alpha, linewidths=0)
        for i, (_, inside) in enumerate(outlines):
            x, y = convex_hull(inside)[0].T
            ax.fill(x, y, fill=False, ec=colors[i], ls=_LINES[i % 4], lw=1.4 * scale)
            x, y = inside.T
            ax.scatter(x, y, 9 * scale**2, "none", edgecolors=colors[i], linewidths=0.6)
        ax.margins(0.05)
        ax.set(xlabel=axis_names[0], ylabel=axis_names[1])

    room = sheet.WIDTH - _MAP - 0.6
    return sheet.beside(sheet.Block(_MAP + 0.5, draw), _MAP + 0.6, sheet.key(key, room))


def convex_hull(points: Floats) -> tuple[Floats, float]:
    """Corners of the convex hull of points ``(M, 2)``, counterclockwise, and its area.

    >>> corners, area = convex_hull(np.array([[0.0, 0], [2, 0], [1, 0.5], [2, 2], [0, 2]]))
    >>> corners.tolist(), area
    ([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]], 4.0)
    """
    try:
        hull = ConvexHull(points)
        return points[hull.vertices], float(hull.volume)
    except (QhullError, ValueError):  # fewer than three points, or all on a line
        ordered = np.unique(points, axis=0)
        return np.concatenate([ordered[:1], ordered[1:][-1:]]), 0.0


def principal_components(
    bank: ConfigurationBank, rows: Tensor
) -> tuple[Floats, Floats]:
    """Coordinates of bank rows along two principal components of their states.

    By subspace iteration (Halko, Martinsson and Tropp, *Finding structure with
    randomness*, SIAM Review 2011, Algorithm 4.4); a few rows are unpacked at a time. The
    largest coordinate along each component is positive.

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

    def centered() -> Iterator[Tensor]:
        return (bank.states(part).float() - mean for part in parts)

    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(bank.n_neurons, _DIRECTIONS, generator=generator)
    for _ in range(_ROUNDS):
        products = [block.T @ (block @ basis) for block in centered()]
        basis = torch.linalg.qr(torch.stack(products).sum(0)).Q
    along = torch.cat([block @ basis for block in centered()]).double()
    _, sizes, turned = torch.linalg.svd(along, full_matrices=False)
    points = F.pad(along @ turned.T, (0, 2))[:, :2].numpy()
    largest = points[np.abs(points).argmax(0), [0, 1]]
    variance = float((mean * (1 - mean)).sum()) * len(rows)
    shares = F.pad(sizes, (0, 2))[:2].numpy() ** 2 / (variance or 1.0)
    return points * np.where(largest < 0, -1, 1), shares
