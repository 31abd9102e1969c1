"""Why inputs are misclassified: their errors in groups that regions tell."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_rdr._arguments import check_whole, checked_labels
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.discovery._atlas import Errors, counted
from captum_rdr.discovery._concepts import AGAIN, error_rates
from captum_rdr.discovery._error_groups import Wrong, grouped
from captum_rdr.discovery._evaluated import evaluated
from captum_rdr.discovery._recipe import explainer_of, table
from captum_rdr.discovery._repairs import Repair, repaired
from captum_rdr.method.region import Region
from captum_rdr.method.regions import evidence
from captum_rdr.metrics._explainers import fitted_banks
from captum_rdr.metrics._regions import jaccard


@dataclass(frozen=True, eq=False, repr=False)
class ErrorGroup:
    """Errors that are one thing.

    Attributes:
        region: what they share, among the evaluated inputs: its rows are positions of
            these, and S are the errors. It tells new inputs too.
        rows: int64 ``(n,)``, positions of the errors, those with most evidence first.
        targets: how many of the errors have which class.
        predictions: how many are taken for which class.
        rate: share of errors among all evaluated inputs in the region. The errors chose
            it, so this is more than other data would give.
        errors: what other data give: errors among the inputs of one half in the region
            that the errors of the other half make, and the test of that, one-sided;
            p = 1 where that half makes no such group.
        found_again: share of its errors that lie in the region that the errors of the
            other half of the inputs make.
        reference: int64, bank rows in the region, those with most evidence first; none
            where such data are missing.
        reference_labels: how many of these have which label; None if unknown.
        odd: int64, those of another label than most: look whether that is wrong, or
            whether they only look alike.
        repairs: of a sample of the errors, where they were asked for.
    """

    region: Region
    rows: Tensor
    targets: Counter[int]
    predictions: Counter[int]
    rate: float
    errors: Errors
    found_again: float
    reference: Tensor = field(default_factory=lambda: torch.zeros(0).long())
    reference_labels: Counter[int] | None = None
    odd: Tensor = field(default_factory=lambda: torch.zeros(0).long())
    repairs: tuple[Repair, ...] = ()

    def __repr__(self) -> str:
        return (
            f"ErrorGroup({len(self.rows)} errors of {counted(self.targets)}, taken for "
            f"{counted(self.predictions)}; rate {self.errors.rate:.2f} against "
            f"{self.errors.rate_elsewhere:.2f}, p={self.errors.p_value:.2g})"
        )


@dataclass(frozen=True, eq=False, repr=False)
class Misclassification(Sequence[ErrorGroup]):
    """All errors of a set of inputs, in groups, the largest first.

    Attributes:
        groups: the groups.
        rows: int64 ``(E,)``, positions of the errors among the inputs.
        outcomes: int64 ``(E, 2)``, the class of each error, and what it is taken for.
        bank: the states of all inputs: ``region.members`` of a group are its rows.
        layer: the layer's name.
    """

    groups: tuple[ErrorGroup, ...]
    rows: Tensor
    outcomes: Tensor
    bank: ConfigurationBank
    layer: str

    def separation(self, level: float = 0.05) -> float:
        """Share of the errors that are in groups of an adjusted p-value up to a level.

        The layer of which this is largest tells errors best from other inputs.

        >>> none = torch.empty(0, 2).long()
        >>> nothing = Misclassification((), none[:, 0], none, ConfigurationBank((2,)), "4")
        >>> nothing.separation()
        0.0
        """
        sizes = [len(one.rows) for one in self if one.errors.p_value <= level]
        return sum(sizes) / max(len(self.rows), 1)

    def __getitem__(self, index: Any) -> Any:
        return self.groups[index]

    def __len__(self) -> int:
        return len(self.groups)

    def __repr__(self) -> str:
        alone = len(self.rows) - sum(len(one.rows) for one in self)
        title = (
            f"Misclassification: {len(self.rows)} errors of {len(self.bank)} inputs, "
            f"{len(self)} group{'s' * (len(self) != 1)}, {alone} errors in none; "
            f"layer {self.layer!r} separates {self.separation():.2f}"
        )
        columns: dict[str, Sequence[Any]] = {
            "group": range(len(self)),
            "errors": [len(one.rows) for one in self],
            "class x errors": [counted(one.targets) for one in self],
            "taken for x errors": [counted(one.predictions) for one in self],
            "rate": [one.errors.rate for one in self],
            "elsewhere": [one.errors.rate_elsewhere for one in self],
            "p": [one.errors.p_value for one in self],
            "again": [one.found_again for one in self],
        }
        if any(one.repairs for one in self):
            columns["repaired"] = [
                f"{sum(r.n_repairing is not None for r in one.repairs)}/{len(one.repairs)}"
                for one in self
            ]
        columns["inputs"] = [" ".join(map(str, one.rows[:5].tolist())) for one in self]
        return table(title, columns)


def misclassification(
    rdr: RelaxedDecisionRegion,
    data: Any,
    targets: Any = None,
    reference_targets: Any = None,
    reference_predictions: Any = None,
    *,
    repair: int = 0,
    generator: torch.Generator | None = None,
    show_progress: bool = True,
) -> Any:
    """Group the errors of a classifier by what the layer sees in them.

    One pass gives predictions and states; of the inputs only their packed states are
    kept, and the activations of the errors.

    1. The region of an error has the error and its nearest other errors for S. Two errors
       are linked when one is among the 16 most evident members of the other's region, and
       walks along these links tell how alike errors are, as in
       `captum_rdr.discovery.atlas`.
    2. *Causes*: a group that long walks make, or else shorter ones, is kept if its errors
       have a region in which most inputs are errors. Class and prediction do not matter,
       so one predicted class may hold several causes, and one cause may lead to several.
    3. The other errors are grouped by walks that favor errors of the same class and
       prediction.
    4. The same is done on two halves of the inputs. What the errors of one half make is
       judged on the other's inputs, which did not choose it: by Fisher's exact test,
       one-sided, that errors are more frequent in the region than outside, adjusted for
       the number of groups (Benjamini and Hochberg).

    Args:
        rdr: fitted explainer of one layer of a classifier, or of a list of layers; its
            forward function gives class scores ``(B, n_classes)``.
        data: the inputs to evaluate, right and wrong: a DataLoader that does not shuffle
            or a Dataset of (inputs, labels), or inputs as a tensor ``(M, ...)``.
        targets: whole numbers ``(M,)``, the classes; None to take the labels of ``data``.
        reference_targets: whole numbers ``(N,)``, the classes of the bank rows; None if
            unknown.
        reference_predictions: whole numbers ``(N,)``, the classes that the model predicts
            for the bank rows; None if unknown. Where known, only rightly predicted rows
            are the model of a repair.
        repair: errors of each group, drawn at random, for which is tried how many neurons
            must be clamped to the states of their class for the right prediction. It goes
            through ``data`` again, and needs ``reference_targets``, features in the bank
            and no pool.
        generator: draws halves and samples; None for one seeded with 0.
        show_progress: draw progress bars.

    Returns:
        a `Misclassification`; for a list of layers one each, all from the same pass and
        the same halves.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: ``rdr`` is not fitted, labels and inputs differ in number, an argument
            is out of range, or ``repair`` lacks what it needs.

    Source: this package.

    >>> drawing = torch.Generator().manual_seed(0)
    >>> labels = torch.arange(2).repeat_interleave(50)
    >>> data = torch.randn(100, 8, generator=drawing) / 2
    >>> data[:, 0] += 2.0 * labels - 1
    >>> first, last = torch.nn.Identity(), torch.nn.Linear(8, 2)
    >>> with torch.no_grad():
    ...     _ = last.bias.zero_()
    ...     _ = last.weight.copy_(torch.outer(torch.tensor([-1.0, 1]), torch.eye(8)[0]))
    >>> model = torch.nn.Sequential(first, last)
    >>> rdr = RelaxedDecisionRegion(model, first)
    >>> rdr = rdr.fit(data, keep_features=True, show_progress=False)
    >>> wrong = data.clone()
    >>> wrong[:12, :2] = torch.tensor([3.0, 5.0])
    >>> evaluated = torch.utils.data.TensorDataset(wrong, labels)
    >>> found = misclassification(rdr, evaluated, show_progress=False)
    >>> found
    Misclassification: ... errors of 100 inputs, 1 group, ... errors in none; layer '0' ...
      group  errors  class x errors  taken for x errors ...
          0 ...
    """
    several = isinstance(rdr.layer, list)
    banks = fitted_banks(rdr, several=several)
    check_whole("repair", repair, least=0)
    known = _labels_of(banks[0], reference_targets, "reference_targets")
    predicted = _labels_of(banks[0], reference_predictions, "reference_predictions")
    lacks = known is None or any(bank.features is None for bank in banks)
    if repair and (lacks or isinstance(data, Iterator)):
        raise ValueError(
            f"repair={repair} needs reference_targets, features in the bank, and data that "
            "can be gone through twice; fit with keep_features=True, or pass repair=0"
        )
    generator = generator or torch.Generator().manual_seed(0)
    layers, classes = evaluated(rdr, data, targets, show_progress=show_progress)
    halves = torch.randperm(len(classes), generator=generator).chunk(2)
    found = []
    for number, (bank, wrong) in enumerate(zip(banks, layers, strict=True)):
        groups = _groups(wrong, halves, bank, known, show_progress)
        if repair and known is not None:
            models = known if predicted is None else known.where(known == predicted, -1)
            seen = wrong.bank, classes, data, [one.rows for one in groups]
            mended = repaired(
                explainer_of(rdr, number), models, *seen, repair, generator
            )
            pairs = zip(groups, mended, strict=True)
            groups = [replace(one, repairs=its) for one, its in pairs]
        described = (
            torch.from_numpy(wrong.outcomes),
            wrong.bank,
            rdr.reader.names[number],
        )
        found.append(Misclassification(tuple(groups), wrong.rows, *described))
    return found if several else found[0]


def _labels_of(bank: ConfigurationBank, given: Any, name: str) -> Tensor | None:
    return None if given is None else checked_labels(given, name, len(bank))


def _groups(
    wrong: Wrong,
    halves: Sequence[Tensor],
    bank: ConfigurationBank,
    known: Tensor | None,
    show_progress: bool,
) -> list[ErrorGroup]:
    """The groups of errors, tested on inputs that did not make them."""
    is_wrong = torch.isin(torch.arange(len(wrong.bank)), wrong.rows)
    every, *by_half = (
        grouped(wrong.among(inputs), inputs, show_progress=show_progress)
        for inputs in (torch.arange(len(is_wrong)), *halves)
    )
    judging = [one.members[torch.isin(one.members, halves[-1])] for one in by_half[0]]
    tests = error_rates(judging, halves[-1], is_wrong, "greater")
    groups = []
    for region in every:
        sums = evidence([region], wrong.bank)[0][region.neighbors]
        rows = region.neighbors[sums.argsort(descending=True, stable=True)]
        again, errors = [], Errors(0, 0.0, 0.0, 1.0)
        for half, found in zip(halves, by_half, strict=True):
            is_own = torch.isin(rows, half)
            likeness = [jaccard(rows[is_own], one.neighbors) for one in found]
            best = int(np.argmax([*likeness, AGAIN]))
            if best < len(found):
                again.append(torch.isin(rows[~is_own], found[best].members))
                errors = tests[best] if half is halves[0] else errors
        outcomes = wrong.outcomes[torch.isin(wrong.rows, rows).numpy()]
        targets, predictions = (Counter(column.tolist()) for column in outcomes.T)
        rate = float(is_wrong[region.members].float().mean())
        share = int(sum(some.sum() for some in again)) / len(rows)
        told = targets, predictions, rate, errors, share
        groups.append(_with_reference(ErrorGroup(region, rows, *told), bank, known))
    return groups


def _with_reference(
    group: ErrorGroup, bank: ConfigurationBank, classes: Tensor | None
) -> ErrorGroup:
    """A group, with the rows of the reference bank that lie in its region."""
    sums = evidence([group.region], bank)[0]
    count = int((sums >= float(group.region.evidence_cut or 0)).sum())
    rows = sums.argsort(descending=True, stable=True)[:count]
    if classes is None:
        return replace(group, reference=rows)
    held = Counter(classes[rows].tolist())
    odd = rows[classes[rows] != max(held, key=lambda one: held[one], default=0)]
    return replace(group, reference=rows, reference_labels=held, odd=odd)
