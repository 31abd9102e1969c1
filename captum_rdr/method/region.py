"""A relaxed decision region: principal neurons, their states, and who shares them."""

import os
from collections import namedtuple
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from dataclasses import fields as fields_of
from importlib import import_module
from typing import Any

import torch
from captum.concept import Concept
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from captum_rdr._arguments import check_range
from captum_rdr._summary import as_html
from captum_rdr.axes import LayerAxes
from captum_rdr.bank import ConfigurationBank, bits, files
from captum_rdr.method.rule import Rule

COHERENT = 0.55
"""Share of what alike instances have in common that members of a concept share with S."""


@dataclass(frozen=True)
class Significance:
    """What a test of a region found.

    Attributes:
        p_value: chance of a find at least as coherent where there is no concept; 1 for
            a region that cannot be tested.
        effect: how far the region lies above chance, in standard deviations.
        n_outside: members outside S, on which the test rests.
        adjusted_p_value: the p-value after correction for the number of regions that
            were tested together; None if it was not corrected.
        level: p-values up to this count as significant.
        agreement: mean share of the judging neurons in which members outside S agree
            with S; None without such a member.
        expected: the same share for all rows outside S.
        coherence: agreement of members outside S with S, beyond chance, over that of
            S with itself, or of the members with the rows most like them, whichever is
            more; None where it was not measured. Below 0.55 the region is a mixture.
        untestable: why the region cannot be tested; empty where it can.
        assumed: how neurons were split, in words.

    >>> Significance(p_value=0.004, effect=5.1, n_outside=42)
    Significance(p=0.004, effect=5.1, 42 members outside S)
    >>> Significance(0.03, 1.9, 4, adjusted_p_value=0.2, agreement=0.7, expected=0.6)
    Significance(not significant: adjusted p=0.2, effect=1.9, agreement 0.7 against 0.6,
     4 members outside S)
    >>> print(Significance(0.004, 5.1, 42, coherence=0.31))
    a mixture: coherence 0.31, p=0.004
    >>> none = Significance(1.0, 0.0, 0, untestable="no member outside S")
    >>> print(none, none.passed, none.testable)
    not testable: no member outside S False False
    """

    p_value: float
    effect: float
    n_outside: int
    adjusted_p_value: float | None = None
    level: float = 0.05
    agreement: float | None = None
    expected: float | None = None
    coherence: float | None = None
    untestable: str = ""
    assumed: str = ""

    @property
    def testable(self) -> bool:
        """Whether there was anything to test."""
        return not self.untestable

    @property
    def verdict(self) -> str:
        """``"significant"``, ``"not significant"``, ``"a mixture"``, ``"not testable"``."""
        if self.untestable:
            return "not testable"
        if self._decisive > self.level:
            return "not significant"
        is_mixture = self.coherence is not None and self.coherence < COHERENT
        return "a mixture" if is_mixture else "significant"

    @property
    def passed(self) -> bool:
        """Whether the p-value, the adjusted one where there is one, is low enough, and
        the members are no mixture.
        """
        return self.verdict == "significant"

    @property
    def found(self) -> str:
        """What stands behind the verdict."""
        if self.untestable:
            return self.untestable
        adjusted = "" if self.adjusted_p_value is None else "adjusted "
        found = f"{adjusted}p={self._decisive:.2g}"
        if self.verdict == "a mixture":
            found = f"coherence {self.coherence:.2g}, {found}"
        return found

    @property
    def _decisive(self) -> float:
        return self.p_value if self.adjusted_p_value is None else self.adjusted_p_value

    def __str__(self) -> str:
        return self.found if self.passed else f"{self.verdict}: {self.found}"

    def __repr__(self) -> str:
        agreement = ""
        if self.agreement is not None:
            agreement = f"agreement {self.agreement:.3g} against {self.expected:.3g}, "
        if self.coherence is not None and self._decisive <= self.level:
            agreement += f"coherence {self.coherence:.2g}, "
        assumed = f", {self.assumed}" if self.assumed else ""
        return (
            f"Significance({self}, effect={self.effect:.3g}, {agreement}"
            f"{self.n_outside} members outside S{assumed})"
        )


NAMED = 10
"""Neurons that name a region whose members are told by all neurons of the layer."""


@dataclass(frozen=True, eq=False, repr=False)
class Region:
    """What a layer sees in a query: every instance that shares the principal states.

    Source: Chang, Kwon and Choi (AAAI 2024), Section 3; evidence is this package's
    extension.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model = torch.nn.Identity()
    >>> data = torch.tensor([[1.0, 1, -1], [1, 1, 1], [-1, -1, 1], [-1, 1, 1]])
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> (region,) = rdr.attribute_members([2], n_neighbors=2, n_neurons=2)
    >>> region
    Region(bank row 2: 2 of 3 neurons (1 active, 1 inactive), 2 members, 2 neighbors,
     tolerance=0)
    >>> region.mask()
    tensor([-0.5000,  0.0000,  0.2500])
    >>> (wide,) = rdr.attribute_members([2], n_neighbors=2, weighting="evidence")
    >>> wide
    Region(bank row 2 by evidence: all 3 weighty neurons of 3 (1 active, 2 inactive),
     2 members, 2 neighbors, evidence of at least -0.7031 nats)
    >>> round(wide.share(1), 3), wide.mask(1)
    (0.5, tensor([-1.6094,  0.0000,  0.0000]))
    >>> region.check_layer(rdr.bank.layer_shape, rdr.bank.fingerprint)
    >>> region.unravel(), region.to_dict()["coordinates"]
    ([(0,), (2,)], [[0], [2]])
    >>> region.contains(torch.tensor([[False, False, True], [True, True, True]]))
    tensor([ True, False])
    >>> region.evidence(data > 0).round(decimals=2)
    tensor([-1.5000, -0.9800,  0.6200,  0.6200], dtype=torch.float64)
    >>> list(region.to_concept(torch.utils.data.TensorDataset(data), 0, "c").data_iter)
    [tensor([[-1., -1.,  1.],
            [-1.,  1.,  1.]])]
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     region.save(f"{folder}/region")
    ...     Region.load(f"{folder}/region").members
    tensor([2, 3])

    Attributes:
        neurons: int64 ``(t,)``, flat indices of the principal neurons: ascending, or
            heaviest first in a region made with ``weighting="evidence"``.
        states: bool ``(t,)``, the state that each of them has in the region.
        scores: float64 ``(t,)``, what ranked them: ``|p_S - p|``, or the absolute
            weight in a region made with ``weighting="evidence"``.
        weights: float64 ``(t,)``, what each of them adds to the evidence when active, in
            nats: the log-odds of being in S, in whole multiples of 1/64, so that sums
            are exact.
        offset: evidence of an instance in which none of them is active, in nats.
        tolerance: neurons that may disagree; with an evidence cut, nats that were taken
            off the cut.
        evidence_cut: smallest evidence of a member in nats, or None where members are
            told by ``tolerance``. Three quarters of what is as near as S reach it: the lower
            quartile of the evidence of S, each instance judged by the weights that the
            others give.
        members: int64 ``(M,)``, rows of the bank in the region, ascending.
        neighbors: int64, rows of the bank in S, nearest first. A query that the bank
            does not hold belongs to S too, but has no row.
        distances: their distances from the query: int64 neurons for configurations,
            float64 for cosine and Euclidean distance (neurons where the rows were given,
            or chosen by evidence in a later round).
        layer_shape: shape ``(D1, ..., Dm)`` of the layer's output, per instance.
        query: the bank row that the query is, or None if the bank does not hold it.
        fingerprint: that of the bank, empty when unknown.
        significance: what a test of the region found, or None if it was not tested.
        rule: the choices that made the region; None when unknown.
        axes: what the axes of the layer's output mean; None where that is unknown.
        query_states: packed configuration of a query that the bank does not hold, uint8
            ``(ceil(D / 8),)``; else None.
        query_features: its float activations ``(D,)``, where S was chosen by them.
    """

    neurons: Tensor
    states: Tensor
    scores: Tensor
    weights: Tensor
    offset: float
    tolerance: float
    evidence_cut: float | None
    members: Tensor
    neighbors: Tensor
    distances: Tensor
    layer_shape: torch.Size
    query: int | None = None
    fingerprint: str = ""
    significance: Significance | None = None
    rule: Rule | None = None
    axes: LayerAxes | None = None
    query_states: Tensor | None = None
    query_features: Tensor | None = None

    @property
    def n_layer(self) -> int:
        """Number of neurons D of the layer."""
        return self.layer_shape.numel()

    def __repr__(self) -> str:
        active, count = int(self.states.sum()), len(self.neurons)
        query = "new input" if self.query is None else f"bank row {self.query}"
        if self.evidence_cut is None:
            neurons = f": {count} of {self.n_layer} neurons"
            told = f"tolerance={self.tolerance}"
        else:
            every = "all " * (self.rule is not None and self.rule.n_neurons is None)
            neurons = f" by evidence: {every}{count} weighty neurons of {self.n_layer}"
            told = f"evidence of at least {self.evidence_cut:.4g} nats"
            if count > NAMED:
                share = f"{self.share():.{0 if self.share() >= 0.01 else 1}%}"
                told += f", {NAMED} neurons carry {share} of the weight"
        tested = "" if self.significance is None else f", {self.significance!s}"
        return (
            f"Region({query}{neurons} ({active} active, {count - active} inactive), "
            f"{len(self.members)} members, {len(self.neighbors)} neighbors, {told}"
            f"{tested})"
        )

    def _repr_html_(self) -> str:
        return as_html(f"Region of a layer of {self.n_layer} neurons", self._summary())

    def _summary(self) -> dict[str, Any]:
        """A few plain values."""
        test = self.significance
        return {
            "query": self.query,
            "members": len(self.members),
            "neighbors": len(self.neighbors),
            "principal neurons": len(self.neurons),
            "of them active": int(self.states.sum()),
            "tolerance": self.tolerance,
            "evidence cut": self.evidence_cut,
            "verdict": None if test is None else test.verdict,
            "p-value": None if test is None else test._decisive,
            "effect": None if test is None else test.effect,
        }

    def to_dict(self) -> dict[str, Any]:
        """The region as values of JSON's types, but for a query that is no bank row.

        Returns:
            its attributes by name, tensors as lists, and the neurons' ``coordinates`` in
            the layer's output.
        """
        tensors = self._tensors().items()
        return {
            **{name: one.tolist() for name, one in tensors if name[:5] != "query"},
            "coordinates": [list(index) for index in self.unravel()],
            **self._fields(),
        }

    def _tensors(self) -> dict[str, Tensor]:
        every = {field.name: getattr(self, field.name) for field in fields_of(self)}
        return {name: one for name, one in every.items() if isinstance(one, Tensor)}

    def _fields(self) -> dict[str, Any]:
        """What is no tensor, as values of JSON's types."""
        return {
            "tolerance": self.tolerance,
            "evidence_cut": self.evidence_cut,
            "offset": self.offset,
            "layer_shape": list(self.layer_shape),
            "query": self.query,
            "fingerprint": self.fingerprint,
            "significance": self.significance and asdict(self.significance),
            "rule": self.rule and self.rule.as_fields(),
            "axes": self.axes and self.axes.as_fields(),
        }

    def mask(self, n_neurons: int | None = None) -> Tensor:
        """The region as a layer attribution.

        Args:
            n_neurons: how many of the principal neurons to show, those of highest
                score; None for all, but for the ten heaviest where membership rests on
                all neurons of the layer.

        Returns:
            float32 tensor of ``layer_shape``: +score where a principal neuron must be
            active, -score where it must be inactive, 0 elsewhere. A principal neuron
            of score 0 gets the smallest normal number, so that ``mask != 0`` is the
            boolean mask.
        """
        shown = self.named(n_neurons)
        flat = torch.zeros(self.n_layer)
        tiny = torch.finfo(torch.float32).tiny
        size = self.scores[shown].to(torch.float32).clamp(min=tiny)
        flat[self.neurons[shown]] = torch.where(self.states[shown], size, -size)
        return flat.reshape(self.layer_shape)

    def named(self, n_neurons: int | None = None) -> Tensor:
        """Positions, among the principal neurons, of those that name the region.

        Args:
            n_neurons: as in `mask`.

        Returns:
            int64, those of highest score first, ties to the lower position.

        >>> from captum_rdr import RelaxedDecisionRegion
        >>> model, data = torch.nn.Identity(), torch.eye(4)
        >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
        >>> (region,) = rdr.attribute_members([2], n_neighbors=1, n_neurons=3)
        >>> region.named(1), region.neurons[region.named(1)]
        (tensor([2]), tensor([2]))
        """
        rule = self.rule
        if n_neurons is None and rule is not None and rule.is_evidence:
            n_neurons = NAMED if rule.n_neurons is None else None
        return self.scores.argsort(descending=True, stable=True)[:n_neurons]

    def share(self, n_neurons: int = 10) -> float:
        """Share of the evidence's weight that the heaviest neurons carry.

        Args:
            n_neurons: how many of them.

        Returns:
            sum of their absolute weights over that of all principal neurons.
        """
        sizes = self.weights.abs().sort(descending=True).values
        return float(sizes[:n_neurons].sum() / sizes.sum().clamp(min=1e-300))

    def evidence(self, states: Tensor) -> Tensor:
        """Evidence for S against the bank on the principal neurons.

        Args:
            states: bool ``(M, D)`` or ``(M, D1, ..., Dm)``, or packed rows of a bank.

        Returns:
            float64 tensor ``(M,)``, in nats.

        Raises:
            ValueError: the states are those of another layer.
        """
        picked = self._picked(states).to(torch.float64)
        return picked @ self.weights + self.offset

    def contains(self, states: Tensor) -> Tensor:
        """Whether instances lie in the region.

        Args:
            states: bool ``(M, D)`` or ``(M, D1, ..., Dm)``, or packed rows of a bank.

        Returns:
            bool tensor ``(M,)``.

        Raises:
            ValueError: the states are those of another layer.
        """
        if self.evidence_cut is not None:
            return self.evidence(states) >= self.evidence_cut
        disagreements = (self._picked(states) != self.states).sum(1)
        return disagreements <= self.tolerance

    def _picked(self, states: Tensor) -> Tensor:
        flat = bits.flat(states, self.layer_shape)
        if flat.dtype == torch.uint8:
            flat = bits.unpack(flat, self.n_layer)
        return flat.cpu()[:, self.neurons]

    def check_layer(self, layer_shape: torch.Size, fingerprint: str) -> None:
        """Refuse to be used with another layer or model.

        Args:
            layer_shape: shape of the layer's output, per instance.
            fingerprint: of model and layer, empty when unknown.

        Raises:
            ValueError: the shape differs, or both fingerprints are known and differ.
        """
        known = {self.fingerprint, fingerprint} - {""}
        if self.layer_shape != layer_shape or len(known) > 1:
            raise ValueError(
                f"region belongs to a layer of shape {tuple(self.layer_shape)} and "
                f"fingerprint {self.fingerprint[:12]}..., the bank to {tuple(layer_shape)} "
                f"and {fingerprint[:12]}...; pass a region made with this model and layer"
            )

    def unravel(self) -> list[tuple[int, ...]]:
        """Coordinates of each principal neuron in the layer's output.

        Returns:
            for each neuron its index in ``layer_shape``, as Captum's
            ``neuron_selector`` takes it; where the bank knows what several axes mean, a
            named tuple that says so.

        >>> from captum_rdr import RelaxedDecisionRegion
        >>> model, data = torch.nn.Identity(), torch.eye(4).reshape(4, 2, 2, 1)
        >>> axes = LayerAxes("height width channel")
        >>> rdr = RelaxedDecisionRegion(model, model, axes=axes)
        >>> rdr = rdr.fit(data, show_progress=False)
        >>> rdr.attribute_members([2], n_neighbors=1, n_neurons=1)[0].unravel()
        [Place(height=1, width=0, channel=0)]
        """
        coordinates = torch.unravel_index(self.neurons, self.layer_shape)
        columns = [axis.tolist() for axis in coordinates]
        place: Any = tuple
        if self.axes is not None and len(self.axes.kinds) > 1:
            kinds = self.axes.kinds
            named: Any = namedtuple("Place", kinds, rename=True)  # type: ignore[misc]
            place = named._make
        return [place(index) for index in zip(*columns, strict=True)]

    def to_concept(self, dataset: Dataset[Any], id: int, name: str) -> Concept:
        """The region's members as a concept for ``captum.concept.TCAV``.

        Args:
            dataset: map-style dataset whose item i is row i of the bank; items are
                inputs, or tuples that begin with them.
            id: the concept's number.
            name: the concept's name.

        Returns:
            a concept whose ``data_iter`` gives batches of the members' inputs.

        Raises:
            ValueError: the dataset is smaller than the members need.
        """
        if not len(self.members):
            raise ValueError("the region has no member in the bank; raise tolerance")
        size = len(dataset)  # type: ignore[arg-type]  # it is map-style
        check_range("members", self.members, size, "the dataset's items")
        inputs = Subset(dataset, self.members.tolist())
        return Concept(id, name, DataLoader(inputs, 64, collate_fn=_inputs_only))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the region to one file, atomically and with a checksum."""
        files.write_tensors(path, "region", self._tensors(), self._fields())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Region":
        """Read a region that `save` wrote, after checking all of it.

        Raises:
            ValueError: the file is damaged, or holds something else.
        """
        tensors, fields = files.read_tensors(path, "region")
        with files.refusing(path, "holds no region"):
            test, rule, axes = (fields[n] for n in ("significance", "rule", "axes"))
            fields["layer_shape"] = torch.Size(fields["layer_shape"])
            fields["significance"] = test and Significance(**test)
            fields["rule"] = rule and Rule.from_fields(rule)
            fields["axes"] = axes and LayerAxes(**axes)
            values: dict[str, Any] = {**tensors, **fields}
            return Region(**values)


def regions_to_frame(regions: Sequence[Region]) -> Any:
    """A pandas table with one row a region.

    Args:
        regions: the regions.

    Returns:
        a ``pandas.DataFrame``: the query's bank row, if it has one; how many members,
        neighbors and principal neurons; tolerance; what a test found; and the flat
        indices of the principal neurons and the members' rows, as lists.

    Raises:
        ImportError: pandas is not installed; see `Region.to_dict`.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model, data = torch.nn.Identity(), torch.eye(4)
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> regions_to_frame(rdr.attribute_members([2, 0], 1, 3))["members"].tolist()
    [1, 1]
    """
    pandas = import_module("pandas")  # only this needs it
    return pandas.DataFrame(
        [
            {
                **region._summary(),
                "neuron indices": region.neurons.tolist(),
                "member rows": region.members.tolist(),
            }
            for region in regions
        ]
    ).astype({"query": "Int64"} if regions else {})


def _inputs_only(items: list[Any]) -> Any:
    """A batch of inputs alone, as Captum's concepts need them."""
    return default_collate(
        [item[0] if isinstance(item, (tuple, list)) else item for item in items]
    )


def checked_regions(
    region: Region | list[Region], banks: Sequence[ConfigurationBank]
) -> list[Region]:
    """One region a layer, each that of its bank.

    Raises:
        TypeError: something is no region.
        ValueError: there are more or fewer than layers, or one is of another layer.
    """
    regions = region if isinstance(region, list) else [region]
    if not all(isinstance(one, Region) for one in regions):
        raise TypeError(
            f"region is a {type(region).__name__}; give a Region, e.g. the first that "
            "attribute returned"
        )
    if len(regions) != len(banks):
        raise ValueError(
            f"region has {len(regions)} items for {len(banks)} layers; give one Region for a "
            "layer, e.g. regions[0], and for a list of layers one each"
        )
    for one, bank in zip(regions, banks, strict=True):
        one.check_layer(bank.layer_shape, bank.fingerprint)
    return regions
