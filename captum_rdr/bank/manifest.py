"""Bank folders: what lies in them, and the file that says so.

A folder holds the rows, the features where they were kept, and the states neuron by
neuron, each in a plain file; and one checked file, the manifest, that says which of them
make up the bank and what the checksum of each of their blocks is. An unfinished bank has
a manifest too, the draft, of the blocks that are finished. A new bank gets files of the
next generation, so the old bank stays whole until the manifest is replaced.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from captum_rdr.bank import bits, storage
from captum_rdr.bank.bits import row_width
from captum_rdr.bank.header import DTYPES
from captum_rdr.bank.origin import FIELDS, Origin, read_origin
from captum_rdr.bank.parts import check_shapes

MANIFEST, DRAFT = "manifest", "draft"

_KIND = "configuration bank folder"
_OWN = re.compile(
    rf"(rows|features|neurons)-(\d+)\.bin|\.({MANIFEST}|{DRAFT})\.[0-9a-f]+"
)
_SIZES = {"generation", "n_rows", "block_rows", "column_block", "expected"}
_NAMES = {
    *FIELDS,
    *_SIZES,
    *("feature_dtype", "median", "first_rows"),
    *("threshold", "active_counts", "sums"),
}


@dataclass
class Manifest:
    """What a folder's files hold.

    Attributes:
        origin: what the states are states of.
        generation: number of the bank among those that the folder has held.
        block_rows: rows a block; the last may have fewer.
        feature_dtype: dtype of the kept features, None without.
        median: whether the thresholds are the reference set's medians.
        first_rows: digest of the first instances of the data.
        expected: number of instances that the data was said to have, 0 where unknown.
        n_rows: number of rows that are finished.
        counts: in how many of those each neuron is active, int64 ``(D,)``.
        sums: SHA-256 of each block, by the name of its file.
        column_block: neurons a block of the file that is ordered by neuron.
    """

    origin: Origin
    generation: int
    block_rows: int
    feature_dtype: torch.dtype | None
    median: bool
    first_rows: str = ""
    expected: int = 0
    n_rows: int = 0
    counts: bits.Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    sums: dict[str, list[bytes]] = field(default_factory=dict)
    column_block: int = 0

    def width(self, name: str) -> int:
        """Bytes a row of a data file."""
        if name == "rows":
            return row_width(self.origin.n_neurons)
        if name == "neurons":
            return row_width(self.n_rows)
        if self.feature_dtype is None:
            raise KeyError(name)
        return self.origin.n_neurons * self.feature_dtype.itemsize

    def shape(self, name: str) -> tuple[int, int]:
        """Rows and bytes a row of a data file."""
        n_rows = self.origin.n_neurons if name == "neurons" else self.n_rows
        return n_rows, self.width(name)

    def file_name(self, name: str) -> str:
        """Name of a data file; it is made here and never read from a file."""
        return f"{name}-{self.generation:06d}.bin"


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest or draft, in place of the old one."""
    dtype = {value: name for name, value in DTYPES.items()}
    fields = {
        **manifest.origin.fields(),
        **{name: getattr(manifest, name) for name in (*_SIZES, "median", "first_rows")},
        "feature_dtype": manifest.feature_dtype and dtype[manifest.feature_dtype],
    }
    sums = {
        f"{name}_sums": torch.frombuffer(bytearray(b"".join(blocks)), dtype=torch.uint8)
        for name, blocks in manifest.sums.items()
        if blocks
    }
    tensors = {
        "active_counts": torch.from_numpy(manifest.counts),
        "threshold": manifest.origin.threshold,
        **sums,
    }
    storage.write(path, _KIND, tensors, fields)


def read_manifest(path: Path) -> Manifest:
    """Read what `write_manifest` wrote.

    Raises:
        ValueError: it is damaged, or holds something else.
        FileNotFoundError: there is none.
    """
    with storage.opened(path, _KIND, follow=False) as stored:
        storage.check_names(path, stored, _NAMES - {"sums"})
        fields = stored.fields
        origin = read_origin(path, fields, stored.tensor("threshold"))
        _check_fields(path, fields)
        dtype = fields["feature_dtype"] and DTYPES[fields["feature_dtype"]]
        manifest = Manifest(
            origin,
            feature_dtype=dtype or None,
            median=fields["median"],
            first_rows=fields["first_rows"],
            **{name: fields[name] for name in _SIZES},
        )
        counts = stored.place("active_counts", torch.int64)
        check_shapes(path, origin, manifest.shape("rows"), counts.shape)
        manifest.counts = stored.tensor("active_counts").numpy()
        for name in ("rows", "features", "neurons"):
            if f"{name}_sums" in stored.places:
                flat = stored.tensor(f"{name}_sums", torch.uint8).numpy().tobytes()
                manifest.sums[name] = [
                    flat[start : start + 32] for start in range(0, len(flat), 32)
                ]
        return manifest


def _check_fields(path: Path, fields: dict[str, Any]) -> None:
    sizes = all(
        type(fields[name]) is int and 0 <= fields[name] < 1 << 48 for name in _SIZES
    )
    dtype = fields["feature_dtype"]
    known = dtype is None or (isinstance(dtype, str) and dtype in DTYPES)
    texts = isinstance(fields["first_rows"], str) and isinstance(fields["median"], bool)
    if not (sizes and known and texts) or fields["block_rows"] == 0:
        raise ValueError(
            f"{os.fspath(path)!r} has fields of the wrong type; fit again with this "
            "version"
        )


def check_blocks(
    path: Path, blocks: Iterable[tuple[int, bits.Bytes]], sums: list[bytes]
) -> None:
    """Compare the checksum of every block of a data file.

    Raises:
        ValueError: one differs.
    """
    for number, (_, block) in enumerate(blocks):
        found = hashlib.sha256(block.data).digest()
        if number >= len(sums) or found != sums[number]:
            raise ValueError(
                f"{os.fspath(path)!r} is damaged in block {number}; restore the folder "
                "from a copy or fit again without resume"
            )


def generations(folder: Path) -> list[int]:
    """Generations of which a folder holds data files."""
    found = [_OWN.fullmatch(path.name) for path in folder.iterdir()]
    return [int(own[2]) for own in found if own and own[2] is not None]


def remove_leftovers(folder: Path, kept: Iterable[int]) -> None:
    """Remove data files of generations that are not kept, and half-written files."""
    keep = set(kept)
    for path in folder.iterdir():
        own = _OWN.fullmatch(path.name)
        if own and (own[2] is None or int(own[2]) not in keep):
            path.unlink(missing_ok=True)
