"""The reference bank: bit-packed configurations of the reference instances."""

import operator
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captum_rdr import bits, storage
from captum_rdr.neurons import as_threshold
from captum_rdr.ranking import smallest
from captum_rdr.rows import GrowingRows
from captum_rdr.states import is_single, packed_rows, row_width

_SAVED = {
    "rows",
    "active_counts",
    "threshold",
    "layer_shape",
    "fingerprint",
    "attribute_to_layer_input",
}
_BLOCK_BYTES = 1 << 26  # working memory of one step over the bank


class Nearest(NamedTuple):
    """Nearest bank rows of each query.

    Attributes:
        rows: int64 tensor ``(Q, k)`` of bank rows, nearest first.
        distances: int64 tensor ``(Q, k)`` of configuration distances, in neurons.
    """

    rows: Tensor
    distances: Tensor


class ConfigurationBank:
    """Configurations of N reference instances, one bit a neuron.

    Args:
        layer_shape: shape ``(D1, ..., Dm)`` of the layer's output, per instance.
        threshold: threshold of the states: a number or a tensor of ``layer_shape``.
        fingerprint: identifies the model and layer that gave the states; empty when
            unknown.
        attribute_to_layer_input: whether the states are those of the layer's input.
        reserve: instances to make room for at once; more may be appended.

    Raises:
        ValueError: a size is not positive, or the threshold has another shape.

    Source: the configurations of Chang, Kwon and Choi (AAAI 2024), Section 3.

    >>> bank = ConfigurationBank((4,))
    >>> bank.append(torch.tensor([[1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]]) > 0)
    >>> bank
    ConfigurationBank(3 instances x 4 neurons of shape (4,), 24 bytes)
    >>> bank.distances(torch.tensor([True, False, False, True]))
    tensor([0, 2, 2])
    >>> bank.nearest(torch.tensor([True, False, False, True]), 2).rows
    tensor([[0, 1]])
    >>> bank.members(torch.tensor([0, 3]), torch.tensor([True, True]))
    tensor([0, 1])
    >>> bank.disagreements(torch.tensor([0, 3]), torch.tensor([True, True]))
    tensor([0, 0, 2])
    >>> bank.active_counts, bank.rows
    (tensor([2, 1, 1, 2]), tensor([[ 9],
            [15],
            [ 0]], dtype=torch.uint8))
    >>> len(ConfigurationBank.merge([bank, bank]))
    6
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     bank.save(f"{folder}/bank")
    ...     len(ConfigurationBank.load(f"{folder}/bank"))
    3
    """

    def __init__(
        self,
        layer_shape: Sequence[int],
        threshold: float | Tensor = 0.0,
        fingerprint: str = "",
        attribute_to_layer_input: bool = False,
        *,
        reserve: int = 0,
    ) -> None:
        self.layer_shape = torch.Size(layer_shape)
        if any(size < 1 for size in self.layer_shape):
            raise ValueError(
                f"layer_shape={tuple(layer_shape)} holds no neuron; give a shape with "
                "positive sizes"
            )
        value = as_threshold(threshold)
        if value.shape not in ((), self.layer_shape, (self.n_neurons,)):
            raise ValueError(
                f"threshold has shape {tuple(value.shape)}, but the layer has shape "
                f"{tuple(self.layer_shape)}; give a number or a tensor of that shape"
            )
        self.threshold = value.flatten() if value.dim() else value
        self.fingerprint = fingerprint
        self.attribute_to_layer_input = attribute_to_layer_input
        self._rows = GrowingRows(row_width(self.n_neurons), torch.uint8, reserve)
        self._counts = np.zeros(self.n_neurons, np.int64)
        self._features: GrowingRows | None = None

    @property
    def n_neurons(self) -> int:
        """Number of neurons D."""
        return self.layer_shape.numel()

    @property
    def rows(self) -> Tensor:
        """Packed configurations, uint8 ``(N, ceil(D / 8))``, little-endian; a view."""
        packed = self.packed[:, : bits.row_bytes(self.n_neurons)]
        return torch.from_numpy(packed)

    @property
    def packed(self) -> bits.Bytes:
        """The rows as they lie in memory, each padded with zeros to 64 bits; a view."""
        return self._rows.filled.numpy()

    @property
    def active_counts(self) -> Tensor:
        """In how many instances each neuron is active, int64 ``(D,)``; a view."""
        return torch.from_numpy(self._counts)

    @property
    def features(self) -> Tensor | None:
        """Float activations ``(N, D)`` where they were kept, else None."""
        return None if self._features is None else self._features.filled

    @property
    def nbytes(self) -> int:
        """Bytes of the packed rows and of the features."""
        features = 0 if self.features is None else self.features.nbytes
        return self.packed.nbytes + features

    def __len__(self) -> int:
        return len(self._rows.filled)

    def __repr__(self) -> str:
        features = "" if self.features is None else f", {self.features.dtype} features"
        return (
            f"ConfigurationBank({len(self)} instances x {self.n_neurons} neurons of "
            f"shape {tuple(self.layer_shape)}, {self.nbytes} bytes{features})"
        )

    def append(self, states: Tensor, features: Tensor | None = None) -> None:
        """Append instances; the room grows in steps, so that N appends cost O(N).

        Args:
            states: bool ``(M, D)`` or ``(M, D1, ..., Dm)``, or packed uint8
                ``(M, ceil(D / 8))``.
            features: float activations ``(M, D)`` of the same instances, for cosine and
                Euclidean neighbors; all instances of a bank have them or none.

        Raises:
            ValueError: a shape is wrong, or only some instances have features.
        """
        packed = self.as_packed(states)
        self._check_features(features, len(packed))
        if features is not None:
            if self._features is None:
                reserve = max(self._rows.capacity, len(packed))
                self._features = GrowingRows(self.n_neurons, features.dtype, reserve)
            self._features.append(features)
        self._rows.append(torch.from_numpy(packed))
        counts = self._counts.copy()
        for block in range(0, len(packed), 255):  # as many as a byte can count
            unpacked = bits.unpack(packed[block : block + 255], self.n_neurons)
            counts += unpacked.view(np.uint8).sum(0, dtype=np.uint8)
        self._counts = counts

    def _check_features(self, features: Tensor | None, n_new: int) -> None:
        had = self._features is not None
        if len(self) and had != (features is not None):
            raise ValueError(
                f"the bank's {len(self)} instances have {'' if had else 'no '}features,"
                f" the appended {n_new} {'do not' if had else 'do'}; append all with "
                "features or all without"
            )
        if features is not None and features.shape != (n_new, self.n_neurons):
            raise ValueError(
                f"features has shape {tuple(features.shape)}, but the states need "
                f"{(n_new, self.n_neurons)}; give one row an instance"
            )

    def as_packed(self, states: Tensor) -> bits.Bytes:
        """Instances as they lie in the bank, see `captum_rdr.states.packed_rows`."""
        return packed_rows(states, self.layer_shape)

    def features_of(self, rows: Tensor) -> Tensor:
        """Float activations ``(M, D)`` of the given bank rows.

        Raises:
            ValueError: the bank holds none.
        """
        if self.features is None:
            raise ValueError("the bank holds no features; fit with keep_features=True")
        return self.features[rows]

    def unpacked(self, states: Tensor) -> Tensor:
        """Boolean states ``(M, D)`` of packed ones."""
        rows = self.as_packed(states)
        return torch.from_numpy(bits.unpack(rows, self.n_neurons))

    def states(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Boolean states ``(M, D)`` of the given bank rows."""
        picked = self.packed[rows if isinstance(rows, slice) else rows.numpy()]
        return torch.from_numpy(bits.unpack(picked, self.n_neurons))

    def distances(self, query: Tensor) -> Tensor:
        """Configuration distances from queries to every row.

        Args:
            query: states or packed rows as in `append`, or a single instance.

        Returns:
            int64 tensor ``(Q, N)``, or ``(N,)`` for a single instance: the number of
            neurons whose states differ.
        """
        queries = self.as_packed(query)
        found = torch.from_numpy(bits.hamming(queries, self.packed).astype(np.int64))
        return found[0] if is_single(query, self.layer_shape) else found

    def nearest(self, query: Tensor, k: int) -> Nearest:
        """The k nearest rows of each query, ties by the lower row.

        Args:
            query: states or packed rows as in `append`, or a single instance.
            k: number of rows, from 1 to N.

        Raises:
            ValueError: ``k`` is out of range.
        """
        if not 1 <= operator.index(k) <= len(self):
            raise ValueError(
                f"k={k} is not between 1 and the bank's {len(self)} instances; change "
                "k or append more"
            )
        queries = self.as_packed(query)
        rows = np.empty((len(queries), k), np.int64)
        distances = np.empty((len(queries), k), np.int64)
        for start, stop in self.query_blocks(len(queries)):
            block = bits.hamming(queries[start:stop], self.packed)
            for index, row in enumerate(block, start):
                rows[index] = smallest(row, k)
                distances[index] = row[rows[index]]
        return Nearest(torch.from_numpy(rows), torch.from_numpy(distances))

    def query_blocks(
        self, n_queries: int, at_most: int = 1 << 16
    ) -> list[tuple[int, int]]:
        """Split queries so that their distances fit the working memory."""
        fitting = _BLOCK_BYTES // (4 * max(1, len(self)))
        step = max(1, min(fitting, at_most))
        return [
            (start, min(start + step, n_queries)) for start in range(0, n_queries, step)
        ]

    def disagreements(self, neurons: Tensor, states: Tensor) -> Tensor:
        """In how many of the given neurons each row differs from ``states``.

        Args:
            neurons: int64 ``(t,)``, flat indices.
            states: bool ``(t,)``.

        Returns:
            int64 tensor ``(N,)``.
        """
        picked, wanted = self._checked(neurons, states)
        return torch.from_numpy(bits.disagreements(self.packed, picked, wanted))

    def members(self, neurons: Tensor, states: Tensor, tolerance: int = 0) -> Tensor:
        """Rows that differ from ``states`` in at most ``tolerance`` of the neurons.

        Args:
            neurons: int64 ``(t,)``, flat indices.
            states: bool ``(t,)``.
            tolerance: neurons that may disagree.

        Returns:
            int64 tensor of bank rows, ascending.

        Raises:
            ValueError: an index or the tolerance is out of range.
        """
        picked, wanted = self._checked(neurons, states)
        if tolerance < 0:
            raise ValueError(f"tolerance={tolerance} is negative; use 0 or more")
        found = bits.agreeing(self.packed, picked, wanted, tolerance)
        return torch.from_numpy(found)

    def weighted_sum(self, neurons: Tensor, weights: Tensor) -> Tensor:
        """Sum of the weights of each row's active neurons, for many weightings at once.

        Args:
            neurons: int64 ``(t,)``, flat indices.
            weights: float64 ``(t, W)``.

        Returns:
            float64 tensor ``(N, W)``.
        """
        picked = neurons.numpy()
        total = np.empty((len(self), weights.shape[1]))
        step = max(1, _BLOCK_BYTES // (8 * max(1, len(picked))))
        for start in range(0, len(self), step):
            block = bits.columns(self.packed[start : start + step], picked)
            total[start : start + step] = block.astype(np.float64) @ weights.numpy()
        return torch.from_numpy(total)

    def _checked(self, neurons: Tensor, states: Tensor) -> tuple[bits.Ints, bits.Bools]:
        picked = torch.as_tensor(neurons, dtype=torch.int64).reshape(-1)
        wanted = torch.as_tensor(states, dtype=torch.bool).reshape(-1)
        if len(picked) != len(wanted):
            raise ValueError(
                f"{len(picked)} neurons but {len(wanted)} states; give one state each"
            )
        if len(picked) and not 0 <= picked.min() <= picked.max() < self.n_neurons:
            raise ValueError(
                f"neurons go from {int(picked.min())} to {int(picked.max())}, but the "
                f"layer's flat indices from 0 to {self.n_neurons - 1}"
            )
        return picked.numpy(), wanted.numpy()

    @staticmethod
    def merge(banks: Iterable["ConfigurationBank"]) -> "ConfigurationBank":
        """Put banks of one layer behind each other.

        Raises:
            ValueError: there is none, or shape, threshold or fingerprint differ.
        """
        banks = list(banks)
        if not banks:
            raise ValueError("banks is empty; give one bank or more")
        first = banks[0]
        merged = ConfigurationBank(
            first.layer_shape,
            first.threshold,
            first.fingerprint,
            first.attribute_to_layer_input,
            reserve=sum(len(bank) for bank in banks),
        )
        for bank in banks:
            same = bank.layer_shape == first.layer_shape and torch.equal(
                bank.threshold, first.threshold
            )
            if not same or bank.fingerprint != first.fingerprint:
                raise ValueError(
                    f"{bank!r} and {first!r} differ in shape, threshold or fingerprint "
                    f"({bank.fingerprint!r}, {first.fingerprint!r}); merge banks of "
                    "one model, layer and threshold"
                )
            merged.append(bank.rows, bank.features)
        return merged

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bank to one file, atomically and with a checksum."""
        tensors = {
            "rows": self._rows.filled,
            "active_counts": self.active_counts,
            "threshold": self.threshold,
        }
        if self.features is not None:
            tensors["features"] = self.features
        fields = {
            "layer_shape": list(self.layer_shape),
            "fingerprint": self.fingerprint,
            "attribute_to_layer_input": self.attribute_to_layer_input,
        }
        storage.write(path, "configuration bank", tensors, fields)

    @staticmethod
    def load(path: str | os.PathLike[str], mmap: bool = True) -> "ConfigurationBank":
        """Read a bank that `save` wrote, after checking all of it.

        Args:
            path: the file.
            mmap: leave rows and features on disk and let the system load what queries
                read; `append` then copies them into memory first.

        Raises:
            ValueError: the file is damaged, or holds something else.
        """
        contents = storage.read(path, "configuration bank", mmap=mmap)
        storage.check_names(path, contents, _SAVED)
        tensors, fields = contents
        bank = ConfigurationBank(
            fields["layer_shape"],
            tensors["threshold"],
            fields["fingerprint"],
            fields["attribute_to_layer_input"],
        )
        rows, counts = tensors["rows"], tensors["active_counts"]
        width = row_width(bank.n_neurons)
        if rows.shape[1:] != (width,) or counts.shape != (bank.n_neurons,):
            raise ValueError(
                f"{os.fspath(path)!r} has rows {tuple(rows.shape)} and counts "
                f"{tuple(counts.shape)} for {bank.n_neurons} neurons; save it again"
            )
        bank._rows, bank._counts = GrowingRows.around(rows), counts.numpy()
        if "features" in tensors:
            bank._features = GrowingRows.around(tensors["features"])
        return bank
