"""Write a page of the concepts of a layer."""

import os
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from captum_rdr.discovery import Atlas
from captum_rdr.report.looks import LOOKS, MOST_LOOKS
from captum_rdr.report.page import Album, write_page
from captum_rdr.visualization.reference import as_reference

Floats = npt.NDArray[np.float64]

# Width of the map in shares of its height, and how much of it bubbles cover.
_WIDE, _COVERED = 1.6, 0.3


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

    >>> import tempfile, torch
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
    given = {"labels": labels, "predictions": predictions, "class_names": class_names}
    known = {name: value for name, value in given.items() if value is not None}
    count = min(n_pictures(atlas), len(atlas.explainer.bank))
    album = Album(replace(as_reference(dataset), **known), names, count)
    write_page(path, "atlas.html", title, album, **atlas_part(atlas, show_progress))


def n_pictures(atlas: Atlas | None) -> int:
    """How many pictures an atlas shows, at most."""
    return sum(len(one.exemplars) + MOST_LOOKS for one in atlas or ())


def atlas_part(atlas: Atlas | None, show_progress: bool) -> dict[str, Any]:
    """What a page is told of an atlas, and where its concepts are on a map."""
    if atlas is None:
        return {"atlas": None, **LOOKS}
    bar = tqdm(atlas, "Drawing", unit="concept", disable=not show_progress, delay=1)
    overlap, sizes = atlas.overlap.numpy(), [len(one.rows) for one in atlas]
    bubbles = bubbles_of(overlap, np.array(sizes, float))
    return {
        "atlas": atlas,
        "concepts": bar,
        "overlap": overlap.tolist(),
        "order": np.argsort(-overlap, kind="stable").tolist(),
        "bubbles": (1000 * bubbles).round(1).tolist(),
        "wide": int(1000 * _WIDE),
        **LOOKS,
    }


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
    areas = _COVERED * _WIDE * sizes / max(sizes.sum(), 1)
    radii = np.clip(np.sqrt(areas / np.pi), 0.012, 0.21)
    centering = np.eye(count) - 1 / max(count, 1)
    values, axes = np.linalg.eigh(centering @ (1 - overlap) ** 2 @ centering / -2)
    points = (axes * np.sqrt(np.clip(values, 0, None)))[:, ::-1][:, :2]
    points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))
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
