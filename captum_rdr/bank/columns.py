"""A bank's states neuron by neuron, so that few neurons are read without the rest."""

import os
from pathlib import Path

import numpy as np

from captum_rdr.bank import bits
from captum_rdr.bank.bits import row_width
from captum_rdr.bank.diskrows import DiskRows

WORK_BYTES = 1 << 25
"""Rows that are turned at a time, in bytes; four times as much memory is used."""


def write_columns(path: Path, rows: DiskRows, n_neurons: int) -> tuple[int, int]:
    """Write the packed states of each neuron to a file, one neuron behind the other.

    Goes through the rows once, in stripes; the memory used depends on `WORK_BYTES` alone.

    Args:
        path: the file, which must not exist.
        rows: packed rows, padded to 64 bits.
        n_neurons: number of neurons D.

    Returns:
        shape of the file's array: D, and bytes a neuron (a bit an instance, padded with
        zeros to 64 bits).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     a, b = Path(folder, "a"), Path(folder, "b")
    ...     _ = a.write_bytes(bytes([9, 0, 0, 0, 0, 0, 0, 0, 14, 0, 0, 0, 0, 0, 0, 0]))
    ...     shape = write_columns(b, DiskRows(os.open(a, os.O_RDONLY), 0, (2, 8)), 4)
    ...     shape, list(b.read_bytes()[::8])
    ((4, 8), [1, 2, 2, 3])
    """
    width = row_width(len(rows))
    stripe = 64 * max(1, WORK_BYTES // (64 * rows.width))
    with open(path, "xb", buffering=0) as file:
        file.truncate(n_neurons * width)
        for first, block in rows.blocks(stripe * rows.width):
            spare = -len(block) % 64
            padded = np.pad(block, ((0, spare), (0, 0))) if spare else block
            for neuron, states in enumerate(bits.transposed(padded)[:n_neurons]):
                file.seek(neuron * width + first // 8)
                file.write(states)
        os.fsync(file.fileno())
    return n_neurons, width
