"""Rows of bytes in a file, read block by block."""

import mmap
import os
import weakref
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt

from captum_rdr.bank.files import read_at

Bytes = npt.NDArray[np.uint8]

BLOCK_BYTES = 1 << 22
"""Bytes of the buffer into which a pass over the rows reads them."""


class DiskRows:
    """A two-dimensional array of bytes in a file.

    A pass over it holds one block of `BLOCK_BYTES` in memory, whatever the file's size.
    Threads and forked processes may read at once.

    Args:
        handle: descriptor of the open file, which this object closes in the end.
        offset: where the rows begin, in bytes.
        shape: number of rows, and bytes a row.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(bytes(range(12))), file.flush()
    ...     rows = DiskRows(os.open(file.name, os.O_RDONLY), 2, (5, 2))
    ...     rows.take(np.array([0, 3])).tolist(), len(rows), rows.width
    ([[2, 3], [8, 9]], 5, 2)
    """

    def __init__(self, handle: int, offset: int, shape: tuple[int, int]) -> None:
        self._handle, self._offset = handle, offset
        self._length, self.width = shape
        weakref.finalize(self, os.close, handle)

    def __len__(self) -> int:
        return self._length

    def __deepcopy__(self, memo: object) -> "DiskRows":
        """The rows cannot change, so copies share them."""
        return self

    def __reduce__(self) -> str:
        raise TypeError(
            "a bank on disk cannot be pickled; pass its path and load it there, or load "
            "it with mmap=False"
        )

    @cached_property
    def array(self) -> Bytes:
        """All rows, mapped: the system loads what is read of them, and keeps it."""
        n_bytes = self._length * self.width
        if n_bytes == 0:
            return np.empty((self._length, self.width), np.uint8)
        # Private, since PyTorch takes no array that cannot be written to.
        private = mmap.mmap(
            self._handle, self._offset + n_bytes, access=mmap.ACCESS_COPY
        )
        flat = np.frombuffer(private, np.uint8, n_bytes, self._offset)
        return flat.reshape(self._length, self.width)

    def blocks(self, block_bytes: int | None = None) -> Iterator[tuple[int, Bytes]]:
        """Give every block with the number of its first row.

        A block is overwritten by the next.
        """
        step = max(1, (block_bytes or BLOCK_BYTES) // max(1, self.width))
        buffer = np.empty((min(step, self._length), self.width), np.uint8)
        for start in range(0, self._length, step):
            block = buffer[: min(step, self._length - start)]
            read_at(self._handle, block, self._offset + start * self.width)
            yield start, block

    def take(self, rows: npt.NDArray[np.int64]) -> Bytes:
        """A copy of the given rows."""
        taken = np.empty((len(rows), self.width), np.uint8)
        for index, row in enumerate(rows.tolist()):
            if not -self._length <= row < self._length:
                raise IndexError(f"row {row} is not one of {self._length}")
            read_at(
                self._handle,
                taken[index],
                self._offset + row % self._length * self.width,
            )
        return taken
