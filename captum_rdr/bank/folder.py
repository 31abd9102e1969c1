"""Banks in a folder: what is there, and reading it."""

import os
from pathlib import Path

import torch

from captum_rdr.bank.bits import row_width
from captum_rdr.bank.dataprint import DataPrint
from captum_rdr.bank.diskrows import DiskRows
from captum_rdr.bank.draft import Draft, block_rows
from captum_rdr.bank.files import open_regular
from captum_rdr.bank.manifest import (
    DRAFT,
    MANIFEST,
    Manifest,
    check_blocks,
    generations,
    read_manifest,
    remove_leftovers,
)
from captum_rdr.bank.origin import Origin
from captum_rdr.bank.parts import BankParts
from captum_rdr.bank.rows import GrowingRows


def read_folder(path: Path, *, mmap: bool) -> BankParts:
    """Read the finished bank of a folder, after checking all of it.

    Args:
        path: the folder, or a link to it; its files may not be links.
        mmap: leave rows and features on disk.

    Raises:
        ValueError: a file is damaged or missing, or the bank is not finished.
    """
    manifest = finished_bank(path)
    if manifest is None:
        unfinished = (path / DRAFT).exists()
        raise ValueError(
            f"{os.fspath(path)!r} holds "
            + (
                "an unfinished bank; finish it with fit(..., out=..., resume=True)"
                if unfinished
                else "no bank; give the folder that fit(..., out=...) wrote"
            )
        )
    parts = BankParts(manifest.origin, _data(path, manifest, "rows"), manifest.counts)
    if mmap:
        parts.columns = _data(path, manifest, "neurons")
    else:
        parts.rows = GrowingRows.around(torch.from_numpy(parts.rows.array.copy()))
    if manifest.feature_dtype is not None:
        values = torch.from_numpy(_data(path, manifest, "features").array)
        features = values.view(manifest.feature_dtype)
        parts.features = GrowingRows.around(features if mmap else features.clone())
    return parts


def _data(folder: Path, manifest: Manifest, name: str) -> DiskRows:
    """A data file, every block of it checked."""
    path = folder / manifest.file_name(name)
    length, width = manifest.shape(name)
    try:
        handle = open_regular(path, follow=False)
    except FileNotFoundError as error:
        raise ValueError(
            f"{os.fspath(path)!r} is missing; restore the folder from a copy or fit again"
        ) from error
    rows = DiskRows(handle, 0, (length, width))
    size = os.fstat(handle).st_size
    if size != length * width:
        raise ValueError(
            f"{os.fspath(path)!r} has {size} bytes, but {length} rows of {width}; "
            "restore the folder from a copy or fit again"
        )
    step = manifest.column_block if name == "neurons" else manifest.block_rows
    check_blocks(path, rows.blocks(max(1, step) * width), manifest.sums.get(name, []))
    return rows


def finished_bank(folder: Path) -> Manifest | None:
    """The manifest of the folder's bank, None if it holds none."""
    try:
        return read_manifest(folder / MANIFEST)
    except FileNotFoundError:
        return None


def unfinished_bank(folder: Path) -> Manifest | None:
    """The manifest of the folder's draft, None if it holds none.

    A draft that is no younger than the finished bank is what a crash left of the latter.
    """
    finished = finished_bank(folder)
    try:
        draft = read_manifest(folder / DRAFT)
    except FileNotFoundError:
        return None
    is_old = finished is not None and draft.generation <= finished.generation
    return None if is_old else draft


def tidy(folder: Path, manifest: Manifest) -> None:
    """Remove what a crash right after a bank was finished left beside it."""
    (folder / DRAFT).unlink(missing_ok=True)
    remove_leftovers(folder, [manifest.generation])


def new_draft(
    folder: Path,
    origin: Origin,
    feature_dtype: torch.dtype | None,
    data: DataPrint,
    *,
    median: bool,
) -> Draft:
    """Begin a bank beside the folder's finished one; an unfinished one is given up.

    Args:
        folder: the folder, which the caller keeps others from writing to.
        origin: what the states will be states of.
        feature_dtype: dtype of the features that will be kept, None without.
        data: what identifies the data.
        median: whether the thresholds are the reference set's medians.
    """
    present = generations(folder)
    try:
        finished = finished_bank(folder)
        kept = [] if finished is None else [finished.generation]
    except ValueError:  # damaged: its files stay until the new bank is complete
        kept = present
    (folder / DRAFT).unlink(missing_ok=True)
    remove_leftovers(folder, kept)
    width = row_width(origin.n_neurons)
    if feature_dtype is not None:
        width += origin.n_neurons * feature_dtype.itemsize
    manifest = Manifest(
        origin,
        generation=1 + max(present, default=0),
        block_rows=block_rows(width),
        feature_dtype=feature_dtype,
        median=median,
    )
    draft = Draft(folder, manifest, data)
    draft.save()
    return draft
