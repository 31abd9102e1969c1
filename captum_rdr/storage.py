"""Files of named tensors: written atomically, checked when read, never unpickled.

A file is in the safetensors format. Its metadata carries what it holds, the version of
that layout, and a checksum over everything else.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from captum_rdr.raw import raw_bytes

FORMAT_VERSION = 1

_CHUNK_BYTES = 1 << 24

PathLike = str | os.PathLike[str]


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
        tensors: named tensors.
        fields: named JSON values.
    """

    tensors: dict[str, Tensor]
    fields: dict[str, Any]


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
    target = Path(path)
    dense = {name: tensor.contiguous() for name, tensor in tensors.items()}
    metadata = {
        "kind": kind,
        "version": str(FORMAT_VERSION),
        "fields": json.dumps(dict(fields), sort_keys=True),
    }
    checksum = _started(metadata)
    for name in sorted(dense):
        checksum.update(name.encode())
        data = raw_bytes(dense[name]).numpy()
        for start in range(0, len(data), _CHUNK_BYTES):
            checksum.update(data[start : start + _CHUNK_BYTES].data)
    metadata["sha256"] = checksum.hexdigest()
    draft = target.with_name(f".{target.name}.{secrets.token_hex(8)}")
    try:
        save_file(dense, draft, metadata)
        _flush(draft)
        os.replace(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        _flush(target.parent)


def check_names(path: PathLike, contents: Contents, names: set[str]) -> None:
    """Refuse a file that lacks a tensor or field.

    Raises:
        ValueError: one of ``names`` is missing.
    """
    missing = names - contents.tensors.keys() - contents.fields.keys()
    if missing:
        raise ValueError(
            f"{os.fspath(path)!r} lacks {sorted(missing)}; save it again with this version"
        )


def read(path: PathLike, kind: str, *, mmap: bool = False) -> Contents:
    """Read what `write` wrote, after checking all of it.

    Args:
        path: the file.
        kind: what the file must hold.
        mmap: leave the tensors on disk; the system loads the pages that are read.

    Raises:
        ValueError: the file is damaged, of another kind or of another version.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/a", "demo", {"x": torch.ones(2)}, {"y": 3})
    ...     read(f"{folder}/a", "demo")
    Contents(tensors={'x': tensor([1., 1.])}, fields={'y': 3})
    """
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            metadata = dict(file.metadata() or {})
            _check_kind(path, kind, metadata)
            names = sorted(file.keys())
            _check_sum(path, names, metadata)
            tensors = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(
            f"{os.fspath(path)!r} is no readable {kind} file ({error}); "
            "save it again or restore it from a copy"
        ) from error
    if not mmap:
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    return Contents(tensors, json.loads(metadata["fields"]))


def _check_kind(path: PathLike, kind: str, metadata: dict[str, str]) -> None:
    missing = {"kind", "version", "fields", "sha256"} - metadata.keys()
    if missing or metadata["kind"] != kind:
        raise ValueError(
            f"{os.fspath(path)!r} holds {metadata.get('kind', 'something else')!r}, "
            f"not a {kind}; give the file that save wrote"
        )
    if metadata["version"] != str(FORMAT_VERSION):
        raise ValueError(
            f"{os.fspath(path)!r} has format version {metadata['version']}, this "
            f"package reads {FORMAT_VERSION}; save it again with this version"
        )


def _check_sum(path: PathLike, names: list[str], metadata: dict[str, str]) -> None:
    """Compare the checksum, reading the file in pieces rather than mapping it."""
    stated = metadata["sha256"]
    checksum = _started({k: v for k, v in metadata.items() if k != "sha256"})
    with open(path, "rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes))
        for name in names:
            checksum.update(name.encode())
            start, stop = header[name]["data_offsets"]
            file.seek(8 + header_bytes + start)
            for position in range(start, stop, _CHUNK_BYTES):
                checksum.update(file.read(min(_CHUNK_BYTES, stop - position)))
    if checksum.hexdigest() != stated:
        raise ValueError(
            f"{os.fspath(path)!r} is damaged: its checksum is "
            f"{checksum.hexdigest()[:12]}..., stated is {stated[:12]}...; save it "
            "again or restore it from a copy"
        )


def _started(metadata: Mapping[str, str]) -> "hashlib._Hash":
    return hashlib.sha256(json.dumps(dict(metadata), sort_keys=True).encode())


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
