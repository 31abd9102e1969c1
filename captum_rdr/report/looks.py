"""What a region looks at: places in its pictures, and its principal neurons."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_rdr.axes import KINDS, guessed_axes
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.metrics._regions import jaccard
from captum_rdr.report.images import veil_uri
from captum_rdr.report.page import Album, Item
from captum_rdr.visualization.reference import UNKNOWN, Reference

_NEURONS, _TOP = 10, 4  # principal neurons of a region, and instances of each
_CROP = 0.35  # of a picture around a neuron's place
MOST_LOOKS = _NEURONS * _TOP
"""Instances that the principal neurons of a region show, at most."""


class Neuron(NamedTuple):
    """A principal neuron.

    Attributes:
        place: its channel and place, in words.
        is_active: whether it must be active.
        weight: what it adds to the evidence when active, in nats.
        top: where it is most active; empty where the bank has no features.
    """

    place: str
    is_active: bool
    weight: float
    top: list[Item]


def veils_of(
    region: Region, bank: ConfigurationBank, states: Tensor, aspect: float
) -> list[str]:
    """Images that cover what speaks no more for a region than it does on average.

    Args:
        region: the region.
        bank: its bank.
        states: bool ``(B, D)``, of instances.
        aspect: height of their pictures in shares of the width.

    Returns:
        one each; empty where the layer has no places.
    """
    weights = torch.zeros(bank.n_neurons, dtype=torch.float64)
    weights[region.neurons] = region.weights
    excess = (states.double() - bank.active_counts.cpu() / len(bank)) * weights
    axes = bank.axes or guessed_axes(bank.layer_shape)
    found, _ = axes.arranged(excess.reshape(-1, *bank.layer_shape), aspect)
    places = found.sum((1, 2)).clamp(min=0).numpy()
    if min(places.shape[1:]) < 2:
        return [""] * len(states)
    full = np.maximum(np.quantile(places, 0.9, axis=(1, 2), keepdims=True), 1e-9)
    return [veil_uri(one, aspect) for one in places / full]


def items_of(
    rows: Tensor, region: Region, bank: ConfigurationBank, album: Album
) -> list[Item]:
    """Bank rows, and where in each a region's concept lies."""
    numbers = [album.row(row) for row in rows.tolist()]
    veils = veils_of(region, bank, bank.states(rows), album.aspect)
    return [Item(number, veil=v) for number, v in zip(numbers, veils, strict=True)]


def named_counts(
    counts: Mapping[Any, int], reference: Reference
) -> list[tuple[str, int]]:
    """How often each label occurs, named as the data set's own are, most often first.

    >>> named_counts({1: 2, 0: 3}, Reference((), class_names=["cat", "dog"]))
    [('cat', 3), ('dog', 2)]
    """
    known = Counter[str]()
    for label, times in counts.items():
        known[reference.classes_of((None, label)).label or UNKNOWN] += times
    return known.most_common()


def neurons_of(region: Region, bank: ConfigurationBank, album: Album) -> list[Neuron]:
    """The first principal neurons and, where the bank has features, what they look for."""
    neurons, coordinates, aspect = [], region.unravel(), album.aspect
    axes = bank.axes or guessed_axes(bank.layer_shape)
    numbers = torch.arange(bank.n_neurons).reshape(1, *bank.layer_shape)
    where = axes.arranged(numbers, aspect)[0][0].flatten(0, 1)
    for which in region.named(_NEURONS).tolist():
        neuron, named = int(region.neurons[which]), axes.named(coordinates[which])
        place = ", ".join(f"{kind} {named[kind]}" for kind in KINDS if kind in named)
        style, top = _around((where == neuron).any(0).numpy(), aspect), []
        if bank.features is not None:
            values = bank.features[:, neuron].double().cpu()
            rows = values.argsort(descending=True, stable=True)[:_TOP].tolist()
            top = [Item(album.row(row), [f"{values[row]:.3g}"], style) for row in rows]
        weight, state = float(region.weights[which]), bool(region.states[which])
        neurons.append(Neuron(place.capitalize(), state, weight, top))
    return neurons


def _around(place: npt.NDArray[np.bool_], aspect: float) -> str:
    """CSS that shows what lies around a place in a grid; empty where there is none.

    >>> _around(np.eye(4, dtype=bool)[:1], 1.0)
    ''
    >>> _around(np.arange(16).reshape(4, 4) == 15, 1.0)
    'background-size:286% auto;background-position:100% 100%'
    """
    if min(place.shape) < 2 or place.sum() != 1:
        return ""
    middle = (np.argwhere(place)[0] + 0.5) / place.shape
    zoom = np.array([aspect, 1.0]) / (_CROP * max(1.0, aspect))
    at = 100 * np.clip((middle * zoom - 0.5) / np.maximum(zoom - 1, 1e-9), 0, 1)
    size = f"background-size:{100 * zoom[1]:.0f}% auto"
    return f"{size};background-position:{at[1]:.0f}% {at[0]:.0f}%"


LOOKS = {
    one.__name__: one for one in (items_of, jaccard, named_counts, neurons_of, veils_of)
}
"""What templates call."""
