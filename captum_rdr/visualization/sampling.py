"""A region on a plane in feature space, sampled at a grid of points."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import Module

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.visualization.affine import (
    Floats,
    Plane,
    affine_modules,
    plane_through,
    read_affine,
)
from captum_rdr.visualization.query import bank_of, layer_index

_STEPS = 240  # sampled points along each side of the view
_BLOCK = 1 << 25  # states of sampled points held at a time
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


def crosses(line: Floats, picture: PlanePicture) -> bool:
    """Whether a neuron's zero line passes through the view."""
    corners = np.array(
        [[x, y, 1] for x in picture.xs[[0, -1]] for y in picture.ys[[0, -1]]]
    )
    values = corners @ line
    return bool(values.min() < 0 < values.max())


def in_view(picture: PlanePicture) -> npt.NDArray[np.bool_]:
    """Which of the other instances' projections are in the view, ``(M,)``."""
    x, y = picture.others.T
    inside: npt.NDArray[np.bool_] = (
        (x >= picture.xs[0])
        & (x <= picture.xs[-1])
        & (y >= picture.ys[0])
        & (y <= picture.ys[-1])
    )
    return inside
