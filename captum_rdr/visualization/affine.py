"""Planes in a feature space, and the affine maps from it to a layer's neurons."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import Module

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.model.hooks import evaluating, recording

Floats = npt.NDArray[np.float64]

_AFFINE = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.Flatten,
    nn.Identity,
    nn.Dropout,
)


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

    def points(self, coordinates: Floats) -> Floats:
        """The points ``(M, F)`` of the feature space at coordinates ``(M, 2)``."""
        result: Floats = self.origin + coordinates @ self.axes
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
    along = np.linalg.norm(sides[0])
    first = sides[0] / along if along > 0 else sides[0]
    rest = sides[1] - (sides[1] @ first) * first
    away = np.linalg.norm(rest)
    if along == 0 or away <= 1e-6 * np.linalg.norm(sides):
        raise ValueError(
            "the features of the three anchors lie on a line, so they span no plane; "
            "give three instances that the layer tells apart"
        )
    axes = np.stack([first, rest / away])
    return Plane(points[0], axes, (points - points[0]) @ axes.T)


class AffineRead(NamedTuple):
    """A layer as an affine map of the features before it.

    Attributes:
        features: flat features of each input, float64 ``(B, F)``.
        margins: flat pre-activations minus thresholds, float64 ``(B, D)``; a neuron is
            active where its margin is positive.
    """

    features: Floats
    margins: Floats


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
) -> AffineRead:
    """Run a model and read a layer as an affine map of features before it.

    Args:
        rdr: has the model.
        layer: the region's layer: the last module of the map, or its ReLU.
        bank: has the thresholds.
        affine: the modules of the map, see `affine_modules`.
        inputs: shape ``(B, ...)``.

    Raises:
        ValueError: the layer's states are not those of the affine map.
    """
    model = rdr.forward_func if isinstance(rdr.forward_func, Module) else None
    devices = [one.device for module in affine for one in module.parameters()]
    inputs = inputs.to(devices[0] if devices else inputs.device)
    with recording([affine[0]], model=model, attribute_to_layer_input=True) as record:
        ((features,),) = record.run(rdr.forward_func, inputs, leave_early=True)
    to_input = bank.attribute_to_layer_input
    with recording([layer], model=model, attribute_to_layer_input=to_input) as record:
        ((outputs,),) = record.run(rdr.forward_func, inputs, leave_early=True)
    margins = margins_of(affine, features, bank)
    thresholds = bank.threshold.double().numpy()
    values = margins + thresholds
    flat = outputs.flatten(1).double().cpu().numpy()
    behind_relu = not isinstance(layer, _AFFINE) and _close(flat, np.maximum(values, 0))
    has_negative = bool((thresholds < 0).any())
    if (behind_relu and has_negative) or not (behind_relu or _close(flat, values)):
        raise ValueError(
            f"the states of layer {type(layer).__name__} are not those of the affine "
            f"map {[type(one).__name__ for one in affine]} of its input; give as affine "
            "all modules between a recorded layer and this one, which must be the last "
            "of them or a ReLU behind it, with thresholds of 0 or more"
        )
    return AffineRead(features.flatten(1).double().cpu().numpy(), margins)


def _close(first: Floats, second: Floats) -> bool:
    """Whether values are the same but for the rounding of single precision."""
    if first.shape != second.shape:
        return False
    return np.allclose(first, second, 1e-3, 1e-4 * (1 + float(np.abs(first).max())))


def margins_of(
    affine: Sequence[Module], features: Tensor, bank: ConfigurationBank
) -> Floats:
    """Pre-activations minus thresholds ``(B, D)``, float64, of features."""
    value: Any = features
    with torch.no_grad(), evaluating(nn.Sequential(*affine)):
        for module in affine:
            value = module(value)
    flat: Tensor = value.flatten(1).double().cpu()
    if flat.shape[1] != bank.n_neurons:
        raise ValueError(
            f"affine gives {flat.shape[1]} values an instance, but the region's layer has "
            f"{bank.n_neurons} neurons; give the modules that end at that layer"
        )
    margins: Floats = (flat - bank.threshold.double()).numpy()
    return margins
