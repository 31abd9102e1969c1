"""Rows that grow at the end."""

import numpy as np
import torch
from torch import Tensor

_FIRST_ROWS = 256


def _room(height: int, width: int, like: Tensor) -> Tensor:
    """Room for rows, on the device and of the dtype of ``like``."""
    if like.device.type != "cpu" or like.dtype == torch.bfloat16:
        return like.new_empty(height, width)
    # NumPy asks the system for large pages, PyTorch does not.
    return torch.from_numpy(np.empty((height, width), like.numpy().dtype))


class GrowingRows:
    """A two-dimensional tensor to which rows are appended.

    Its room grows by half when it is used up, so that N appends copy O(N) rows. Room that
    is not used takes no memory on systems that hand out pages when they are written.
    """

    def __init__(self, room: Tensor, length: int) -> None:
        self._room, self._length = room, length

    @classmethod
    def like(cls, block: Tensor, reserve: int = 0) -> "GrowingRows":
        """Room for rows as those of a block, none of them there yet."""
        return cls(_room(reserve, block.shape[1], block[:0]), 0)

    @property
    def filled(self) -> Tensor:
        """The rows, a view."""
        return self._room[: self._length]

    @property
    def capacity(self) -> int:
        """Number of rows for which there is room."""
        return len(self._room)

    def __getstate__(self) -> tuple[Tensor, int]:
        """Leave the room that is not used out of copies and pickles."""
        if len(self._room) > self._length:
            # Kept, since a process that is sent a tensor opens its memory later.
            self._room = self.filled.clone()
        return self._room, self._length

    def __setstate__(self, state: tuple[Tensor, int]) -> None:
        self._room, self._length = state

    def append(self, block: Tensor) -> None:
        """Append rows of the same width."""
        start, stop = self._length, self._length + len(block)
        if stop > len(self._room):
            capacity = max(stop, start + start // 2, _FIRST_ROWS)
            larger = _room(capacity, self._room.shape[1], self._room)
            larger[:start] = self.filled
            self._room = larger
        self._room[start:stop] = block
        self._length = stop
