"""Rows that grow at the end, in memory or mapped from a file."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

_FIRST_ROWS = 256


def _room(height: int, like: Tensor) -> Tensor:
    """Room for so many rows as those of a block, on its device."""
    if like.device.type != "cpu" or like.dtype == torch.bfloat16:
        return like.new_empty(height, like.shape[1])
    # NumPy asks the system for large pages, PyTorch does not.
    return torch.from_numpy(np.empty((height, like.shape[1]), like[:0].numpy().dtype))


class GrowingRows:
    """A two-dimensional tensor to which rows are appended.

    Its room grows by half when it is used up, so that N appends copy O(N) rows. Room that
    is not used takes no memory on systems that hand out pages when they are written.

    Args:
        filled: the rows that are there already; a file's have no room for more, so that
            appending copies them into memory.
        is_mapped: whether they are a file's.
    """

    def __init__(self, filled: Tensor, *, is_mapped: bool = False) -> None:
        self._room, self._length, self.is_mapped = filled, len(filled), is_mapped
        self._made: dict[str, Any] = {}

    @classmethod
    def like(cls, block: Tensor, reserve: int = 0) -> "GrowingRows":
        """Room for rows as those of a block, none of them there yet."""
        rows = cls(_room(reserve, block))
        rows._length = 0
        return rows

    @property
    def filled(self) -> Tensor:
        """The rows, a view."""
        return self._room[: self._length]

    @property
    def capacity(self) -> int:
        """Number of rows for which there is room."""
        return len(self._room)

    def once(self, name: str, make: Callable[[Tensor], Any]) -> Any:
        """What a function makes of the rows, kept under a name until rows are added."""
        if name not in self._made:
            self._made[name] = make(self.filled)
        return self._made[name]

    def __deepcopy__(self, memo: dict[int, Any]) -> "GrowingRows":
        """Copy the rows; a file's cannot change, so copies share them."""
        rows = self.filled if self.is_mapped else self.filled.clone()
        return GrowingRows(rows, is_mapped=self.is_mapped)

    def __reduce__(self) -> Any:
        """Refuse to pickle a file's rows, and leave out the room that is not used."""
        if self.is_mapped:
            raise TypeError(
                "a bank on disk cannot be pickled; pass its path and load it there, or "
                "load it with mmap=False"
            )
        if len(self._room) > self._length:
            # Kept, since a process that is sent a tensor opens its memory later.
            self._room = self.filled.clone()
        return GrowingRows, (self._room,)

    def append(self, block: Tensor) -> None:
        """Append rows of the same width."""
        start, stop = self._length, self._length + len(block)
        if stop > len(self._room):
            larger = _room(max(stop, start + start // 2, _FIRST_ROWS), self._room)
            larger[:start] = self.filled
            self._room, self.is_mapped = larger, False
        self._room[start:stop] = block
        self._length, self._made = stop, {}
