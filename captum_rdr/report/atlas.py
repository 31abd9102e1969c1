"""Write a page of the concepts of a layer."""

import os
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from captum_rdr.axes import KINDS, LayerAxes, guessed_axes
from captum_rdr.bank import ConfigurationBank
from captum_rdr.discovery import Atlas, Concept
from captum_rdr.method.region import Region
from captum_rdr.report.images import veil_uri
from captum_rdr.report.page import Album, Item, referred, write_page
from captum_rdr.visualization.reference import UNKNOWN

Floats = npt.NDArray[np.float64]

_NEURONS, _TOP = 10, 4  # principal neurons of a concept, and instances of each
_CROP = 0.35  # of a picture around a neuron's place
_WIDE = 1.6  # width of the map in shares of its height
_COVERED = 0.3  # of the map by bubbles
_NEAR = 0.02  # overlap of two concepts, at least, that is worth a word


class Neuron(NamedTuple):
    """A principal neuron: where it is, its wanted state, and where it is most active."""

    place: str
    is_active: bool
    weight: float
    top: list[Item]


class Card(NamedTuple):
    """What a page says of a concept, beside what the concept says itself.

    Attributes:
        number: its place in the atlas.
        concept: the concept.
        labels: how many rows have which label, the most frequent first.
        exemplars: its exemplars.
        neurons: its first principal neurons.
        near: the numbers of those that overlap, and how much, the most first.
        bubble: left, top and diameter on the map, in shares of its height.
    """

    number: int
    concept: Concept
    labels: list[tuple[str, int]]
    exemplars: list[Item]
    neurons: list[Neuron]
    near: list[tuple[int, float]]
    bubble: list[float]


def write_atlas(
    path: str | os.PathLike[str],
    atlas: Atlas,
    dataset: Any,
    *,
    labels: Any = None,
    predictions: Any = None,
    class_names: Any = None,
    names: Any = None,
    title: str = "Atlas of concepts",
    show_progress: bool = True,
) -> None:
    """Write one HTML page of the concepts of a layer, to look at and to search.

    The file needs neither network nor server. It begins with what was found in words,
    then a map of the concepts, and a card for each: exemplars, and where in them the
    concept lies (where the layer has places); the first ten principal neurons; labels,
    tests, errors; and the concepts that overlap. An old file is replaced at the end, in
    one step.

    Args:
        path: the file.
        atlas: what `captum_rdr.discovery.atlas` found.
        dataset: the reference set that was fitted, or a
            `captum_rdr.visualization.Reference` of it.
        labels: class of each row by position, as a `Reference` takes it; None for what
            the data set knows.
        predictions: the class that the model predicts for each row, in the same way.
        class_names: name of each class, in the same way.
        names: what each row is called; None for the names of the files, where the data
            set has ``samples`` as torchvision's folders do, else "Row 12".
        title: the page's title.
        show_progress: draw a progress bar when it takes more than a second.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the data set, labels or names are too few, or an image cannot be
            drawn.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from captum_rdr import RelaxedDecisionRegion
    >>> from captum_rdr.discovery import atlas
    >>> drawing = torch.Generator().manual_seed(0)
    >>> data = torch.rand(3, 1, 4, 4, generator=drawing).repeat_interleave(20, 0)
    >>> data = data * (0.8 + 0.2 * torch.rand(data.shape, generator=drawing))
    >>> model = torch.nn.Flatten()
    >>> rdr = RelaxedDecisionRegion(model, model, threshold="median")
    >>> rdr = rdr.fit(data, show_progress=False)
    >>> found = atlas(rdr, labels=[number // 20 for number in range(60)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atlas(f"{folder}/atlas.html", found, data, class_names=["a", "b", "c"])
    ...     page = Path(f"{folder}/atlas.html").read_text()
    >>> page.count("<article") == len(found)
    True
    """
    reference = referred(
        dataset, labels=labels, predictions=predictions, class_names=class_names
    )
    count = sum(len(one.exemplars) + _NEURONS * _TOP for one in atlas)
    album = Album(reference, names, min(count, len(atlas.explainer.bank)))
    overlap = atlas.overlap.numpy()
    bubbles = bubbles_of(overlap, np.array([len(one.rows) for one in atlas], float))
    bar = tqdm(atlas, "Drawing", unit="concept", disable=not show_progress, delay=1)
    cards = []
    for number, one in enumerate(bar):
        near = [
            (int(other), float(overlap[number, other]))
            for other in np.argsort(-overlap[number], kind="stable")
            if other != number and overlap[number, other] >= _NEAR
        ]
        known = Counter[str]()
        for label, times in (one.labels or {}).items():
            # As the data set's own labels are named.
            named = reference.classes_of((torch.empty(0), label)).label or UNKNOWN
            known[named] += times
        exemplars, neurons = _looks(one, atlas.explainer.bank, album)
        common, bubble = known.most_common(), bubbles[number].tolist()
        cards.append(Card(number, one, common, exemplars, neurons, near, bubble))
    layer = atlas.explainer.reader.names[0]
    classes = sorted({label for card in cards for label, _ in card.labels})
    write_page(
        path,
        "atlas.html",
        title,
        album,
        atlas=atlas,
        cards=cards,
        layer=layer,
        classes=classes,
        wide=_WIDE,
    )


def _looks(
    concept: Concept, bank: ConfigurationBank, album: Album
) -> tuple[list[Item], list[Neuron]]:
    """The exemplars, and where the concept lies in them; and the principal neurons."""
    rows, region = concept.exemplars, concept.region
    axes = bank.axes or guessed_axes(bank.layer_shape)
    shape = album.reference.picture(int(rows[0])).shape
    aspect = shape[0] / shape[1]
    exemplars = [Item(album.row(row)) for row in rows.tolist()]
    weights = torch.zeros(bank.n_neurons, dtype=torch.float64)
    weights[region.neurons] = region.weights
    # What each place adds to the evidence of each, beyond what it adds on average.
    shares = bank.active_counts.cpu() / len(bank)
    excess = (bank.states(rows).double() - shares) * weights
    by_place, _ = axes.arranged(excess.reshape(-1, *bank.layer_shape), aspect)
    places = by_place.sum((1, 2)).clamp(min=0).numpy()
    if min(places.shape[1:]) > 1:
        full = np.maximum(np.quantile(places, 0.9, axis=(1, 2), keepdims=True), 1e-9)
        veils = [veil_uri(one, aspect) for one in places / full]
        exemplars = [
            one._replace(veil=veil) for one, veil in zip(exemplars, veils, strict=True)
        ]
    return exemplars, neurons_of(region, bank, axes, album, aspect)


def neurons_of(
    region: Region,
    bank: ConfigurationBank,
    axes: LayerAxes,
    album: Album,
    aspect: float,
) -> list[Neuron]:
    """The first principal neurons, and where the bank has features, what they look for."""
    neurons, coordinates = [], region.unravel()
    numbers = torch.arange(bank.n_neurons).reshape(1, *bank.layer_shape)
    where = axes.arranged(numbers, aspect)[0][0].flatten(0, 1)
    for which in region.named(_NEURONS).tolist():
        neuron, named = int(region.neurons[which]), axes.named(coordinates[which])
        place = ", ".join(f"{kind} {named[kind]}" for kind in KINDS if kind in named)
        top: list[Item] = []
        if bank.features is not None:
            values = bank.features[:, neuron].double().cpu()
            order = values.argsort(descending=True, stable=True)[:_TOP]
            style = _around((where == neuron).any(0).numpy(), aspect)
            top = [
                Item(album.row(row), [f"{values[row]:.3g}"], style=style)
                for row in order.tolist()
            ]
        weight, state = float(region.weights[which]), bool(region.states[which])
        neurons.append(Neuron(place, state, weight, top))
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
    return (
        f"background-size:{100 * zoom[1]:.0f}% auto;"
        f"background-position:{at[1]:.0f}% {at[0]:.0f}%"
    )


def bubbles_of(overlap: Floats, sizes: Floats) -> Floats:
    """Where concepts lie on a map: near where they overlap, none upon another.

    Classical scaling (principal coordinates) of ``1 - overlap``; then circles whose areas
    are as the sizes push each other apart.

    Args:
        overlap: ``(K, K)`` from 0 to 1.
        sizes: ``(K,)``.

    Returns:
        ``(K, 3)``: left, top and radius of each circle on a map of height 1.

    >>> likeness = np.eye(3)
    >>> likeness[0, 1] = likeness[1, 0] = 0.8
    >>> found = bubbles_of(likeness, np.array([4.0, 4.0, 1.0]))
    >>> apart = np.linalg.norm(found[:, None, :2] - found[:, :2], axis=2)
    >>> bool(apart[0, 1] < apart[0, 2]), found[:, 2].round(2).tolist()
    (True, [0.21, 0.21, 0.13])
    """
    count = len(sizes)
    radii = np.sqrt(_COVERED * _WIDE / np.pi * sizes / max(sizes.sum(), 1))
    radii = np.clip(radii, 0.012, 0.21)
    centering = np.eye(count) - 1 / max(count, 1)
    products = centering @ (1 - overlap) ** 2 @ centering / -2
    values, axes = np.linalg.eigh(products)
    points = (axes * np.sqrt(np.clip(values, 0, None)))[:, ::-1][:, :2]
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
    points *= np.where(points.sum(0) < 0, -1, 1)
    box = np.array([_WIDE, 1.0]) / 2
    turns = np.arange(count)[:, None] * 2.4
    points = points / max(np.abs(points).max(initial=0), 1e-9) * 0.7 * box
    points += 0.01 * np.hstack([np.cos(turns), np.sin(turns)])  # no two are the same
    wanted = (radii[:, None] + radii + 0.012) * (1 - np.eye(count))
    for _ in range(400):
        apart = points[:, None] - points
        far = np.maximum(np.linalg.norm(apart, axis=2), 1e-9)
        push = np.clip(wanted - far, 0, None) / far / 2
        points = points + (apart * push[..., None]).sum(1)
        points = np.clip(points, radii[:, None] - box, box - radii[:, None])
    return np.column_stack([points + box, radii])
