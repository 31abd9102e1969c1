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


def listed(images: Images) -> list[list[str]]:
    """Path of each image, and a digest of its length and both its ends."""
    return [[path, _digest(images.path(row))] for row, path in enumerate(images.paths)]


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


def begin(bank: Path, images: Images, *, resume: bool) -> list[list[str]]:
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
        if stored["files"][:n_finished] != here[:n_finished]:
            raise ValueError(
                f"the bank to resume, {os.fspath(bank)!r}, has indexed other files"
                f"{_difference(stored['files'], here)}; restore them, or fit without "
                "--resume"
            )
    bank.mkdir(parents=True, exist_ok=True)
    _write(bank / _DRAFT, {"files": here})
    return here


def finish(bank: Path, here: list[list[str]], rows: list[int]) -> list[str]:
    """Store which files became rows; gives the paths of those that were skipped."""
    kept = set(rows)
    skipped = [path for row, (path, _) in enumerate(here) if row not in kept]
    fields = {"files": here, "skipped": skipped, "rows": _rows_digest(bank)}
    _write(bank / _LIST, fields)
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
        skipped = set(stored["skipped"])
        here = [one for one in here if one[0] not in skipped]
        before = [one for one in stored["files"] if one[0] not in skipped]
    # Of a bank that the command did not make only the size is known.
    if len(here) != n_rows or sorted(before) != sorted(here):
        found = (
            f"has {len(here)} images, but the bank has {n_rows} instances"
            if len(here) != n_rows
            else "is not as fit read it"
        )
        raise ValueError(
            f"{images.folder!r} {found}{_difference(before, here)}; give the folder that "
            "fit read, or fit again"
        )
    place = {path: row for row, path in enumerate(images.paths)}
    images.only([place[path] for path, _ in before])


def _difference(earlier: list[list[str]], here: list[list[str]]) -> str:
    """How lists of files differ, in a few words."""
    before = dict(earlier)
    now = dict(here)
    groups = {
        "missing or renamed": [one for one in before if one not in now],
        "added or renamed": [one for one in now if one not in before],
        "changed": [one for one in before if now.get(one, before[one]) != before[one]],
    }
    told = [
        f"{len(names)} {what} ({', '.join(names[:_NAMED])}"
        f"{', ...' if len(names) > _NAMED else ''})"
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
