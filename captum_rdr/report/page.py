"""What all pages share: the instances that they show, and how a page is written."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np

from captum_rdr._arguments import positional
from captum_rdr.bank.files import replacing
from captum_rdr.report.images import thumbnail_uri
from captum_rdr.version import __version__
from captum_rdr.visualization.reference import UNKNOWN, Classes, Picture, Reference

# Pixels of all pictures of a page together, about (some 20 MB), and along the longer
# side of each.
_PIXELS, _SIDES = 6e7, (96, 320)


class Shown(NamedTuple):
    """An instance that a page shows, once or more often.

    Attributes:
        name: what it is called.
        row: its bank row; None for a new input.
        label: its class, where known.
        prediction: the class that the model predicts, where known.
        is_wrong: whether both are known and differ.
        picture: the number of its picture.
    """

    name: str
    row: int | None
    label: str | None
    prediction: str | None
    is_wrong: bool
    picture: int


class Item(NamedTuple):
    """An instance at one place of a page.

    Attributes:
        number: which of the album's.
        notes: further lines of its caption.
        style: CSS that shows a part of it.
        is_query: whether it is the query.
        veil: an image that covers what does not matter; empty for none.
    """

    number: int
    notes: Sequence[str] = ()
    style: str = ""
    is_query: bool = False
    veil: str = ""


class Strip(NamedTuple):
    """A heading and the instances below it.

    Attributes:
        heading: what they are; it may be empty.
        items: those to see.
        is_warning: whether the heading warns.
        more: all of them, to be shown when asked for; empty where all are seen.
        more_said: what asks for them.
    """

    heading: str
    items: Sequence[Item] = ()
    is_warning: bool = False
    more: Sequence[int] = ()
    more_said: str = ""


def file_names(dataset: Any) -> list[str] | None:
    """Names of a data set's files with their folder's, if it has ``samples``."""
    samples = getattr(dataset, "samples", None)
    if samples is None:
        return None
    return [os.path.join(*Path(path).parts[-2:]) for path, *_ in samples]


class Album:
    """The instances of a page; each picture is stored once.

    Args:
        reference: what bank rows look like.
        names: what they are called; None for the files of a data set that knows them
            (``samples``, as torchvision's folders have), else by their number.
        expected: pictures, about; the more, the smaller they are stored.

    Attributes:
        shown: the instances.
        uris: the pictures, each with its number.
        aspect: height of the latest picture in shares of its width.

    >>> album = Album(Reference(np.zeros((2, 4, 4, 3)), [0, 1]), None, 2)
    >>> album.row(1), album.row(0), album.row(1)
    (0, 1, 0)
    >>> album.shown[0]
    Shown(name='Row 1', row=1, label='1', prediction=None, is_wrong=False, picture=0)
    >>> len(album.uris)  # both pictures are black
    1
    """

    def __init__(self, reference: Reference, names: Any, expected: int) -> None:
        names = file_names(reference.dataset) if names is None else names
        self._names = None if names is None else positional(names, "names")
        self._side = int(np.clip((_PIXELS / max(expected, 1)) ** 0.5, *_SIDES))
        self.reference = reference
        self.shown: list[Shown] = []
        self.uris: dict[str, int] = {}
        self.aspect = 1.0
        self._rows: dict[int, int] = {}

    def row(self, row: int) -> int:
        """The number of a bank row."""
        names = self._names
        if names is not None and row >= len(names):
            raise ValueError(
                f"names has {len(names)} items, but row {row} of the bank is to be "
                "shown; give one for every row"
            )
        if row not in self._rows:
            name = f"Row {row}" if names is None else str(names[row])
            picture, classes = self.reference.picture(row), self.reference.classes(row)
            self._rows[row] = self.add(picture, classes, name, row)
        return self._rows[row]

    def add(
        self, picture: Picture, classes: Classes, name: str, row: int | None = None
    ) -> int:
        """The number of an instance that is new to the page."""
        self.aspect = picture.shape[0] / picture.shape[1]
        uri = thumbnail_uri(picture, self._side)
        number = self.uris.setdefault(uri, len(self.uris))
        self.shown.append(Shown(name, row, *classes, classes.is_wrong, number))
        return len(self.shown) - 1


def write_page(
    path: str | os.PathLike[str], body: str, title: str, album: Album, **values: Any
) -> None:
    """Write a page, with everything that came from outside escaped.

    Args:
        path: the file.
        body: name of the template.
        title: the page's title.
        album: the instances.
        **values: what the template needs.
    """
    loader = jinja2.PackageLoader("captum_rdr.report", ".")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined
    )
    parts = {"album": album, "Item": Item, "Strip": Strip, "unknown": UNKNOWN}
    environment.globals.update(parts, version=__version__)
    template = environment.get_template("page.html")
    page = template.render(body=body, title=title, **values)
    with replacing(Path(path)) as file:
        file.write(page.encode(errors="replace"))  # of names that are no text
