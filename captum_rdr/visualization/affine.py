"""A region on a plane in the space of the features that an affine map takes in."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import Module

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.model.hooks import evaluating
from captum_rdr.model.inputs import input_arguments
from captum_rdr.model.reader import LayerReader
from captum_rdr.visualization.tiles import layer_of

Floats = npt.NDArray[np.float64]

_WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_OTHERS = (nn.AvgPool1d, nn.AvgPool2d, nn.Flatten, nn.Identity, nn.Dropout)
_AFFINE = _WEIGHTED + _NORMS + _OTHERS
_STEPS = 240  # sampled points along each side of the view
_BLOCK = 1 << 25  # states of sampled points held at a time
_ROOM = 0.6  # view around the anchors, in shares of their extent


class Plane(NamedTuple):
    """A plane through three points of a feature space.

    Attributes:
        origin: the first point, float64 ``(F,)``.
        axes: two orthonormal directions, float64 ``(2, F)``, so that distances in the
            plane are distances in the feature space.
        anchors: the three points in the plane, float64 ``(3, 2)``.
    """

    origin: Floats
    axes: Floats
    anchors: Floats

    def project(self, points: Floats) -> Floats:
        """Coordinates ``(M, 2)`` of the orthogonal projections of points ``(M, F)``."""
        result: Floats = (points - self.origin) @ self.axes.T
        return result


def plane_through(points: Floats) -> Plane:
    """The plane through three points ``(3, F)``; the first axis points to the second.

    Raises:
        ValueError: two points coincide or all lie on a line.

    >>> plane_through(np.array([[0.0, 0, 1], [2, 0, 1], [1, 3, 1]])).anchors
    array([[0., 0.],
           [2., 0.],
           [1., 3.]])
    """
    sides = points[1:] - points[0]
    directions, lengths = np.linalg.qr(sides.T)
    along, away = np.diag(lengths) if lengths.shape == (2, 2) else (0.0, 0.0)
    if along == 0 or abs(away) <= 1e-6 * np.linalg.norm(sides):
        raise ValueError(
            "the features of the three anchors lie on a line, so they span no plane; "
            "give three instances that the layer tells apart"
        )
    axes = directions.T * np.sign([[along], [away]])
    return Plane(points[0], axes, (points - points[0]) @ axes.T)


def affine_modules(affine: Module | Sequence[Module]) -> list[Module]:
    """The modules of an affine map, in order.

    Raises:
        TypeError: it is no module or sequence of modules.
        ValueError: it is empty, or a module is not affine.

    >>> affine_modules(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    [Flatten(start_dim=1, end_dim=-1), Linear(in_features=4, out_features=2, bias=True)]
    """
    given = [affine] if isinstance(affine, Module) else affine
    if not isinstance(given, (list, tuple)) or not all(
        isinstance(one, Module) for one in given
    ):
        raise TypeError(
            f"affine is a {type(affine).__name__}; give the module, or the list of "
            "modules, that makes the layer's pre-activation of recorded features"
        )
    flat: list[Module] = []
    for one in given:
        flat += list(one) if isinstance(one, nn.Sequential) else [one]
    unfit = [one for one in flat if not isinstance(one, _AFFINE)]
    if not flat or unfit:
        raise ValueError(
            f"affine holds {unfit[0] if unfit else 'no module'}, but the plane is drawn "
            "for affine maps alone: linear layers and convolutions, followed or led by "
            "batch norm, average pooling, flatten and dropout; give those between the "
            "last nonlinearity before the layer and its own"
        )
    return flat


def read_affine(
    rdr: RelaxedDecisionRegion,
    layer: Module,
    bank: ConfigurationBank,
    affine: Sequence[Module],
    inputs: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run a model and read a layer as an affine map of features before it.

    Args:
        rdr: has the model.
        layer: the region's layer: the last module of the map, or its ReLU.
        bank: has the thresholds.
        affine: the modules of the map, see `affine_modules`.
        inputs: shape ``(B, ...)``.

    Returns:
        flat features of each input, float64 ``(B, F)``; and pre-activations minus
        thresholds, float64 ``(B, D)``: a neuron is active where that is positive.

    Raises:
        ValueError: the layer's states are not those of the affine map.
    """
    devices = [one.device for module in affine for one in module.parameters()]
    inputs = inputs.to(devices[0] if devices else inputs.device)
    features = _recorded(rdr, affine[0], inputs, True)
    value: Any = features
    with torch.no_grad(), evaluating(nn.Sequential(*affine)):
        for module in affine:
            value = module(value)
    values, threshold = _flat(value), bank.threshold.double()
    if values.shape[1] != bank.n_neurons:
        raise ValueError(
            f"affine gives {values.shape[1]} values an instance, but the region's layer "
            f"has {bank.n_neurons} neurons; give the modules that end at that layer"
        )
    outputs = _flat(_recorded(rdr, layer, inputs, bank.attribute_to_layer_input))
    is_relu = not isinstance(layer, _AFFINE) and _close(outputs, values.clamp(min=0))
    has_negative = bool((threshold < 0).any())
    if (is_relu and has_negative) or not (is_relu or _close(outputs, values)):
        raise ValueError(
            f"the states of layer {type(layer).__name__} are not those of the affine "
            f"map {[type(one).__name__ for one in affine]} of its input; give as affine "
            "all modules between a recorded layer and this one, which must be the last "
            "of them or a ReLU behind it, with thresholds of 0 or more"
        )
    return _flat(features), values - threshold


def _recorded(
    rdr: RelaxedDecisionRegion, layer: Module, inputs: Tensor, to_input: bool
) -> Tensor:
    """What a layer gives, or takes in."""
    reader = LayerReader(rdr.forward_func, [layer], None, [None], None)
    with reader.reading(
        lambda _, found: (found.clone(),), attribute_to_layer_input=to_input
    ) as read:
        ((value,),) = read(input_arguments(inputs, None), "inputs", leave_early=True)
    return value


def _flat(values: Tensor) -> Tensor:
    return values.flatten(1).double().cpu()


def _close(first: Tensor, second: Tensor) -> bool:
    """Whether values are the same but for the rounding of single precision."""
    if first.shape != second.shape:
        return False
    return torch.allclose(first, second, 1e-3, 1e-4 * (1 + float(first.abs().max())))


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

    @property
    def corners(self) -> Floats:
        """Corners of the view, ``(4, 2)``."""
        return np.array([[x, y] for x in self.xs[[0, -1]] for y in self.ys[[0, -1]]])

    @property
    def crossing(self) -> npt.NDArray[np.bool_]:
        """Which neurons' zero lines pass through the view, ``(t,)``."""
        values = self.corners @ self.lines[:, :2].T + self.lines[:, 2]
        return np.asarray((values.min(0) < 0) & (values.max(0) > 0))


def plane_picture(
    region: Region,
    rdr: RelaxedDecisionRegion,
    affine: Module | Sequence[Module],
    anchors: Tensor,
    others: Tensor | None = None,
) -> PlanePicture:
    """Sample what `captum_rdr.visualization.visualize_plane` draws."""
    if not isinstance(anchors, Tensor) or len(anchors) != 3:
        got = tuple(anchors.shape) if isinstance(anchors, Tensor) else type(anchors)
        raise ValueError(
            f"anchors is {got}; give a tensor of three inputs, e.g. "
            "torch.stack([query, dataset[3], dataset[8]])"
        )
    layer, bank = layer_of(region, rdr)
    inputs = anchors if others is None else torch.cat([anchors, others])
    read, margins = read_affine(rdr, layer, bank, affine_modules(affine), inputs)
    features = read.numpy()
    plane = plane_through(features[:3])
    # The margins are affine on the plane, so their values at three points fix them.
    system = np.concatenate([plane.anchors, np.ones((3, 1))], 1)
    on_plane = np.linalg.solve(system, margins[:3].numpy())
    low, high = plane.anchors.min(0), plane.anchors.max(0)
    half = (0.5 + _ROOM) * float((high - low).max())
    xs, ys = np.linspace((low + high) / 2 - half, (low + high) / 2 + half, _STEPS).T
    points = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    inside, distances = [], []
    for block in np.array_split(points, max(1, len(points) * bank.n_neurons // _BLOCK)):
        states = torch.from_numpy(block @ on_plane[:2] + on_plane[2] > 0)
        inside.append(region.contains(states))
        distances.append((states != (margins[0] > 0)).sum(1))
    return PlanePicture(
        plane,
        xs,
        ys,
        torch.cat(inside).reshape(_STEPS, _STEPS).numpy(),
        torch.cat(distances).reshape(_STEPS, _STEPS).numpy(),
        on_plane.T[region.neurons.numpy()],
        plane.project(features[3:]),
        region.contains(margins[3:] > 0).numpy(),
    )
