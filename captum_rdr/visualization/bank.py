"""A map of a bank, regions outlined."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.visualization import sheet, tiles
from captum_rdr.visualization.reference import Floats, Reference, as_reference

_MAP = 4.0  # side of the map, in inches
MARKS = [(color, sign) for sign in "●▲" for color in sheet.PALETTE]
"""Color and sign of each class that has its own."""
_MOST = 0.5  # share of the map that an outline may cover
_BLOCK = 1 << 24  # states unpacked at a time
_DIRECTIONS, _ROUNDS = 16, 16  # of the search for components


def visualize_bank(
    regions: Sequence[Region],
    bank: ConfigurationBank,
    dataset: Any = None,
    **figure: Unpack[sheet.FigureOptions],
) -> sheet.FigureAxes:
    """Draw a map of a bank with regions outlined.

    The map's axes are the first two principal components of the states.

    Args:
        regions: regions of the bank, or none; each is outlined by the convex hull of its
            members on the map, so that strangers may lie within, unless that covers most
            of it. "n.s." marks those that a test did not find significant.
        bank: the reference bank.
        dataset: a `Reference` of the reference set that was fitted, whose labels color
            the map; None for one color.
        **figure: see `FigureOptions`.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        ValueError: labels do not fit the bank, or a region is that of another.

    >>> bank = ConfigurationBank((12,))
    >>> bank.append(torch.rand(50, 12, generator=torch.Generator().manual_seed(0)) > 0.5)
    >>> fig, ax = visualize_bank([], bank, use_pyplot=False)
    >>> ax.child_axes[0].collections[0].get_offsets().shape
    (50, 2)
    """
    for region in regions:
        region.check_layer(bank.layer_shape, bank.fingerprint)
    points, shares = principal_components(bank)
    outlined: list[_Group] = []
    wide = []
    for region in regions:
        inside = points[region.members.numpy()]
        if convex_hull(inside)[1] > _MOST * np.prod(np.ptp(points, axis=0)) > 0:
            wide.append(_caption(region))
        else:
            number = len(outlined)
            color = sheet.PALETTE[-1 - number % len(sheet.PALETTE)]
            line = sheet.LINES[number % len(sheet.LINES)]
            outlined.append(_Group(_caption(region), color, line, inside))
    text = f"All {len(bank)} instances of the bank."
    if regions:
        text += f" Outlined: {len(outlined)} of {len(regions)} regions."
    if wide:
        text += f" Not outlined, since all over the map: {', '.join(wide)}."
    clouds = _clouds(points, as_reference(dataset))
    block = _map_block(points, shares, clouds, outlined)
    return tiles.draw([tiles.Row(text), block], **figure)


def _caption(region: Region) -> str:
    name = "new input" if region.query is None else f"row {region.query}"
    tested = region.significance
    return name if tested is None or tested.passed else f"{name} (n.s.)"


class _Group(NamedTuple):
    name: str
    color: str
    mark: str  # the sign of a class, the line around a region
    points: Floats


def _clouds(points: Floats, reference: Reference) -> list[_Group]:
    """The points of each class; of many, the smaller ones share what they have."""
    if reference.labels is None:
        return [_Group("", sheet.GRAY, "●", points)]
    names = np.array([str(reference.classes(i).label) for i in range(len(points))])
    counts = Counter(sorted(names)).most_common(len(MARKS))
    clouds = [
        _Group(name, color, sign, points[names == name])
        for (name, _), (color, sign) in zip(sorted(counts), MARKS, strict=False)
    ]
    rest = ~np.isin(names, [name for name, _ in counts])
    more = f"{len(set(names[rest]))} more"
    return clouds + [_Group(more, sheet.GRAY, "●", points[rest])] * bool(rest.any())


def _map_block(
    points: Floats, shares: Floats, clouds: Sequence[_Group], outlined: Sequence[_Group]
) -> sheet.Block:
    """The map, and what its colors mean beside it."""
    key = [(cloud.mark, cloud.name, cloud.color) for cloud in clouds if cloud.name]
    key += [("─○" if o.mark == "-" else "╌○", o.name, o.color) for o in outlined]

    def draw(canvas: sheet.Canvas, left: float, top: float) -> None:
        ax, scale = canvas.plot(left + 0.5, top + 0.05, _MAP, _MAP), canvas.scale
        area = float(np.clip(8000 / len(points), 3, 16)) * scale**2
        for cloud in clouds:
            marker = "^" if cloud.mark == "▲" else "o"
            x, y = cloud.points.T
            ax.scatter(x, y, area, cloud.color, marker=marker, alpha=0.6, linewidths=0)
        for _, color, line, inside in outlined:
            x, y = convex_hull(inside)[0].T
            ax.fill(x, y, fill=False, ec=color, ls=line, lw=1.4 * scale)
            x, y = inside.T
            ax.scatter(x, y, 9 * scale**2, "none", edgecolors=color, linewidths=0.6)
        ax.margins(0.05)
        names = [f"component {i + 1} ({shares[i]:.0%} of the variance)" for i in (0, 1)]
        ax.set(xlabel=names[0], ylabel=names[1])

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


def principal_components(bank: ConfigurationBank) -> tuple[Floats, Floats]:
    """Coordinates of bank rows along two principal components of their states.

    By subspace iteration (Halko, Martinsson and Tropp, *Finding structure with
    randomness*, SIAM Review 2011, Algorithm 4.4); a few rows are unpacked at a time. The
    largest coordinate along each component is positive.

    Args:
        bank: has the states.

    Returns:
        coordinates, float64 ``(N, 2)``, zero along components that the states do not
        have; and each component's share of the variance, ``(2,)``.

    >>> bank = ConfigurationBank((3,))
    >>> bank.append(torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]]) > 0)
    >>> points, shares = principal_components(bank)
    >>> points.round(2)[:, 0], shares.round(2)
    (array([ 0.71,  0.71, -0.71, -0.71]), array([1., 0.]))
    """
    parts = torch.split(torch.arange(len(bank)), max(1, _BLOCK // bank.n_neurons))
    mean = bank.active_counts.cpu() / len(bank)

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
    variance = float((mean * (1 - mean)).sum()) * len(bank)
    shares = F.pad(sizes, (0, 2))[:2].numpy() ** 2 / (variance or 1.0)
    return points * np.where(largest < 0, -1, 1), shares
