"""The reference bank: bit-packed configurations of the reference instances."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from captum_rdr.bank import bits
from captum_rdr.bank import queries as search
from captum_rdr.bank.bits import checked_states, is_single, packed_rows
from captum_rdr.bank.diskrows import DiskRows
from captum_rdr.bank.folder import read_folder
from captum_rdr.bank.origin import Origin, make_origin
from captum_rdr.bank.parts import (
    BankParts,
    check_new_features,
    no_parts,
    read_file,
    write_file,
)
from captum_rdr.bank.queries import Nearest, check_k
from captum_rdr.bank.rows import GrowingRows

_BLOCK_BYTES = 1 << 26  # working memory of one step over the bank


class ConfigurationBank:
    """Configurations of N reference instances, one bit a neuron.

    A bank lies in memory, or on disk if `load` or ``fit(..., out=...)`` gave it. Queries
    of a bank on disk read it block by block and keep one block in memory.

    Args:
        layer_shape: shape ``(D1, ..., Dm)`` of the layer's output, per instance.
        threshold: threshold of the states: a number or a tensor of ``layer_shape``.
        fingerprint: identifies the model and layer that gave the states; empty when
            unknown.
        attribute_to_layer_input: whether the states are those of the layer's input.
        reserve: instances to make room for at once; more may be appended.
        data_fingerprint: identifies the data by its length and first instances; empty
            when unknown.

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
    >>> bank.states(slice(1)), bank.unpacked(bank.rows[2:])
    (tensor([[ True, False, False,  True]]), tensor([[False, False, False, False]]))
    >>> bank.weighted_sum(torch.tensor([0, 3]), torch.tensor([[1.0], [0.5]])).T
    tensor([[1.5000, 1.5000, 0.0000]], dtype=torch.float64)
    >>> packed = bank.as_packed(torch.tensor([True, False, False, True]))
    >>> bank.equal_rows(packed[0]), bank.nearest_packed(packed, 1).rows
    (array([0]), tensor([[0]]))
    >>> bank.take(bank.equal_rows(packed[0])).tolist()
    [[9, 0, 0, 0, 0, 0, 0, 0]]
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
        data_fingerprint: str = "",
    ) -> None:
        origin = make_origin(
            layer_shape,
            threshold,
            fingerprint,
            attribute_to_layer_input,
            data_fingerprint,
        )
        self._take(no_parts(origin, reserve))

    def _take(self, parts: BankParts) -> None:
        origin = parts.origin
        self.layer_shape, self.threshold = origin.layer_shape, origin.threshold
        self.fingerprint = origin.fingerprint
        self.data_fingerprint = origin.data_fingerprint
        self.attribute_to_layer_input = origin.attribute_to_layer_input
        self._rows, self._counts = parts.rows, parts.counts
        self._features, self._columns = parts.features, parts.columns

    def _parts(self) -> BankParts:
        origin = Origin(
            self.layer_shape,
            self.threshold,
            self.fingerprint,
            self.attribute_to_layer_input,
            self.data_fingerprint,
        )
        return BankParts(
            origin, self._rows, self._counts, self._features, self._columns
        )

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
        """The rows as they lie in the bank, each padded with zeros to 64 bits; a view.

        Those of a bank on disk are mapped: what is read of them stays in memory for as
        long as the system has room.
        """
        return self._rows.array

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
        return len(self) * self._rows.width + features

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        features = "" if self.features is None else f", {self.features.dtype} features"
        on_disk = " on disk" if isinstance(self._rows, DiskRows) else ""
        return (
            f"ConfigurationBank({len(self)} instances x {self.n_neurons} neurons of "
            f"shape {tuple(self.layer_shape)}, {self.nbytes} bytes{on_disk}{features})"
        )

    def append(self, states: Tensor, features: Tensor | None = None) -> None:
        """Append instances; the room grows in steps, so that N appends cost O(N).

        A bank on disk is copied into memory first.

        Args:
            states: bool ``(M, D)`` or ``(M, D1, ..., Dm)``, or packed uint8
                ``(M, ceil(D / 8))``.
            features: float activations ``(M, D)`` of the same instances, for cosine and
                Euclidean neighbors; all instances of a bank have them or none.

        Raises:
            ValueError: a shape is wrong, or only some instances have features.
        """
        packed = self.as_packed(states)
        check_new_features(self._parts(), features, len(packed))
        if isinstance(self._rows, DiskRows):
            self._rows = GrowingRows.around(torch.from_numpy(self._rows.array))
            self._columns = None
        if features is not None:
            if self._features is None:
                reserve = max(self._rows.capacity, len(packed))
                self._features = GrowingRows(self.n_neurons, features.dtype, reserve)
            self._features.append(features)
        self._rows.append(torch.from_numpy(packed))
        self._counts = self._counts + bits.count_active(packed, self.n_neurons)
        self.data_fingerprint = ""

    def as_packed(self, states: Tensor) -> bits.Bytes:
        """Instances as they lie in the bank, see `captum_rdr.bank.bits.packed_rows`."""
        return packed_rows(states, self.layer_shape)

    def take(self, rows: bits.Ints) -> bits.Bytes:
        """A copy of the given rows as they lie in the bank."""
        return self._rows.take(rows)

    def features_of(self, rows: Tensor) -> Tensor:
        """Float activations ``(M, D)`` of the given bank rows.

        Raises:
            ValueError: the bank holds none.

        >>> bank = ConfigurationBank((2,))
        >>> bank.append(torch.tensor([[True, False]]), torch.tensor([[0.5, -1.0]]))
        >>> bank.features_of(torch.tensor([0]))
        tensor([[ 0.5000, -1.0000]])
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
        some = self.packed[rows] if isinstance(rows, slice) else self.take(rows.numpy())
        return torch.from_numpy(bits.unpack(some, self.n_neurons))

    def distances(self, query: Tensor) -> Tensor:
        """Configuration distances from queries to every row.

        Args:
            query: states or packed rows as in `append`, or a single instance.

        Returns:
            int64 tensor ``(Q, N)``, or ``(N,)`` for a single instance: the number of
            neurons whose states differ.
        """
        queries = self.as_packed(query)
        found = search.distances(self._rows.blocks(), len(self), queries)
        of_all = torch.from_numpy(found)
        return of_all[0] if is_single(query, self.layer_shape) else of_all

    def nearest(self, query: Tensor, k: int) -> Nearest:
        """The k nearest rows of each query, ties by the lower row.

        Args:
            query: states or packed rows as in `append`, or a single instance.
            k: number of rows, from 1 to N.

        Returns:
            rows and distances, each ``(Q, k)``.

        Raises:
            ValueError: ``k`` is out of range.
        """
        check_k(k, len(self))
        return self.nearest_packed(self.as_packed(query), k)

    def nearest_packed(self, queries: bits.Bytes, k: int) -> Nearest:
        """`nearest` for rows as they lie in the bank.

        Args:
            queries: as `as_packed` makes them.
            k: as in `nearest`.

        Returns:
            as `nearest`.
        """
        return search.nearest(self._rows.blocks(), queries, k)

    def equal_rows(self, query: bits.Bytes) -> bits.Ints:
        """Rows that equal one that is given as it lies in the bank, ascending."""
        return search.equal_rows(self._rows.blocks(), query)

    def disagreements(self, neurons: Tensor, states: Tensor) -> Tensor:
        """In how many of the given neurons each row differs from ``states``.

        Args:
            neurons: int64 ``(t,)``, flat indices.
            states: bool ``(t,)``.

        Returns:
            int64 tensor ``(N,)``.
        """
        return torch.from_numpy(
            self._disagreements(*checked_states(neurons, states, self.n_neurons))
        )

    def _disagreements(self, neurons: bits.Ints, states: bits.Bools) -> bits.Ints:
        if self._columns is not None:
            return search.column_disagreements(
                self._columns, len(self), neurons, states
            )
        return search.disagreements(self._rows.blocks(), len(self), neurons, states)

    def members(self, neurons: Tensor, states: Tensor, tolerance: int = 0) -> Tensor:
        """Rows that differ from ``states`` in at most ``tolerance`` of the neurons.

        Args:
            neurons: int64 ``(t,)``, flat indices; those that rule out most rows first
                are fastest.
            states: bool ``(t,)``.
            tolerance: neurons that may disagree.

        Returns:
            int64 tensor of bank rows, ascending.

        Raises:
            ValueError: an index or the tolerance is out of range.
        """
        picked, wanted = checked_states(neurons, states, self.n_neurons)
        if tolerance < 0:
            raise ValueError(f"tolerance={tolerance} is negative; use 0 or more")
        if self._columns is not None:
            found = np.flatnonzero(self._disagreements(picked, wanted) <= tolerance)
        else:
            found = search.agreeing(self._rows.blocks(), picked, wanted, tolerance)
        return torch.from_numpy(found)

    def weighted_sum(self, neurons: Tensor, weights: Tensor) -> Tensor:
        """Sum of the weights of each row's active neurons, for many weightings at once.

        Args:
            neurons: int64 ``(t,)``, flat indices.
            weights: float64 ``(t, W)``.

        Returns:
            float64 tensor ``(N, W)``.
        """
        total = search.weighted_sum(
            self._rows.blocks(),
            len(self),
            neurons.numpy(),
            weights.numpy(),
            _BLOCK_BYTES,
        )
        return torch.from_numpy(total)

    def neuron_means(self, neurons: Tensor) -> Tensor:
        """Mean activation of neurons over the bank.

        Args:
            neurons: int64 ``(t,)``, flat indices.

        Returns:
            float64 tensor ``(t,)``, in the layer's units.

        Raises:
            ValueError: the bank holds no features.

        >>> bank = ConfigurationBank((2,))
        >>> features = torch.tensor([[0.0, 2.0], [1.0, 4.0]])
        >>> bank.append(features > 0, features)
        >>> bank.neuron_means(torch.tensor([1]))
        tensor([3.], dtype=torch.float64)
        """
        return self._wide_features(neurons).mean(0)

    def state_means(self, neurons: Tensor, states: Tensor) -> Tensor:
        """Mean activation of neurons over the bank's instances that have given states.

        A neuron that is clamped to it has that state. ``bank.state_means(region.neurons,
        ~region.states)`` flips a region's principal neurons.

        Args:
            neurons: int64 ``(t,)``, flat indices.
            states: bool ``(t,)``.

        Returns:
            float64 tensor ``(t,)``, in the layer's units. Where no instance has the state:
            the threshold for an inactive neuron, the next number above it for an active one.

        Raises:
            ValueError: the bank holds no features.

        >>> bank = ConfigurationBank((2,))
        >>> features = torch.tensor([[0.0, 2.0], [1.0, 4.0], [5.0, 0.0]])
        >>> bank.append(features > 0, features)
        >>> bank.state_means(torch.tensor([0, 0]), torch.tensor([True, False]))
        tensor([3., 0.], dtype=torch.float64)
        """
        features = self._wide_features(neurons)
        columns = bits.columns(self.packed, neurons.numpy())
        having = torch.from_numpy(columns) == states
        count = having.sum(0)
        means = features.where(having, 0).sum(0) / count.clamp(min=1)
        threshold = self.threshold.expand(self.n_neurons)[neurons]
        dtype = torch.float32 if self.features is None else self.features.dtype
        lowest = threshold.to(dtype)
        above = torch.nextafter(lowest, torch.tensor(torch.inf, dtype=dtype))
        return means.where(count > 0, torch.where(states, above, lowest).double())

    def _wide_features(self, neurons: Tensor) -> Tensor:
        if self.features is None:
            raise ValueError(
                "the bank holds no features, which the mean activations are taken of; "
                "fit with keep_features=True, or clamp to a number"
            )
        return self.features[:, neurons].double()

    def emptied(self, reserve: int = 0) -> "ConfigurationBank":
        """A bank of the same layer, model and thresholds without instances, in memory.

        Args:
            reserve: instances to make room for.

        Returns:
            the empty bank.

        >>> ConfigurationBank((2,), 0.5).emptied().threshold
        tensor(0.5000, dtype=torch.float64)
        """
        origin = replace(self._parts().origin, data_fingerprint="")
        return _bank_of(no_parts(origin, reserve))

    @staticmethod
    def merge(banks: Iterable["ConfigurationBank"]) -> "ConfigurationBank":
        """Put banks of one layer behind each other, in memory.

        Raises:
            ValueError: there is none, or shape, threshold or fingerprint differ.
        """
        banks = list(banks)
        if not banks:
            raise ValueError("banks is empty; give one bank or more")
        origin = banks[0]._parts().origin
        merged = banks[0].emptied(reserve=sum(len(bank) for bank in banks))
        for bank in banks:
            if not bank._parts().origin.same_layer(origin):
                raise ValueError(
                    f"{bank!r} and {banks[0]!r} differ in shape, threshold or "
                    f"fingerprint ({bank.fingerprint!r}, {origin.fingerprint!r}); merge "
                    "banks of one model, layer and threshold"
                )
            merged.append(bank.rows, bank.features)
        return merged

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bank to one file, atomically and with a checksum."""
        write_file(path, self._parts())

    @staticmethod
    def load(path: str | os.PathLike[str], mmap: bool = True) -> "ConfigurationBank":
        """Read a bank from the file that `save` or the folder that `fit` wrote.

        All of it is checked first. Nothing in it is run, and no more memory is taken
        than the files are long.

        Args:
            path: the file or folder, or a link to it.
            mmap: leave rows and features on disk and let queries read them block by
                block; `append` then copies them into memory first.

        Returns:
            the bank.

        Raises:
            ValueError: it is damaged, unfinished, or something else.
        """
        path = Path(path)
        if path.is_dir():
            return _bank_of(read_folder(path, mmap=mmap))
        return _bank_of(read_file(path, mmap=mmap))


def _bank_of(parts: BankParts) -> ConfigurationBank:
    bank = ConfigurationBank.__new__(ConfigurationBank)
    bank._take(parts)
    return bank
