"""Files of named tensors: written atomically, checked when read, never unpickled.

A file is in the safetensors format: a length, a JSON header and the tensors' bytes. Its
metadata carries what it holds, the version of that layout, and a checksum over all else.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from captum_rdr.bank.diskrows import Bytes, DiskRows
from captum_rdr.bank.files import PathLike, open_regular, replacing
from captum_rdr.bank.header import (
    Place,
    header_length,
    in_file_order,
    make_header,
    parse_header,
)
from captum_rdr.model.hooks import raw_bytes

FORMAT_VERSION = 1

_CHUNK_BYTES = 1 << 24
_NO_SUM = "0" * 64  # stands in the header while the checksum is taken


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
        tensors: named tensors.
        fields: named JSON values.
    """

    tensors: dict[str, Tensor]
    fields: dict[str, Any]


class Stored(NamedTuple):
    """A checked file, none of whose tensors has been read.

    Attributes:
        path: the file, for messages.
        handle: its descriptor, open for as long as `opened` lasts.
        places: where each tensor lies.
        fields: named JSON values.
    """

    path: PathLike
    handle: int
    places: dict[str, Place]
    fields: dict[str, Any]

    def place(self, name: str, dtype: torch.dtype | None = None) -> Place:
        """Where a tensor lies.

        Raises:
            ValueError: there is no such tensor, or its dtype is another.
        """
        place = self.places.get(name)
        if place is None or dtype not in (None, place.dtype):
            raise ValueError(
                f"{os.fspath(self.path)!r} has no tensor {name!r} of {dtype or 'any'} "
                "dtype; save it again with this version"
            )
        return place

    def rows(self, name: str) -> DiskRows:
        """A two-dimensional tensor of bytes, left on disk."""
        place = self.place(name, torch.uint8)
        length, width = place.shape
        return DiskRows(os.dup(self.handle), place.start, (length, width))

    def tensor(
        self, name: str, dtype: torch.dtype | None = None, *, mmap: bool = False
    ) -> Tensor:
        """A tensor, of the given dtype if one is given: read, or mapped."""
        found, shape, start, stop = self.place(name, dtype)
        if start == stop:
            return torch.empty(shape, dtype=found)
        rows = DiskRows(os.dup(self.handle), start, (1, stop - start))
        flat: Bytes = rows.array[0] if mmap else rows.take(np.array([0]))[0]
        values = torch.from_numpy(flat)
        # A byte that is neither 0 nor 1 is no boolean that PyTorch knows.
        typed = values != 0 if found == torch.bool else values.view(found)
        return typed.reshape(shape)


def write(
    path: PathLike, kind: str, tensors: Mapping[str, Tensor], fields: Mapping[str, Any]
) -> None:
    """Write tensors and JSON fields to one file, all of it or nothing.

    Args:
        path: the file; an old one is replaced at the end, in one step.
        kind: what the file holds, checked by `read`.
        tensors: named CPU tensors.
        fields: JSON-serializable values.
    """
    metadata = {
        "kind": kind,
        "version": str(FORMAT_VERSION),
        "fields": json.dumps(dict(fields), sort_keys=True),
        "sha256": _NO_SUM,
    }
    header = make_header(tensors, metadata)
    checksum = hashlib.sha256(header)
    with replacing(Path(path)) as file:
        file.write(header)
        for name in in_file_order(tensors):
            data = raw_bytes(tensors[name]).numpy()
            for start in range(0, len(data), _CHUNK_BYTES):
                checksum.update(data[start : start + _CHUNK_BYTES].data)
                file.write(data[start : start + _CHUNK_BYTES].data)
        metadata["sha256"] = checksum.hexdigest()
        file.seek(0)
        file.write(make_header(tensors, metadata))


def check_names(path: PathLike, contents: Contents | Stored, names: set[str]) -> None:
    """Refuse a file that lacks a tensor or field.

    Raises:
        ValueError: one of ``names`` is missing.
    """
    tensors = contents.tensors if isinstance(contents, Contents) else contents.places
    missing = names - tensors.keys() - contents.fields.keys()
    if missing:
        raise ValueError(
            f"{os.fspath(path)!r} lacks {sorted(missing)}; save it again with this version"
        )


def read(path: PathLike, kind: str) -> Contents:
    """Read what `write` wrote, after checking all of it.

    Args:
        path: the file.
        kind: what the file must hold.

    Raises:
        ValueError: the file is damaged, of another kind or of another version.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/a", "demo", {"x": torch.ones(2)}, {"y": 3})
    ...     read(f"{folder}/a", "demo")
    Contents(tensors={'x': tensor([1., 1.])}, fields={'y': 3})
    """
    with opened(path, kind) as stored:
        tensors = {name: stored.tensor(name) for name in stored.places}
        return Contents(tensors, stored.fields)


@contextmanager
def opened(path: PathLike, kind: str, *, follow: bool = True) -> Iterator[Stored]:
    """Open what `write` wrote and check all of it, reading it in pieces.

    Args:
        path: the file.
        kind: what the file must hold.
        follow: whether the path may be a symbolic link.

    Raises:
        ValueError: the file is damaged, of another kind or of another version.
    """
    handle = open_regular(path, follow=follow)
    try:
        yield _checked(handle, path, kind)
    finally:
        os.close(handle)


def _checked(handle: int, path: PathLike, kind: str) -> Stored:
    try:
        with os.fdopen(os.dup(handle), "rb") as file:
            file_bytes = os.fstat(handle).st_size
            prefix = file.read(8)
            text = file.read(header_length(prefix, file_bytes))
            metadata, places = parse_header(text, file_bytes)
            _check_kind(path, kind, metadata)
            stated = metadata["sha256"]
            blank = text.replace(stated.encode(), _NO_SUM.encode(), 1)
            checksum = hashlib.sha256(prefix + blank)
            while chunk := file.read(_CHUNK_BYTES):
                checksum.update(chunk)
            fields = json.loads(metadata["fields"])
    except _WrongKindError:
        raise
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{os.fspath(path)!r} is no readable {kind} file ({error}); save it again "
            "or restore it from a copy"
        ) from error
    if checksum.hexdigest() != stated or not isinstance(fields, dict):
        raise ValueError(
            f"{os.fspath(path)!r} is damaged: its checksum is "
            f"{checksum.hexdigest()[:12]}..., stated is {stated[:12]}...; save it "
            "again or restore it from a copy"
        )
    return Stored(path, handle, places, fields)


class _WrongKindError(ValueError):
    """The file is sound, but not what was asked for."""


def _check_kind(path: PathLike, kind: str, metadata: dict[str, str]) -> None:
    missing = {"kind", "version", "fields", "sha256"} - metadata.keys()
    if missing or metadata["kind"] != kind:
        raise _WrongKindError(
            f"{os.fspath(path)!r} holds {metadata.get('kind', 'something else')!r}, "
            f"not a {kind}; give the file that save wrote"
        )
    if metadata["version"] != str(FORMAT_VERSION):
        raise _WrongKindError(
            f"{os.fspath(path)!r} has format version {metadata['version']}, this "
            f"package reads {FORMAT_VERSION}; save it again with this version"
        )
