"""Write a page of the concepts of a layer."""

import os
from typing import Any

from tqdm.auto import tqdm

from captum_rdr.discovery import Atlas
from captum_rdr.report.looks import LOOKS, MOST_LOOKS
from captum_rdr.report.page import Album, write_page
from captum_rdr.visualization.reference import as_reference


def write_atlas(
    path: str | os.PathLike[str],
    atlas: Atlas,
    dataset: Any,
    *,
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
            `captum_rdr.visualization.Reference` of it, which also knows labels,
            predictions and class names.
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
    >>> from captum_rdr.visualization import Reference
    >>> drawing = torch.Generator().manual_seed(0)
    >>> data = torch.rand(3, 1, 4, 4, generator=drawing).repeat_interleave(20, 0)
    >>> data = data * (0.8 + 0.2 * torch.rand(data.shape, generator=drawing))
    >>> model = torch.nn.Flatten()
    >>> rdr = RelaxedDecisionRegion(model, model, threshold="median")
    >>> rdr = rdr.fit(data, show_progress=False)
    >>> labels = [number // 20 for number in range(60)]
    >>> found = atlas(rdr, labels=labels)
    >>> reference = Reference(data, labels, class_names=["a", "b", "c"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atlas(f"{folder}/atlas.html", found, reference)
    ...     page = Path(f"{folder}/atlas.html").read_text()
    >>> page.count("<article") == len(found)
    True
    """
    count = sum(len(one.exemplars) + MOST_LOOKS for one in atlas)
    count = min(count, len(atlas.explainer.bank))
    album = Album(as_reference(dataset), names, count)
    write_page(path, "atlas.html", title, album, **atlas_part(atlas, show_progress))


def atlas_part(atlas: Atlas | None, show_progress: bool) -> dict[str, Any]:
    """What the template of an atlas is told."""
    if atlas is None:
        return {"atlas": None, **LOOKS}
    overlap = atlas.overlap
    order = overlap.argsort(dim=1, descending=True, stable=True)
    bar = tqdm(atlas, "Drawing", unit="concept", disable=not show_progress, delay=1)
    shared = {"overlap": overlap.tolist(), "order": order.tolist()}
    return {"atlas": atlas, "concepts": bar, **shared, **LOOKS}
