"""What a bank is made of, and banks in one file."""

import os
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from captum_rdr.bank import bits, storage
from captum_rdr.bank.bits import row_width
from captum_rdr.bank.diskrows import DiskRows
from captum_rdr.bank.files import PathLike
from captum_rdr.bank.origin import FIELDS, Origin, read_origin
from captum_rdr.bank.rows import GrowingRows

_KIND = "configuration bank"
_SAVED = {"rows", "active_counts", "threshold", *FIELDS}


@dataclass
class BankParts:
    """The parts of a bank.

    Attributes:
        origin: what its states are states of.
        rows: packed configurations, each padded to 64 bits.
        counts: in how many instances each neuron is active, int64 ``(D,)``.
        features: float activations ``(N, D)``, where they were kept.
        columns: the packed states of one neuron a row, where the bank keeps them.
    """

    origin: Origin
    rows: GrowingRows | DiskRows
    counts: bits.Ints
    features: GrowingRows | None = None
    columns: DiskRows | None = None


def no_parts(origin: Origin, reserve: int) -> BankParts:
    """The parts of a bank without instances, with room for some."""
    rows = GrowingRows(row_width(origin.n_neurons), torch.uint8, reserve)
    return BankParts(origin, rows, np.zeros(origin.n_neurons, np.int64))


def check_new_features(parts: BankParts, features: Tensor | None, n_new: int) -> None:
    """Refuse features that some instances of a bank would have and others not.

    Raises:
        ValueError: they would, or their shape is wrong.
    """
    had, n_rows = parts.features is not None, len(parts.rows)
    if n_rows and had != (features is not None):
        raise ValueError(
            f"the bank's {n_rows} instances have {'' if had else 'no '}features, the "
            f"appended {n_new} {'do not' if had else 'do'}; append all with features "
            "or all without"
        )
    wanted = (n_new, parts.origin.n_neurons)
    if features is not None and features.shape != wanted:
        raise ValueError(
            f"features has shape {tuple(features.shape)}, but the states need {wanted}; "
            "give one row an instance"
        )


def write_file(path: PathLike, parts: BankParts) -> None:
    """Write a bank to one file, atomically and with a checksum."""
    tensors = {
        "rows": torch.from_numpy(parts.rows.array),
        "active_counts": torch.from_numpy(parts.counts),
        "threshold": parts.origin.threshold,
    }
    if parts.features is not None:
        tensors["features"] = parts.features.filled
    storage.write(path, _KIND, tensors, parts.origin.fields())


def read_file(path: PathLike, *, mmap: bool) -> BankParts:
    """Read what `write_file` wrote, after checking all of it.

    Args:
        path: the file.
        mmap: leave rows and features on disk.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    with storage.opened(path, _KIND) as stored:
        storage.check_names(path, stored, _SAVED)
        origin = read_origin(path, stored.fields, stored.tensor("threshold"))
        rows = stored.place("rows", torch.uint8)
        counts = stored.place("active_counts", torch.int64)
        check_shapes(path, origin, rows.shape, counts.shape)
        parts = BankParts(
            origin,
            stored.rows("rows") if mmap else GrowingRows.around(stored.tensor("rows")),
            stored.tensor("active_counts").numpy(),
        )
        if "features" in stored.places:
            features = stored.tensor("features", mmap=mmap)
            check_features(path, origin, features, len(parts.rows))
            parts.features = GrowingRows.around(features)
        return parts


def check_shapes(
    path: PathLike, origin: Origin, rows: tuple[int, ...], counts: tuple[int, ...]
) -> None:
    """Refuse rows and counts that do not fit the layer.

    Raises:
        ValueError: they do not.
    """
    width = row_width(origin.n_neurons)
    if len(rows) != 2 or rows[1] != width or counts != (origin.n_neurons,):
        raise ValueError(
            f"{os.fspath(path)!r} has rows {rows} and counts {counts} for "
            f"{origin.n_neurons} neurons; save it again"
        )


def check_features(
    path: PathLike, origin: Origin, features: Tensor, n_rows: int
) -> None:
    """Refuse features that do not fit the rows.

    Raises:
        ValueError: they do not.
    """
    wanted = (n_rows, origin.n_neurons)
    if features.shape != wanted or not features.is_floating_point():
        raise ValueError(
            f"{os.fspath(path)!r} has {features.dtype} features of shape "
            f"{tuple(features.shape)}, not floating-point {wanted}; save it again"
        )
