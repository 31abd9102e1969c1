"""The reference bank: bit-packed configurations of the reference instances."""

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_rdr._arguments import check_range, check_whole, checked_rows
from captum_rdr._summary import as_html, of_bank
from captum_rdr.axes import LayerAxes
from captum_rdr.bank import bits, files, queries
from captum_rdr.bank.queries import Nearest, Wanted
from captum_rdr.bank.rows import GrowingRows
from captum_rdr.model.probe import Probe
from captum_rdr.model.states import as_threshold, binarize


class ConfigurationBank:
    """Configurations of N reference instances, one bit a neuron.

    A bank lies in memory, on a device (`to`), or on disk if `load` or
    ``fit(..., out=...)`` gave it: then it is mapped, and a query reads it block by block.
    Every answer comes from one operation, the number of bits in which packed rows
    differ, and is the same wherever the rows lie.

    Args:
        layer_shape: shape ``(D1, ..., Dm)`` of the layer's output, per instance.
        threshold: threshold of the states: a number or a tensor of ``layer_shape``.
        fingerprint: identifies the model and layer that gave the states; empty when
            unknown.
        attribute_to_layer_input: whether the states are those of the layer's input.
        reserve: instances to make room for at once; more may be appended.

    Attributes:
        active_counts: in how many instances each neuron is active, int64 ``(D,)``.

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
    >>> bank.states(slice(1))
    tensor([[ True, False, False,  True]])
    >>> bank.weighted_sums(torch.tensor([[2, 0, 0, 1]]))
    tensor([[3, 3, 0]])
    >>> len(bank.emptied())
    0
    >>> bank.to("cpu").device, bank.take(torch.tensor([1, 1])).active_counts
    (device(type='cpu'), tensor([2, 2, 2, 2]))
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
        shape = torch.Size(layer_shape)
        if any(size < 1 for size in shape):
            raise ValueError(
                f"layer_shape={tuple(layer_shape)} holds no neuron; give a shape with "
                "positive sizes"
            )
        value = as_threshold(threshold)
        if value.shape not in ((), shape, (shape.numel(),)):
            raise ValueError(
                f"threshold has shape {tuple(value.shape)}, but the layer has shape "
                f"{tuple(shape)}; give a number or a tensor of that shape"
            )
        self.layer_shape = shape
        self.threshold = value.flatten() if value.dim() else value
        self.fingerprint = fingerprint
        self.attribute_to_layer_input = attribute_to_layer_input
        self.source = files.Source()
        self.probe: Probe | None = None
        packed = torch.empty(0, bits.row_width(shape.numel()), dtype=torch.uint8)
        self._held = {"rows": GrowingRows.like(packed, reserve)}
        self.active_counts = torch.zeros(shape.numel(), dtype=torch.int64)

    @property
    def n_neurons(self) -> int:
        """Number of neurons D."""
        return self.layer_shape.numel()

    @property
    def axes(self) -> LayerAxes | None:
        """What the axes of the layer's output mean; None where that is unknown.

        Raises:
            ValueError: what is set does not fit the layer's shape.

        >>> bank = ConfigurationBank((7, 7, 96))
        >>> bank.axes = LayerAxes("height width channel")
        >>> bank.axes.channel_axis
        2
        """
        return LayerAxes(**self.source.axes) if self.source.axes else None

    @axes.setter
    def axes(self, axes: LayerAxes | None) -> None:
        if axes is not None:
            axes.check(self.layer_shape)
        fields = {} if axes is None else axes.as_fields()
        self.source = self.source._replace(axes=fields)

    @property
    def rows(self) -> Tensor:
        """Packed configurations, uint8 ``(N, ceil(D / 8))``, little-endian; a view."""
        return self.packed[:, : bits.row_bytes(self.n_neurons)]

    @property
    def packed(self) -> Tensor:
        """The rows as they lie in the bank, each padded with zeros to 64 bits; a view.

        Those of a bank on disk are mapped: what is read of them stays in memory for as
        long as the system has room.
        """
        return self._held["rows"].filled

    @property
    def features(self) -> Tensor | None:
        """Float activations ``(N, D)`` where they were kept, else None."""
        return self._held["features"].filled if "features" in self._held else None

    @property
    def sketches(self) -> Tensor | None:
        """What instances are recognized by, float32 ``(N, 5)``, where `fit` kept it."""
        return self._held["sketches"].filled if "sketches" in self._held else None

    @property
    def device(self) -> torch.device:
        """Where the rows lie."""
        return self.packed.device

    @property
    def nbytes(self) -> int:
        """Bytes of the packed rows and of the features."""
        held = [rows for name, rows in self._held.items() if name != "sketches"]
        return sum(rows.filled.nbytes for rows in held)

    def __len__(self) -> int:
        return len(self.packed)

    def __repr__(self) -> str:
        features = "" if self.features is None else f", {self.features.dtype} features"
        place = "" if self.device.type == "cpu" else f" on {self.device}"
        if self._held["rows"].is_mapped:
            place = " on disk"
        return (
            f"ConfigurationBank({len(self)} instances x {self.n_neurons} neurons of "
            f"shape {tuple(self.layer_shape)}, {self.nbytes} bytes{place}{features})"
        )

    def _repr_html_(self) -> str:
        return as_html("ConfigurationBank", of_bank(self))

    def to(self, device: torch.device | str) -> "ConfigurationBank":
        """The same bank with rows and features on a device, where queries then run.

        Args:
            device: the device. Results are on the CPU whatever it is.

        Returns:
            a bank there; this one if it is there already.
        """
        if torch.device(device) == self.device:
            return self
        moved = copy.copy(self)
        moved._held = {
            name: GrowingRows(rows.filled.to(device))
            for name, rows in self._held.items()
        }
        return moved

    def append(
        self,
        states: Tensor,
        features: Tensor | None = None,
        sketches: Tensor | None = None,
    ) -> None:
        """Append instances; the room grows in steps, so that N appends cost O(N).

        A bank on disk is copied into memory first.

        Args:
            states: bool ``(M, D)`` or ``(M, D1, ..., Dm)``, or packed uint8
                ``(M, ceil(D / 8))``.
            features: float activations ``(M, D)`` of the same instances, for cosine and
                Euclidean neighbors; all instances of a bank have them or none.
            sketches: float32 ``(M, 5)``, as `fit` makes them: what an input is
                recognized by that the bank holds. A bank in which an instance has none
                takes an input of the same configuration for its row.

        Raises:
            ValueError: a shape is wrong, or only some instances have features.
        """
        packed = self._padded(states)
        self._check_features(features, len(packed))
        had, reserve = len(self), self._held["rows"].capacity
        if had and sketches is None:
            self._held.pop("sketches", None)
        parts = {"rows": packed, "features": features, "sketches": sketches}
        for name, part in parts.items():
            if part is not None and (name in self._held or not had):
                block = part.to(self.device)
                if name not in self._held:
                    self._held[name] = GrowingRows.like(block, reserve)
                self._held[name].append(block)
        counts = bits.count_active(packed, self.n_neurons)
        self.active_counts = self.active_counts + counts

    def _check_features(self, features: Tensor | None, n_new: int) -> None:
        had = self.features is not None
        if len(self) and had != (features is not None):
            raise ValueError(
                f"the bank's {len(self)} instances have {'' if had else 'no '}features, "
                f"the appended {n_new} {'do not' if had else 'do'}; append all with "
                "features or all without"
            )
        wanted = (n_new, self.n_neurons)
        if features is not None and features.shape != wanted:
            raise ValueError(
                f"features has shape {tuple(features.shape)}, but the states need "
                f"{wanted}; give one row an instance"
            )

    def _padded(self, states: Tensor) -> Tensor:
        return bits.padded(states, self.layer_shape).to(self.device)

    def take(self, rows: Sequence[int] | Tensor) -> "ConfigurationBank":
        """A bank of some of the rows, with their features, in memory.

        Args:
            rows: int64 ``(M,)``, bank rows; one may come several times.

        Returns:
            the new bank, in which row i is row ``rows[i]`` of this one.
        """
        at, taken = self._at(rows), self.emptied()
        taken._held = {
            name: GrowingRows(held.filled[at]) for name, held in self._held.items()
        }
        taken.active_counts = bits.count_active(taken.packed, self.n_neurons)
        return taken

    def features_of(self, rows: Sequence[int] | Tensor) -> Tensor:
        """Float activations ``(M, D)`` of the given bank rows, where the bank lies.

        Raises:
            ValueError: the bank holds none.

        >>> bank = ConfigurationBank((2,))
        >>> bank.append(torch.tensor([[True, False]]), torch.tensor([[0.5, -1.0]]))
        >>> bank.features_of(torch.tensor([0]))
        tensor([[ 0.5000, -1.0000]])
        """
        return self._needed_features()[self._at(rows)]

    def _of_features(self, name: str, make: Callable[[Tensor], Any]) -> Any:
        """What a function makes of all features, kept until instances are appended."""
        self._needed_features()
        return self._held["features"].once(name, make)

    def _needed_features(self) -> Tensor:
        if self.features is None:
            raise ValueError("the bank holds no features; fit with keep_features=True")
        return self.features

    def states(self, rows: Sequence[int] | Tensor | slice = slice(None)) -> Tensor:
        """Boolean states ``(M, D)``, on the CPU, of the given bank rows."""
        picked = rows if isinstance(rows, slice) else self._at(rows)
        return bits.unpack(self.packed[picked], self.n_neurons)

    def _at(self, rows: Any) -> Tensor:
        given = isinstance(rows, Tensor)
        at: Tensor = rows if given else checked_rows(rows, len(self), "rows")
        return at.to(self.device)

    def distances(self, query: Tensor) -> Tensor:
        """Configuration distances from queries to every row.

        Args:
            query: states or packed rows as in `append`, or a single instance.

        Returns:
            int64 tensor ``(Q, N)``, or ``(N,)`` for a single instance: the number of
            neurons whose states differ.
        """
        found = queries.distances(self._padded(query), self.packed)
        return found[0] if bits.is_single(query, self.layer_shape) else found

    def nearest(self, query: Tensor, k: int) -> Nearest:
        """The k nearest rows of each query, ties by the lower row.

        Args:
            query: states or packed rows as in `append` or `packed`, or a single instance.
            k: number of rows, from 1 to N.

        Returns:
            rows and distances, each ``(Q, k)``.

        Raises:
            ValueError: ``k`` is out of range.
        """
        packed, size = self._padded(query), len(self)
        check_whole("k", k, most=size, of=f"the bank's {size} instances")
        held = self._held["rows"]
        ready = held.once("ready", bits.prepared) if len(packed) == 1 else None
        return queries.nearest(packed, self.packed, k, ready)

    def disagreements(self, neurons: Tensor, states: Tensor) -> Tensor:
        """In how many of the given neurons each row differs from ``states``.

        Args:
            neurons: int64 ``(t,)``, flat indices.
            states: bool ``(t,)``.

        Returns:
            int64 tensor ``(N,)``.

        Raises:
            ValueError: an index is out of range, or there are more or fewer states.
        """
        wanted = self._wanted(neurons, states)
        return queries.disagreements([wanted], self.packed)[0]

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
        check_whole("tolerance", tolerance, least=0)
        wanted = self._wanted(neurons, states)._replace(tolerance=tolerance)
        return queries.agreeing([wanted], self.packed)[0]

    def _wanted(self, neurons: Tensor, states: Tensor) -> Wanted:
        picked = torch.as_tensor(neurons, dtype=torch.int64).reshape(-1)
        wanted = torch.as_tensor(states, dtype=torch.bool).reshape(-1)
        if len(picked) != len(wanted):
            raise ValueError(
                f"{len(picked)} neurons but {len(wanted)} states; give one state each"
            )
        check_range("neurons", picked, self.n_neurons, "the layer's flat indices")
        return Wanted(picked, wanted)

    def weighted_sums(self, weights: Tensor) -> Tensor:
        """Sum of the weights of each row's active neurons, for many weightings at once.

        Args:
            weights: whole numbers, int64 ``(Q, D)``.

        Returns:
            int64 tensor ``(Q, N)``, exact.
        """
        return queries.weighted_sums(weights, self.packed)

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
        features = self._needed_features()[:, neurons.to(self.device)]
        return features.cpu().double().mean(0)

    def state_means(self, neurons: Tensor, states: Tensor) -> Tensor:
        """Mean activation of neurons over the bank's instances that have given states.

        A neuron that is clamped to it has that state. ``bank.state_means(region.neurons,
        ~region.states)`` flips a region's principal neurons.

        Args:
            neurons: int64 ``(t,)``, flat indices.
            states: bool ``(t,)``.

        Returns:
            float64 tensor ``(t,)``, in the layer's units. Where no instance has the state:
            the threshold for an inactive neuron, the next number above it for an active
            one.

        Raises:
            ValueError: the bank holds no features.

        >>> bank = ConfigurationBank((2,))
        >>> features = torch.tensor([[0.0, 2.0], [1.0, 4.0], [5.0, 0.0]])
        >>> bank.append(features > 0, features)
        >>> bank.state_means(torch.tensor([0, 0]), torch.tensor([True, False]))
        tensor([3., 0.], dtype=torch.float64)
        """
        kept = self._needed_features()[:, neurons.to(self.device)].cpu()
        features, dtype = kept.double(), kept.dtype
        bit = self.packed[:, neurons.to(self.device) >> 3].cpu() >> (neurons & 7)
        having = (bit & 1).bool() == states
        count = having.sum(0)
        means = features.where(having, 0).sum(0) / count.clamp(min=1)
        if bool((features.bfloat16() == features).all()):
            dtype = torch.bfloat16  # such a layer's activations are kept as float32
        threshold = self.threshold[neurons] if self.threshold.dim() else self.threshold

        def misses(values: Tensor) -> Tensor:
            """Where the layer, which rounds to its own dtype, has another state."""
            return binarize(values.to(dtype)[None], threshold)[0] != states

        edge = self.threshold.expand(self.n_neurons)[neurons].to(dtype)
        beyond = torch.where(states, torch.inf, -torch.inf).to(dtype)
        edge = torch.where(misses(edge), torch.nextafter(edge, beyond), edge).double()
        return means.where((count > 0) & ~misses(means), edge)

    def emptied(self, reserve: int = 0) -> "ConfigurationBank":
        """A bank of the same layer, model and thresholds without instances, in memory.

        Args:
            reserve: instances to make room for.

        Returns:
            the empty bank.

        >>> ConfigurationBank((2,), 0.5).emptied().threshold
        tensor(0.5000, dtype=torch.float64)
        """
        bank = copy.copy(self)
        bank.source = self.source._replace(first_rows="")
        bank._held = {"rows": GrowingRows.like(self.packed[:0].cpu(), reserve)}
        bank.active_counts = torch.zeros_like(self.active_counts)
        return bank

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the bank to a folder of ``.npy`` arrays, atomically and with checksums.

        Args:
            path: the folder; a bank that lies there already stays whole until the new
                one is.
        """
        arrays = {name: rows.filled for name, rows in self._held.items()}
        arrays |= {"active_counts": self.active_counts, "threshold": self.threshold}
        if self.probe is not None:
            arrays["probe"] = self.probe.packed()
        files.write_bank(path, self.fields, arrays)

    @property
    def fields(self) -> files.Fields:
        """What is no array, as values of JSON's types."""
        return {
            "layer_shape": list(self.layer_shape),
            "fingerprint": self.fingerprint,
            "attribute_to_layer_input": self.attribute_to_layer_input,
            **self.source._asdict(),
        }

    @staticmethod
    def load(
        path: str | os.PathLike[str], mmap: bool = True, verify: bool = True
    ) -> "ConfigurationBank":
        """Read a bank from the folder that `save` or ``fit(out=...)`` wrote.

        Nothing in it is run, and no more memory is taken than the files are long.

        Args:
            path: the folder, or a link to it.
            mmap: leave rows and features on disk and let queries read them block by
                block; `append` then copies them into memory first.
            verify: compare the checksums of all arrays, which reads them through.

        Returns:
            the bank.

        Raises:
            ValueError: it is damaged, unfinished, or something else.
        """
        fields, arrays = files.read_bank(path, mmap=mmap, verify=verify)
        bank = ConfigurationBank(fields["layer_shape"], arrays.pop("threshold"))
        bank.fingerprint = fields["fingerprint"]
        bank.attribute_to_layer_input = fields["attribute_to_layer_input"]
        bank.source = files.Source(*(fields[name] for name in files.Source._fields))
        if "probe" in arrays:
            with files.refusing(path, "is damaged: its first instances cannot be read"):
                bank.probe = Probe.unpacked(arrays.pop("probe"))
        bank.active_counts = arrays.pop("active_counts")
        bank._held = {
            name: GrowingRows(rows, is_mapped=mmap) for name, rows in arrays.items()
        }
        return bank
