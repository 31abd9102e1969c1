"""Why inputs are misclassified, and which errors are one cause."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.batches import BATCH_SIZE
from captum_rdr.discovery.causes import grouped
from captum_rdr.discovery.checks import checked_labels, single_bank
from captum_rdr.discovery.forward import predicted_classes
from captum_rdr.discovery.regions import explainer_of, recipe
from captum_rdr.discovery.repair import difference, nearest_region, smallest_repair
from captum_rdr.discovery.table import table
from captum_rdr.region import Region


@dataclass(frozen=True, eq=False)
class Misclassified:
    """One error.

    Attributes:
        index: its position among the inputs.
        target: its class.
        predicted: the class that the model takes it for.
        region: its region in the reference bank.
        by_class: how many reference members of that have which class.
        by_prediction: how many of them are taken for which class; None if that is not
            known.
        nearest: the nearest region of its class, see
            `captum_rdr.discovery.repair.nearest_region`.
        neurons: int64 ``(m,)``, principal neurons of that in which the error departs
            from it, the weightiest first.
        states: bool ``(m,)``, the states that it asks for.
        n_repairing: how many of these neurons must be clamped to those states for the
            right prediction, of 1, 2, 4, ... and all; None if none of these numbers
            does, or if that was not tried.
        cause: number of its cause; -1 for an error that shares no region with others
            that make up a cause.
    """

    index: int
    target: int
    predicted: int
    region: Region
    by_class: Counter[int]
    by_prediction: Counter[int] | None
    nearest: Region
    neurons: Tensor
    states: Tensor
    n_repairing: int | None
    cause: int


@dataclass(frozen=True, eq=False)
class Cause:
    """Errors that share regions.

    Attributes:
        errors: the errors, in the order of the inputs.
        region: the region that stands for them, among the inputs: its rows are positions
            of inputs. S are an error and the errors nearest to it.
    """

    errors: tuple[Misclassified, ...]
    region: Region

    @property
    def indices(self) -> Tensor:
        """Positions of the errors among the inputs, int64."""
        return torch.tensor([error.index for error in self.errors])

    @property
    def targets(self) -> Counter[int]:
        """How many of the errors have which class."""
        return Counter(error.target for error in self.errors)

    @property
    def predictions(self) -> Counter[int]:
        """How many of the errors are taken for which class."""
        return Counter(error.predicted for error in self.errors)

    @property
    def n_repaired(self) -> int:
        """How many of the errors a clamp repairs."""
        return sum(error.n_repairing is not None for error in self.errors)


@dataclass(frozen=True, eq=False, repr=False)
class Misclassification:
    """All errors of a set of inputs, and their causes, the largest cause first.

    Attributes:
        errors: the errors, in the order of the inputs.
        causes: the causes.
        n_inputs: number of inputs.
        repaired: whether repairs were tried.
    """

    errors: tuple[Misclassified, ...]
    causes: tuple[Cause, ...]
    n_inputs: int
    repaired: bool

    def __repr__(self) -> str:
        rows = []
        for number, cause in enumerate(self.causes):
            counts = [
                error.n_repairing
                for error in cause.errors
                if error.n_repairing is not None
            ]
            median = f"{torch.tensor(counts).median()}" if counts else "-"
            rows.append(
                (
                    number,
                    len(cause.errors),
                    _counted(cause.targets),
                    _counted(cause.predictions),
                    cause.n_repaired if self.repaired else "-",
                    median,
                    " ".join(map(str, cause.indices[:5].tolist())),
                )
            )
        alone = sum(error.cause < 0 for error in self.errors)
        title = (
            f"Misclassification: {len(self.errors)} errors of {self.n_inputs} inputs, "
            f"{len(self.causes)} cause{'s' * (len(self.causes) != 1)}, {alone} errors in none"
        )
        header = (
            *("cause", "errors", "class x errors", "taken for x errors", "repaired"),
            *("by neurons", "inputs"),
        )
        return table(title, header, rows)


def _counted(counts: Counter[int]) -> str:
    common = [f"{label} x {count}" for label, count in counts.most_common(3)]
    return ", ".join(common) + (", ..." if len(counts) > 3 else "")


def misclassification(
    rdr: RelaxedDecisionRegion,
    inputs: Tensor,
    targets: Sequence[int] | Tensor,
    reference_targets: Sequence[int] | Tensor,
    reference_predictions: Sequence[int] | Tensor | None = None,
    *,
    repair: bool = True,
    show_progress: bool = True,
    **choices: Any,
) -> Misclassification:
    """Explain every error by regions, and group the errors that share a cause.

    For each error: whose region it lies in, by the classes of the region's members; the
    nearest region of its own class; in which principal neurons it departs from that;
    and whether clamping those to that region's states makes the prediction right, and
    how many it takes.

    Errors that are taken for the same class form groups by the regions that they share
    among the inputs, see `captum_rdr.discovery.causes.grouped`.

    Args:
        rdr: fitted explainer of one layer of a classifier; its forward function gives
            class scores ``(B, n_classes)``.
        inputs: ``(M, ...)``, the inputs to evaluate, right and wrong.
        targets: int64 ``(M,)``, their classes.
        reference_targets: int64 ``(N,)``, the classes of the bank rows.
        reference_predictions: int64 ``(N,)``, the classes that the model predicts for
            the bank rows; None if unknown. Where known, only rightly predicted rows make
            the region of the right class.
        repair: whether to try repairs, which needs features in the bank and no pool.
        show_progress: draw progress bars when it takes more than a second.
        **choices: how regions are made, as in `captum_rdr.discovery.subclasses`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: ``rdr`` is not fitted or explains several layers, labels and inputs
            differ in number, a class has no bank row, or ``repair`` lacks features.

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
    >>> wrong = data[:20].clone()
    >>> wrong[:6, 0] = 3.0
    >>> misclassification(rdr, wrong, labels[:20], labels)
    Misclassification: 6 errors of 20 inputs, 1 cause, 0 errors in none
      cause  errors  class x errors  taken for x errors  repaired  by neurons  inputs
          0       6  0 x 6           1 x 6                      6           1  0 1 2 3 4
    """
    bank = single_bank(rdr)
    given, reference = _checked(rdr, bank, inputs, targets, reference_targets, repair)
    usable = torch.ones(len(bank), dtype=torch.bool)
    known = None
    if reference_predictions is not None:
        name = "reference_predictions"
        known = checked_labels(reference_predictions, name, len(bank))
        usable = known == reference
    predicted = predicted_classes(rdr, inputs)
    wrong = (predicted != given).nonzero().flatten()
    _check_classes(given[wrong], reference[usable])
    if not len(wrong):
        return Misclassification((), (), len(inputs), repair)
    made = recipe(bank, len(bank), choices)
    evaluated = _indexed(rdr, bank, inputs)
    regions = _regions(rdr, bank, inputs[wrong], made)
    standing, groups = grouped(
        evaluated,
        wrong,
        predicted[wrong],
        recipe(evaluated, len(wrong), choices),
        show_progress=show_progress,
    )
    errors = []
    progress = tqdm(
        wrong.tolist(), "Repairing", unit="error", disable=not show_progress, delay=1
    )
    for position, index in enumerate(progress):
        target, region = int(given[index]), regions[position]
        states = evaluated.states(torch.tensor([index]))[0]
        candidates = ((reference == target) & usable).nonzero().flatten()
        nearest = nearest_region(bank, states, candidates, made)
        wanted = difference(nearest, states)
        errors.append(
            Misclassified(
                index,
                target,
                int(predicted[index]),
                region,
                Counter(reference[region.members].tolist()),
                None if known is None else Counter(known[region.members].tolist()),
                nearest,
                *wanted,
                smallest_repair(rdr, inputs[index : index + 1], target, wanted)
                if repair
                else None,
                int(groups.labels[position]),
            )
        )
    return _with_causes(
        errors, [standing[row] for row in groups.chosen.tolist()], inputs, repair
    )


def _with_causes(
    errors: Sequence[Misclassified],
    standing: Sequence[Region],
    inputs: Tensor,
    repair: bool,
) -> Misclassification:
    """The causes, numbered by their size."""
    members = [
        [error for error in errors if error.cause == number]
        for number in range(len(standing))
    ]
    order = sorted(range(len(standing)), key=lambda number: -len(members[number]))
    renumbered = {number: rank for rank, number in enumerate(order)} | {-1: -1}
    numbered = [replace(error, cause=renumbered[error.cause]) for error in errors]
    causes = [
        Cause(
            tuple(error for error in numbered if error.cause == rank), standing[number]
        )
        for rank, number in enumerate(order)
    ]
    return Misclassification(tuple(numbered), tuple(causes), len(inputs), repair)


def _regions(
    rdr: RelaxedDecisionRegion,
    bank: ConfigurationBank,
    inputs: Tensor,
    choices: dict[str, Any],
) -> list[Region]:
    found: list[Region] = []
    for batch in torch.split(inputs, BATCH_SIZE):
        _, regions = rdr.attribute(
            batch, attribute_to_layer_input=bank.attribute_to_layer_input, **choices
        )
        found += regions
    return found


def _indexed(
    rdr: RelaxedDecisionRegion, bank: ConfigurationBank, inputs: Tensor
) -> ConfigurationBank:
    """A bank of the inputs, made as the reference bank was."""
    explainer = explainer_of(rdr, 0)
    explainer.fit(
        inputs,
        attribute_to_layer_input=bank.attribute_to_layer_input,
        keep_features=bank.features is not None,
        show_progress=False,
    )
    evaluated: ConfigurationBank = explainer.bank
    return evaluated


def _checked(
    rdr: RelaxedDecisionRegion,
    bank: ConfigurationBank,
    inputs: Any,
    targets: Any,
    reference_targets: Any,
    repair: bool,
) -> tuple[Tensor, Tensor]:
    if not isinstance(inputs, Tensor) or not inputs.dim():
        raise TypeError(
            f"inputs is a {type(inputs).__name__}; give a tensor (M, ...) of inputs"
        )
    if repair and bank.features is None:
        raise ValueError(
            "repair needs mean activations, but the bank holds no features; fit with "
            "keep_features=True, or pass repair=False"
        )
    if repair and rdr.reader.pools[0] is not None:
        raise ValueError(
            "repair clamps neurons of the layer's output, but the layer is pooled; "
            "explain it without pool, or pass repair=False"
        )
    return (
        checked_labels(targets, "targets", len(inputs)),
        checked_labels(reference_targets, "reference_targets", len(bank)),
    )


def _check_classes(needed: Tensor, available: Tensor) -> None:
    missing = sorted(set(needed.tolist()) - set(available.tolist()))
    if missing:
        raise ValueError(
            f"class {missing[0]} has an error but no (rightly predicted) row in the bank;"
            " fit with instances of every class"
        )
