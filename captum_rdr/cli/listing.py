"""Which files the rows of a bank are, stored beside it."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from captum_rdr.bank import files
from captum_rdr.cli.images import Images

_LIST, _DRAFT = "images.json", "images-draft.json"
_ENDS = 1 << 14  # bytes at either end of a file that tell it from others
_NAMED = 3  # files that an error names


Listed = dict[str, str]
"""Paths of images, each with a digest of its file's length and both its ends."""


def listed(images: Images) -> Listed:
    """What the files of a folder are now."""
    return {path: _digest(images.path(row)) for row, path in enumerate(images.paths)}


def _digest(path: str) -> str:
    try:
        with files.open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            ends = file.read(_ENDS)
            file.seek(max(0, size - _ENDS))
            ends += file.read(_ENDS)
    except (OSError, ValueError):  # told when it is read as an image
        return ""
    return hashlib.sha256(f"{size} ".encode() + ends).hexdigest()[:16]


def begin(bank: Path, images: Images, *, resume: bool) -> Listed:
    """List the files of a bank that is about to be made.

    Raises:
        ValueError: an earlier run, which is to be resumed, read other files.
    """
    here = listed(images)
    stored = (_read(bank / _DRAFT) or _read(bank / _LIST)) if resume else None
    if stored:
        draft = files.read_manifest(bank / files.DRAFT)
        manifest = draft or files.read_manifest(bank / files.MANIFEST)
        n_finished = manifest["arrays"]["rows"]["shape"][0] if manifest else 0
        before = dict(stored["files"])
        if list(before.items())[:n_finished] != list(here.items())[:n_finished]:
            raise ValueError(
                f"the bank to resume, {os.fspath(bank)!r}, has indexed other files"
                f"{_difference(before, here)}; restore them, or fit without --resume"
            )
    _write(bank / _DRAFT, {"files": list(here.items())})
    return here


def finish(bank: Path, here: Listed, rows: list[int]) -> list[str]:
    """Store which files became rows; gives the paths of those that were skipped."""
    kept = set(rows)
    skipped = [path for row, path in enumerate(here) if row not in kept]
    fields = {"files": list(here.items()), "skipped": skipped}
    _write(bank / _LIST, {**fields, "rows": _rows_digest(bank)})
    (bank / _DRAFT).unlink(missing_ok=True)
    return skipped


def check(bank: Path, images: Images, n_rows: int) -> None:
    """Make row i of the images row i of the bank.

    Raises:
        ValueError: files were added, removed, renamed or changed since the bank was made.
    """
    stored = _read(bank / _LIST) or {"rows": ""}
    here = before = listed(images)
    if stored["rows"] == _rows_digest(bank):
        before = dict(stored["files"])
        for path in stored["skipped"]:
            here.pop(path, None)
            before.pop(path, None)
    # Of a bank that the command did not make only the size is known.
    if len(here) != n_rows or before != here:
        raise ValueError(
            f"{images.folder!r} has {len(here)} images and is not as fit read it, the bank "
            f"has {n_rows} instances{_difference(before, here)}; give the folder that fit "
            "read, or fit again"
        )
    place = {path: row for row, path in enumerate(images.paths)}
    images.only([place[path] for path in before])


def _difference(before: Listed, now: Listed) -> str:
    """How lists of files differ, in a few words."""
    groups = {
        "missing or renamed": before.keys() - now.keys(),
        "added or renamed": now.keys() - before.keys(),
        "changed": {one for one in before if now.get(one, before[one]) != before[one]},
    }
    told = [
        f"{len(names)} {what} ({', '.join(sorted(names)[:_NAMED])})"
        for what, names in groups.items()
        if names
    ]
    return f": {', '.join(told)}" if told else ""


def _rows_digest(bank: Path) -> str:
    """What tells the bank of a folder from others."""
    manifest = files.read_manifest(bank / files.MANIFEST)
    return str(manifest["arrays"]["rows"]["sha256"]) if manifest else ""


def _read(path: Path) -> dict[str, Any] | None:
    try:
        fields: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(
            f"{os.fspath(path)!r} is damaged ({error}); fit again, or remove it"
        ) from error
    return fields


def _write(path: Path, fields: dict[str, Any]) -> None:
    with files.replacing(path) as file:
        file.write(json.dumps(fields).encode())
