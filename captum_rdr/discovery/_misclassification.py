"""Why inputs are misclassified: their errors in groups that regions tell."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import false_discovery_control, fisher_exact
from torch import Tensor

from captum_rdr._arguments import check_level, check_whole, checked_labels
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.discovery._atlas import Errors, counted
from captum_rdr.discovery._concepts import AGAIN
from captum_rdr.discovery._error_groups import Wrong, grouped
from captum_rdr.discovery._evaluated import Evaluated, arguments_of, evaluated
from captum_rdr.discovery._recipe import explainer_of, table
from captum_rdr.discovery._repairs import Repair, Repairs
from captum_rdr.method.region import Region
from captum_rdr.method.regions import evidence
from captum_rdr.metrics._explainers import fitted_banks
from captum_rdr.metrics._regions import jaccard

NOT_FOUND = Errors(0, 0.0, 0.0, 1.0)


@dataclass(frozen=True, eq=False, repr=False)
class ErrorGroup:
    """Errors that are one thing.

    Attributes:
        region: what they share, among the evaluated inputs: its rows are positions of
            these, and S are the errors. It tells new inputs too.
        rows: int64 ``(n,)``, positions of the errors, ascending.
        exemplars: int64 ``(n,)``, the same, those with most evidence first.
        targets: how many of the errors have which class.
        predictions: how many are taken for which class.
        rate: share of errors among all evaluated inputs in the region. The errors chose
            it, so this is more than other data would give.
        errors: what other data give: errors among the inputs of one half in the region
            that the errors of the other half make, and the test of that, one-sided;
            p = 1 where that half makes no such group.
        found_again: share of its errors in either half that lie in the region that the
            errors of the other half make.
        reference: int64, bank rows in the region, those with most evidence first; none
            where such data are missing.
        reference_labels: how many of these have which label; None if unknown.
        odd: int64, those of another label than most: look whether that is wrong, or
            whether they only look alike.
        repairs: of a sample of the errors, where they were asked for.
    """

    region: Region
    rows: Tensor
    exemplars: Tensor
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
        targets: int64 ``(M,)``, the classes of all inputs.
        predictions: int64 ``(M,)``, what the model takes them for.
        labels: int64 ``(E,)``, the number of each error's group; -1 for none.
        layer: the layer that makes the groups.
        separation: for each layer the share of the errors that are in groups that pass
            the test.
    """

    groups: tuple[ErrorGroup, ...]
    rows: Tensor
    targets: Tensor
    predictions: Tensor
    labels: Tensor
    layer: str
    separation: dict[str, float]

    def __getitem__(self, index: Any) -> Any:
        return self.groups[index]

    def __len__(self) -> int:
        return len(self.groups)

    def __repr__(self) -> str:
        title = (
            f"Misclassification: {len(self.rows)} errors of {len(self.targets)} inputs, "
            f"{len(self)} group{'s' * (len(self) != 1)} by layer {self.layer!r}, "
            f"{int((self.labels < 0).sum())} errors in none"
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
        columns["inputs"] = [
            " ".join(map(str, one.exemplars[:5].tolist())) for one in self
        ]
        return table(title, columns)


def misclassification(
    rdr: RelaxedDecisionRegion,
    data: Any,
    targets: Any = None,
    reference_targets: Any = None,
    reference_predictions: Any = None,
    *,
    repair: int = 0,
    n_neighbors: int = 8,
    level: float = 0.05,
    generator: torch.Generator | None = None,
    show_progress: bool = True,
) -> Misclassification:
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
        rdr: fitted explainer of a classifier; its forward function gives class scores
            ``(B, n_classes)``. Of a list of layers each groups the errors, and that is
            returned which separates best, see `Misclassification`.
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
        n_neighbors: size of S of an error among the errors.
        level: adjusted p-values up to this pass.
        generator: draws halves and samples; None for one seeded with 0.
        show_progress: draw progress bars.

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
    >>> misclassification(rdr, evaluated, show_progress=False)
    Misclassification: ... errors of 100 inputs, 1 group by layer '0', ... errors in none
      group  errors  class x errors  taken for x errors ...
          0 ...
    """
    several = isinstance(getattr(rdr, "layer", None), list)
    banks = fitted_banks(rdr, several=several)
    check_whole("repair", repair, least=0)
    check_whole("n_neighbors", n_neighbors)
    check_level(level)
    classes, is_right = _reference(
        len(banks[0]), reference_targets, reference_predictions
    )
    if repair:
        _check_repair(rdr, banks, data, classes)
    generator = generator or torch.Generator().manual_seed(0)
    seen = evaluated(rdr, data, targets, show_progress=show_progress)
    order = torch.randperm(len(seen.targets), generator=generator)
    halves = [half.sort().values for half in order.chunk(2)]
    by_layer, shares = [], []
    for bank, of_inputs, features in zip(banks, seen.banks, seen.features, strict=True):
        wrong = Wrong(of_inputs, seen.rows, seen.outcomes, features)
        found = _groups(wrong, halves, n_neighbors, show_progress)
        by_layer.append([_with_reference(one, bank, classes) for one in found])
        passing = [len(one.rows) for one in found if one.errors.p_value <= level]
        shares.append(sum(passing) / max(len(seen.rows), 1))
    best = int(np.argmax(shares))
    groups = by_layer[best]
    if repair and classes is not None:
        tried = Repairs(explainer_of(rdr, best), classes, is_right, generator)
        groups = _repaired(groups, tried, seen, seen.banks[best], data, repair)
    labels = torch.full((len(seen.targets),), -1)
    for number, group in enumerate(groups):
        labels[group.rows] = number
    return Misclassification(
        tuple(groups),
        seen.rows,
        seen.targets,
        seen.predictions,
        labels[seen.rows],
        rdr.reader.names[best],
        dict(zip(rdr.reader.names, shares, strict=True)),
    )


def _reference(
    size: int, targets: Any, predictions: Any
) -> tuple[Tensor | None, Tensor | None]:
    """The classes of the bank rows, and which of these are predicted rightly."""
    if targets is None:
        return None, None
    classes = checked_labels(targets, "reference_targets", size)
    if predictions is None:
        return classes, None
    return classes, classes == checked_labels(
        predictions, "reference_predictions", size
    )


def _groups(
    wrong: Wrong, halves: Sequence[Tensor], n_neighbors: int, show_progress: bool
) -> list[ErrorGroup]:
    """The groups of errors, tested on inputs that did not make them."""
    is_wrong = torch.isin(torch.arange(len(wrong.bank)), wrong.rows)
    every, *by_half = (
        grouped(wrong.among(inputs), inputs, n_neighbors, show_progress=show_progress)
        for inputs in (torch.arange(len(is_wrong)), *halves)
    )
    first_tests = _tested(by_half[0], halves[-1], is_wrong)
    at = {row: position for position, row in enumerate(wrong.rows.tolist())}
    groups = []
    for region in every:
        rows = region.neighbors.sort().values
        again, errors = [], NOT_FOUND
        for half, other, regions in zip(halves, halves[::-1], by_half, strict=True):
            own = rows[torch.isin(rows, half)]
            likeness = [jaccard(own, one.neighbors) for one in regions]
            best = int(np.argmax(likeness)) if likeness else -1
            if best < 0 or likeness[best] < AGAIN:
                again.append(0.0)
                continue
            if half is halves[0]:
                errors = first_tests[best]
            rest = rows[torch.isin(rows, other)]
            inside = torch.isin(rest, regions[best].members)
            again.append(float(inside.float().mean()) if len(rest) else 0.0)
        sums = evidence([region], wrong.bank)[0]
        outcomes = wrong.outcomes[[at[row] for row in rows.tolist()]]
        groups.append(
            ErrorGroup(
                region=region,
                rows=rows,
                exemplars=rows[sums[rows].argsort(descending=True, stable=True)],
                targets=Counter(outcomes[:, 0].tolist()),
                predictions=Counter(outcomes[:, 1].tolist()),
                rate=float(is_wrong[region.members].float().mean()),
                errors=errors,
                found_again=float(np.mean(again)),
            )
        )
    return groups


def _tested(
    regions: Sequence[Region], inputs: Tensor, is_wrong: Tensor
) -> list[Errors]:
    """How often some inputs are wrong in regions that others made."""
    wrong, p_values, counts = is_wrong[inputs], [], []
    for region in regions:
        inside = torch.isin(inputs, region.members)
        n, n_wrong = int(inside.sum()), int((inside & wrong).sum())
        others, others_wrong = len(inputs) - n, int(wrong.sum()) - n_wrong
        cells = [[n_wrong, n - n_wrong], [others_wrong, others - others_wrong]]
        p_values.append(fisher_exact(cells, alternative="greater").pvalue)
        counts.append((n_wrong, n_wrong / max(n, 1), others_wrong / max(others, 1)))
    adjusted = false_discovery_control(p_values) if p_values else []
    return [Errors(*three, float(p)) for three, p in zip(counts, adjusted, strict=True)]


def _with_reference(
    group: ErrorGroup, bank: ConfigurationBank, classes: Tensor | None
) -> ErrorGroup:
    """A group, with the rows of the reference bank that lie in its region."""
    sums = evidence([group.region], bank)[0]
    order = sums.argsort(descending=True, stable=True)
    rows = order[: int((sums >= float(group.region.evidence_cut or 0)).sum())]
    if classes is None or not len(rows):
        return replace(group, reference=rows)
    of_rows = classes[rows]
    held = Counter(of_rows.tolist())
    odd = rows[of_rows != held.most_common(1)[0][0]]
    return replace(group, reference=rows, reference_labels=held, odd=odd)


def _repaired(
    groups: Sequence[ErrorGroup],
    tried: Repairs,
    seen: Evaluated,
    bank: ConfigurationBank,
    data: Any,
    count: int,
) -> list[ErrorGroup]:
    """The groups, with repairs of some errors of each."""
    samples = []
    for one in groups:
        order = torch.randperm(len(one.rows), generator=tried.generator)
        samples.append(one.rows[order[:count]].sort().values.tolist())
    arguments = arguments_of(tried.rdr, data, [row for some in samples for row in some])
    found = []
    for group, sample in zip(groups, samples, strict=True):
        repairs = [
            tried.of(row, arguments[row], bank.states([row])[0], int(seen.targets[row]))
            for row in sample
        ]
        found.append(replace(group, repairs=tuple(repairs)))
    return found


def _check_repair(
    rdr: RelaxedDecisionRegion,
    banks: Sequence[ConfigurationBank],
    data: Any,
    classes: Tensor | None,
) -> None:
    lacks = {
        "the classes of the bank's rows; give reference_targets": classes is None,
        "mean activations, but the bank holds no features; fit with keep_features=True": (
            any(bank.features is None for bank in banks)
        ),
        "neurons of the layer's output, but the layer is pooled; explain it without pool": (
            any(pool is not None for pool in rdr.reader.pools)
        ),
        "data that can be gone through twice; give a DataLoader": isinstance(
            data, Iterator
        ),
    }
    for what, is_lacking in lacks.items():
        if is_lacking:
            raise ValueError(f"repair needs {what}, or pass repair=0")
