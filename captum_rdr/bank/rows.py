"""Rows of one width that grow at the end."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_FIRST_ROWS = 256


class GrowingRows:
    """A two-dimensional tensor to which rows are appended.

    Its room grows by half when it is used up, so that N appends copy O(N) rows.

    Args:
        width: values a row.
        dtype: their dtype.
        reserve: rows to make room for at once. Room that is not used takes no memory on
            systems that hand out pages when they are written.

    >>> rows = GrowingRows(2, torch.int64)
    >>> rows.append(torch.tensor([[1, 2]]))
    >>> rows.append(torch.tensor([[3, 4], [5, 6]]))
    >>> rows.filled.tolist()
    [[1, 2], [3, 4], [5, 6]]
    """

    def __init__(self, width: int, dtype: torch.dtype, reserve: int = 0) -> None:
        self._room = torch.empty(reserve, width, dtype=dtype)
        self._length = 0

    @classmethod
    def around(cls, filled: Tensor) -> "GrowingRows":
        """Rows that are there already, copied when the first row is appended."""
        rows = cls(filled.shape[1], filled.dtype)
        rows._room, rows._length = filled, len(filled)
        return rows

    def __getstate__(self) -> dict[str, object]:
        """Leave the room that is not used out of copies and pickles."""
        return {"_room": self.filled.clone(), "_length": self._length}

    def __len__(self) -> int:
        return self._length

    @property
    def width(self) -> int:
        """Values a row."""
        return self._room.shape[1]

    @property
    def capacity(self) -> int:
        """Number of rows for which there is room."""
        return len(self._room)

    @property
    def filled(self) -> Tensor:
        """The rows, a view."""
        return self._room[: self._length]

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        """The rows as an array, a view."""
        return self.filled.numpy()

    def blocks(self) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """Give the rows as one block, as `DiskRows` gives them as many."""
        yield 0, self.array

    def take(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """A copy of the given rows."""
        return self.array[rows]

    def append(self, block: Tensor) -> None:
        """Append rows of shape ``(M, width)``."""
        start, stop = self._length, self._length + len(block)
        if stop > len(self._room):
            capacity = max(stop, start + start // 2, _FIRST_ROWS)
            larger = torch.empty(capacity, self._room.shape[1], dtype=self._room.dtype)
            larger[:start] = self.filled
            self._room = larger
        self._room[start:stop] = block
        self._length = stop
