"""Bank folders in the making: written block by block, resumable after any crash."""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from captum_rdr.bank import bits
from captum_rdr.bank.bits import packed_rows
from captum_rdr.bank.columns import write_columns
from captum_rdr.bank.dataprint import DataPrint
from captum_rdr.bank.diskrows import DiskRows
from captum_rdr.bank.files import flush_folder, open_regular
from captum_rdr.bank.manifest import (
    DRAFT,
    MANIFEST,
    Manifest,
    check_blocks,
    write_manifest,
)
from captum_rdr.model.hooks import raw_bytes

BLOCK_ROWS = 4096
"""Instances a block at most; so many are lost at most when `fit` is killed."""

BLOCK_BYTES = 1 << 26
"""Bytes a block at most, but for at least eight instances."""

COLUMN_BLOCK_BYTES = 1 << 24
"""Bytes a block of the file that is ordered by neuron."""


def block_rows(row_bytes: int) -> int:
    """Instances a block for a given number of bytes an instance.

    >>> block_rows(1600), block_rows(1 << 20)
    (4096, 64)
    """
    return max(8, min(BLOCK_ROWS, BLOCK_BYTES // row_bytes))


class _DataFile:
    """A file to which rows are appended, with a checksum a block."""

    def __init__(self, path: Path, width: int, sums: list[bytes]) -> None:
        self._path, self._width, self.sums = path, width, sums
        self._file = open(path, "r+b" if sums else "wb")  # noqa: SIM115
        self._hash = hashlib.sha256()

    def cut(self, n_rows: int, block_rows: int) -> None:
        """Go back to the finished rows, after checking that they are sound."""
        handle = open_regular(self._path, follow=False)
        rows = DiskRows(handle, 0, (n_rows, self._width))
        if os.fstat(handle).st_size < n_rows * self._width:
            raise ValueError(
                f"{os.fspath(self._path)!r} is shorter than its {n_rows} finished rows; "
                "fit again without resume"
            )
        check_blocks(self._path, rows.blocks(block_rows * self._width), self.sums)
        self._file.truncate(n_rows * self._width)
        self._file.seek(n_rows * self._width)

    def append(self, rows: bits.Bytes) -> None:
        self._hash.update(rows.data)
        self._file.write(rows.data)

    def end_block(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self.sums.append(self._hash.digest())
        self._hash = hashlib.sha256()

    def close(self) -> None:
        self._file.close()


class Draft:
    """A bank folder in the making.

    Rows go to the end of a file; when a block is full it is forced to the disk, and then
    the draft's manifest, with the block's checksum, replaces the one before. So the
    blocks that the manifest names are whole, whatever happens.

    Args:
        folder: the folder, which the caller keeps others from writing to.
        manifest: that of the finished blocks; one without rows for a new bank.
        data: what identifies the data, complete once eight instances were seen.

    Raises:
        ValueError: the finished blocks are damaged.
    """

    def __init__(self, folder: Path, manifest: Manifest, data: DataPrint) -> None:
        self._folder = folder
        self._data = data
        self.manifest = manifest
        if not len(manifest.counts):
            manifest.counts = np.zeros(manifest.origin.n_neurons, np.int64)
        names = ["rows"] if manifest.feature_dtype is None else ["rows", "features"]
        self._in_block = 0
        self._files = {
            name: _DataFile(
                folder / manifest.file_name(name),
                manifest.width(name),
                manifest.sums.setdefault(name, []),
            )
            for name in names
        }
        if manifest.n_rows:
            self._cut()

    def _cut(self) -> None:
        try:
            for file in self._files.values():
                file.cut(self.manifest.n_rows, self.manifest.block_rows)
        except BaseException:
            self.close()
            raise

    def append(self, states: Tensor, features: Tensor | None = None) -> None:
        """Append instances, as `ConfigurationBank.append` does."""
        packed = packed_rows(states, self.manifest.origin.layer_shape)
        start = 0
        while start < len(packed):
            stop = start + self.manifest.block_rows - self._in_block
            part = packed[start:stop]
            self._files["rows"].append(part)
            if features is not None:
                values = raw_bytes(features[start:stop]).numpy()
                self._files["features"].append(values)
            self.manifest.counts += bits.count_active(
                part, self.manifest.origin.n_neurons
            )
            self._in_block += len(part)
            if self._in_block == self.manifest.block_rows:
                self._end_block()
                self.save()
            start = stop

    def save(self) -> None:
        """Write down which blocks are finished."""
        known = self._data.is_complete
        self.manifest.first_rows = self._data.first_rows if known else ""
        self.manifest.expected = self._data.expected
        write_manifest(self._folder / DRAFT, self.manifest)

    def _end_block(self) -> None:
        for file in self._files.values():
            file.end_block()
        self.manifest.n_rows += self._in_block
        self._in_block = 0

    def finish(self) -> None:
        """Put the finished bank in the place of the folder's old one."""
        if self._in_block:
            self._end_block()
        self.close()
        manifest = self.manifest
        manifest.first_rows, manifest.expected = self._data.first_rows, manifest.n_rows
        print_ = self._data.fingerprint(manifest.n_rows)
        manifest.origin = replace(manifest.origin, data_fingerprint=print_)
        rows = self._written("rows", manifest.shape("rows"))
        columns = self._folder / manifest.file_name("neurons")
        columns.unlink(missing_ok=True)
        shape = write_columns(columns, rows, manifest.origin.n_neurons)
        manifest.column_block = max(1, COLUMN_BLOCK_BYTES // shape[1])
        blocks = self._written("neurons", shape).blocks(
            manifest.column_block * shape[1]
        )
        manifest.sums["neurons"] = [
            hashlib.sha256(block.data).digest() for _, block in blocks
        ]
        flush_folder(self._folder)
        write_manifest(self._folder / MANIFEST, manifest)

    def _written(self, name: str, shape: tuple[int, int]) -> DiskRows:
        path = self._folder / self.manifest.file_name(name)
        return DiskRows(open_regular(path, follow=False), 0, shape)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
