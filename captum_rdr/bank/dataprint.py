"""Recognize the data that a bank was made from."""

import hashlib

from torch import Tensor

from captum_rdr.model.hooks import raw_bytes
from captum_rdr.model.inputs import ForwardArguments

FIRST_ROWS = 8
"""Instances at the beginning of the data that are digested."""


class DataPrint:
    """What identifies data: its length and its first instances, as they are fed in.

    It depends on neither batch size nor device.

    Args:
        expected: number of instances that the data is said to have, 0 where unknown.

    >>> import torch
    >>> rows = torch.arange(20.0).reshape(10, 2)
    >>> whole, parts = DataPrint(10), DataPrint(10)
    >>> whole.add(ForwardArguments((rows,), {}))
    >>> for part in rows.split(3):
    ...     parts.add(ForwardArguments((part,), {}))
    >>> whole.first_rows == parts.first_rows
    True
    """

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self._seen = 0
        self._digest = hashlib.sha256()

    @property
    def is_complete(self) -> bool:
        """Whether further batches change nothing."""
        return self._seen >= FIRST_ROWS

    @property
    def first_rows(self) -> str:
        """Digest of the first instances."""
        return self._digest.hexdigest()

    def add(self, arguments: ForwardArguments) -> None:
        """Take in the next batch."""
        if self.is_complete:
            return
        size = arguments.batch_size
        named = (*enumerate(arguments.args), *sorted(arguments.kwargs.items()))
        held = [
            (name, value)
            for name, value in named
            if isinstance(value, Tensor) and value.dim() and len(value) == size
        ]
        for index in range(min(size, FIRST_ROWS - self._seen)):
            for name, value in held:
                row = value[index]
                self._digest.update(f"{name} {row.dtype} {tuple(row.shape)}".encode())
                self._digest.update(raw_bytes(row).cpu().numpy().data)
        self._seen += size

    def fingerprint(self, n_instances: int) -> str:
        """The data's fingerprint, once its length is known."""
        both = f"{n_instances} {self.first_rows}"
        return hashlib.sha256(both.encode()).hexdigest()
