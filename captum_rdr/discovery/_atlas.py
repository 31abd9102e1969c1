"""What an atlas tells: a layer's concepts, who lies in them, and how data drift."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from scipy.stats import false_discovery_control, fisher_exact
from torch import Tensor

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.discovery._recipe import explainer_of, table
from captum_rdr.method.region import Region
from captum_rdr.method.regions import evidence
from captum_rdr.metrics._regions import jaccard

_DEALT = 1999  # pairs of random sets that two are compared with


@dataclass(frozen=True)
class Errors:
    """How often a model errs on the rows of a concept.

    Attributes:
        n_wrong: rows that it predicts wrongly.
        rate: share of the rows that are wrong.
        rate_elsewhere: share that is wrong of all other rows that were looked at.
        p_value: of Fisher's exact test, two-sided, that the two shares are one, adjusted
            for the number of concepts (Benjamini and Hochberg).

    >>> Errors(n_wrong=3, rate=0.5, rate_elsewhere=0.1, p_value=0.02)
    Errors(n_wrong=3, rate=0.5, rate_elsewhere=0.1, p_value=0.02)
    """

    n_wrong: int
    rate: float
    rate_elsewhere: float
    p_value: float


@dataclass(frozen=True, eq=False, repr=False)
class Concept:
    """One concept of a layer.

    Attributes:
        region: the rule that tells it, for new inputs too: S are its rows.
            ``region.significance`` is a test on rows that did not choose it.
        rows: int64 ``(n,)``, the bank rows that walks lead to it, ascending. Each row
            belongs to one concept at most, but may lie in the regions of several.
        exemplars: int64, the rows with the most evidence, most evident first.
        gain: how much coverage would be lost without it, see `Atlas`.
        found_again: Jaccard index of its rows with the concept most like it that either
            half of the rows gives by itself, the mean of both halves; None if that was
            not tried.
        labels: how many rows have which label; None without labels.
        errors: how often the model errs on its rows; None without predictions.
    """

    region: Region
    rows: Tensor
    exemplars: Tensor
    gain: float
    found_again: float | None = None
    labels: Counter[Any] | None = None
    errors: Errors | None = None

    @property
    def told(self) -> float:
        """How well the rule tells the rows: Jaccard index with the region's members."""
        return jaccard(self.rows, self.region.members)

    def __repr__(self) -> str:
        found = self.found_again
        again = "" if found is None else f", found again {found:.2f}"
        of_labels = "" if self.labels is None else f", {counted(self.labels)}"
        return (
            f"Concept({len(self.rows)} rows{of_labels}, told {self.told:.2f}{again}, "
            f"exemplars={self.exemplars.tolist()}, {self.region!r})"
        )


class Assignment(NamedTuple):
    """Where instances lie in an atlas.

    Attributes:
        depth: float64 ``(B, K)``, by how many nats each instance's evidence exceeds what
            members of each concept must reach: 0 or more inside.
        concept: int64 ``(B,)``, the concept that each lies deepest in; -1 for none.
    """

    depth: Tensor
    concept: Tensor


class Drift(NamedTuple):
    """How a second data set spreads over an atlas, against a first.

    Attributes:
        first: float64 ``(K + 1,)``, share of the first set in each concept, each instance
            where it lies deepest; the last entry is the share in none.
        second: float64 ``(K + 1,)``, the same of the second set.
        p_value: chance that sets of these sizes, dealt at random from both together,
            spread as differently (chi-squared statistic), so few instances are no harm.
        p_values: float64 ``(K + 1,)``, of Fisher's exact test of each entry, adjusted for
            their number (Benjamini and Hochberg).
    """

    first: Tensor
    second: Tensor
    p_value: float
    p_values: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Atlas(Sequence[Concept]):
    """The concepts of a layer, or of some rows of its bank.

    Attributes:
        concepts: the concepts, that of most rows first.
        rows: int64 ``(n,)``, the bank rows that were looked at, as given.
        labels: int64 ``(n,)``, the number of each row's concept: that whose rows it is
            among, or for a row that no concept was made of, that in which it lies
            deepest; -1 for none.
        coverage: mean likeness of the rows to the one that stands for their concept, from
            0 to 1.
        explainer: the explainer of the layer.
    """

    concepts: tuple[Concept, ...]
    rows: Tensor
    labels: Tensor
    coverage: float
    explainer: RelaxedDecisionRegion

    def __getitem__(self, index: Any) -> Any:
        return self.concepts[index]

    def __len__(self) -> int:
        return len(self.concepts)

    @property
    def overlap(self) -> Tensor:
        """Jaccard index of the members of each two regions, float64 ``(K, K)``."""
        inside = torch.zeros(len(self), len(self.explainer.bank))
        for row, concept in zip(inside, self, strict=True):
            row[concept.region.members] = 1
        shared = (inside @ inside.T).double()
        sizes = shared.diagonal()
        return shared / (sizes[:, None] + sizes - shared).clamp(min=1)

    def assign(self, inputs: Any, *, show_progress: bool = False) -> Assignment:
        """Tell which concepts instances lie in, and how deep.

        Args:
            inputs: new ones as `captum_rdr.RelaxedDecisionRegion.fit` takes data: a
                tensor, a data set or a loader; or a bank of the layer.
            show_progress: draw a progress bar.

        Raises:
            TypeError: ``inputs`` is of an unusable type.
            ValueError: they are those of another layer or state of the model.

        >>> from captum_rdr.discovery import atlas
        >>> data = torch.tensor([[1.0, 1, -1], [-1, 1, 1]]).repeat_interleave(20, 0)
        >>> model = torch.nn.Identity()
        >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
        >>> found = atlas(rdr, n_concepts=2, test=False, show_progress=False)
        >>> found.assign(data[::20]).concept
        tensor([0, 1])
        """
        bank = inputs
        if not isinstance(bank, ConfigurationBank):
            bank = indexed(self.explainer, inputs, show_progress=show_progress)
        return assigned([concept.region for concept in self], bank)

    def drift(
        self, first: Any, second: Any, *, generator: torch.Generator | None = None
    ) -> Drift:
        """Tell whether two data sets spread over the concepts alike.

        The bank's own rows lie deeper than new data do, since they chose the concepts:
        compare two sets that did not, such as validation data and what came in since.

        Args:
            first: a data set, as in `assign`, or what that gave for it.
            second: another.
            generator: draws the sets that both are compared with; None for one seeded
                with 0.

        Raises:
            ValueError: a set is empty.

        >>> from captum_rdr.discovery import atlas
        >>> data = torch.tensor([[1.0, 1, -1], [-1, 1, 1]]).repeat_interleave(20, 0)
        >>> model = torch.nn.Identity()
        >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
        >>> found = atlas(rdr, n_concepts=2, test=False, show_progress=False)
        >>> found.drift(data, data[:20])
        Drift(first=tensor([0.5000, 0.5000, 0.0000], dtype=torch.float64),
              second=tensor([1., 0., 0.], dtype=torch.float64), p_value=0.0005, ...)
        """
        counts = torch.stack([self._spread(one) for one in (first, second)])
        sizes = counts.sum(1)
        for name, size in zip(("first", "second"), sizes.tolist(), strict=True):
            if not size:
                raise ValueError(f"{name} holds no instance; give one or more")
        p_values = [
            fisher_exact([column.tolist(), (sizes - column).tolist()]).pvalue
            for column in counts.T
        ]
        adjusted = torch.from_numpy(false_discovery_control(p_values))
        together = _chance_of(counts, generator or torch.Generator().manual_seed(0))
        first_share, second_share = counts.double() / sizes[:, None]
        return Drift(first_share, second_share, together, adjusted)

    def _spread(self, data: Any) -> Tensor:
        """How many instances lie deepest in each concept, and at last in none."""
        assigned = data if isinstance(data, Assignment) else self.assign(data)
        numbers = torch.where(assigned.concept < 0, len(self), assigned.concept)
        return numbers.bincount(minlength=len(self) + 1)

    def __repr__(self) -> str:
        title = (
            f"Atlas: {len(self)} concepts of {len(self.rows)} rows, coverage "
            f"{self.coverage:.3f}, {int((self.labels < 0).sum())} in none"
        )
        tests = [concept.region.significance for concept in self]
        columns: dict[str, Sequence[Any]] = {
            "concept": range(len(self)),
            "rows": [len(concept.rows) for concept in self],
            "told": [concept.told for concept in self],
            "verdict": [test.verdict if test else "not tested" for test in tests],
            "again": [concept.found_again for concept in self],
        }
        if any(concept.labels for concept in self):
            columns["labels"] = [counted(concept.labels or {}) for concept in self]
        if any(concept.errors for concept in self):
            columns["wrong"] = [one.errors and one.errors.rate for one in self]
            columns["p"] = [one.errors and one.errors.p_value for one in self]
        firsts = [concept.exemplars[:5].tolist() for concept in self]
        columns["exemplars"] = [" ".join(map(str, rows)) for rows in firsts]
        return table(title, columns)


def counted(counts: Any) -> str:
    """The most frequent of some counts, in words.

    >>> counted(Counter("aab"))
    'a x 2, b x 1'
    """
    common = [f"{label} x {count}" for label, count in Counter(counts).most_common(3)]
    return ", ".join(common) + (", ..." if len(counts) > 3 else "")


def assigned(regions: Sequence[Region], bank: ConfigurationBank) -> Assignment:
    """How deep each row of a bank lies in each of some regions."""
    cuts = torch.tensor([region.evidence_cut for region in regions]).double()
    depth = (evidence(regions, bank) - cuts[:, None]).T
    # Those of no concept come first, so that the others may be none at all.
    deepest = torch.nn.functional.pad(depth, (1, 0), value=-torch.inf).max(1)
    return Assignment(depth, torch.where(deepest.values < 0, -1, deepest.indices - 1))


def indexed(
    rdr: RelaxedDecisionRegion, inputs: Any, *, show_progress: bool = False
) -> ConfigurationBank:
    """A bank of other inputs, made as the reference bank of one layer was."""
    bank = rdr.bank
    fitted = explainer_of(rdr, 0).fit(
        inputs,
        attribute_to_layer_input=bank.attribute_to_layer_input,
        keep_features=bank.features is not None,
        show_progress=show_progress,
    )
    made: ConfigurationBank = fitted.bank
    return made


def _chance_of(counts: Tensor, generator: torch.Generator) -> float:
    """Chance of two rows of counts as different, if instances are dealt at random."""
    n_first, n_all = int(counts[0].sum()), int(counts.sum())
    kept = counts[:, counts.sum(0) > 0]
    expected = kept.sum(0) * n_first / n_all
    weights = (n_all / (n_all - n_first)) / expected  # both rows of a chi-squared sum

    def difference(first: Tensor) -> float:
        return float(((first - expected).square() * weights).sum())

    numbers = torch.arange(kept.shape[1]).repeat_interleave(kept.sum(0))
    reached, least = 0, difference(kept[0]) * (1 - 1e-9)
    for _ in range(_DEALT):
        dealt = torch.randperm(n_all, generator=generator)[:n_first]
        drawn = numbers[dealt].bincount(minlength=kept.shape[1])
        reached += difference(drawn) >= least
    return (1 + reached) / (1 + _DEALT)
