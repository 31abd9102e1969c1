"""Why inputs are misclassified, and which errors are one cause."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median_low
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_rdr._arguments import checked_labels
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.discovery._links import cover, links, reach
from captum_rdr.discovery._recipe import (
    bank_regions,
    explainer_of,
    input_regions,
    recipe,
    table,
)
from captum_rdr.method.neighbors import nearest_features
from captum_rdr.method.region import Region
from captum_rdr.method.rule import Rule
from captum_rdr.metrics._explainers import fitted_banks, predicted_classes
from captum_rdr.model.inputs import BATCH_SIZE

_CONTROLS = 10  # random sets of neurons that a repair is held against
_NEIGHBORS = 8  # size of S of an error among the errors
_WALK_LENGTH = 16
_AT_MOST = 50  # causes
_LEAST_GAIN = 0.01  # share of the errors that a further cause must newly cover


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
        nearest: the nearest region of its class: S are the bank rows of the class that
            are nearest to it, the query is the nearest of them.
        neurons: int64 ``(m,)``, principal neurons of that in which the error departs
            from it, the weightiest first.
        states: bool ``(m,)``, the states that it asks for.
        n_repairing: how many of these neurons must be clamped to those states for the
            right prediction, of 1, 2, 4, ... and all; None if none of these numbers
            does, or if that was not tried.
        by_chance: share of random sets of as many other neurons whose flip makes the
            prediction right too (where there are fewer others, some of those that
            depart make up the number); None without a repair.
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
    n_repairing: int | None = None
    by_chance: float | None = None
    cause: int = -1


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
        return len(self._known("n_repairing"))

    def _known(self, name: str) -> list[Any]:
        """Values of an attribute of the errors, where they are known."""
        values = [getattr(error, name) for error in self.errors]
        return [value for value in values if value is not None]


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
        counts = [cause._known("n_repairing") for cause in self.causes]
        chances = [cause._known("by_chance") for cause in self.causes]
        columns = {
            "cause": range(len(self.causes)),
            "errors": [len(cause.errors) for cause in self.causes],
            "class x errors": [_counted(cause.targets) for cause in self.causes],
            "taken for x errors": [
                _counted(cause.predictions) for cause in self.causes
            ],
            "repaired": [len(some) if self.repaired else None for some in counts],
            "by neurons": [median_low(some) if some else None for some in counts],
            "by chance": [fmean(some) if some else None for some in chances],
            "inputs": [
                " ".join(map(str, cause.indices[:5].tolist())) for cause in self.causes
            ],
        }
        alone = sum(error.cause < 0 for error in self.errors)
        title = (
            f"Misclassification: {len(self.errors)} errors of {self.n_inputs} inputs, "
            f"{len(self.causes)} cause{'s' * (len(self.causes) != 1)}, {alone} errors in none"
        )
        return table(title, columns)


def _counted(counts: Counter[int]) -> str:
    common = [f"{label} x {count}" for label, count in counts.most_common(3)]
    return ", ".join(common) + (", ..." if len(counts) > 3 else "")


def misclassification(
    rdr: RelaxedDecisionRegion,
    inputs: Tensor,
    targets: Any,
    reference_targets: Any,
    reference_predictions: Any = None,
    *,
    repair: bool = True,
    generator: torch.Generator | None = None,
    show_progress: bool = True,
    **choices: Any,
) -> Misclassification:
    """Explain every error by regions, and group the errors that share a cause.

    For each error: whose region it lies in, by the classes of the region's members; the
    nearest region of its own class; in which principal neurons it departs from that;
    and whether clamping those to that region's states makes the prediction right, how
    many it takes, and how often a flip of as many random others does the same.

    The region of an error *among the inputs* has the error and its nearest other errors
    for S, so it tells what these errors have in common and the other inputs have not. Two
    errors are linked when one lies in the other's region and both are taken for the same
    class: one cause has one outcome. Groups then form as
    `captum_rdr.discovery.subclasses` do: by what walks along the links reach, and a cover.

    Args:
        rdr: fitted explainer of one layer of a classifier; its forward function gives
            class scores ``(B, n_classes)``.
        inputs: ``(M, ...)``, the inputs to evaluate, right and wrong.
        targets: whole numbers ``(M,)``, their classes.
        reference_targets: whole numbers ``(N,)``, the classes of the bank rows.
        reference_predictions: whole numbers ``(N,)``, the classes that the model predicts
            for the bank rows; None if unknown. Where known, only rightly predicted rows
            make the region of the right class.
        repair: whether to try repairs, which needs features in the bank and no pool.
        generator: draws the random neurons; None for one seeded with 0.
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
      cause  errors  class x errors  taken for x errors  repaired  by neurons  by chance ...
          0       6  0 x 6           1 x 6                      6           1      0.000 ...
    """
    (bank,) = fitted_banks(rdr)
    _check(rdr, bank, inputs, repair)
    of_inputs = checked_labels(targets, "targets", len(inputs))
    known = reference_predictions
    if known is not None:
        known = checked_labels(known, "reference_predictions", len(bank))
    classes = checked_labels(reference_targets, "reference_targets", len(bank))
    reference = _Reference(bank, classes, known)
    predicted = predicted_classes(rdr, inputs)
    wrong = (predicted != of_inputs).nonzero().flatten()
    if not len(wrong):
        return Misclassification((), (), len(inputs), repair)
    evaluated = _indexed(rdr, bank, inputs)
    states, wanted = evaluated.states(wrong), of_inputs[wrong]
    some = torch.split(inputs[wrong], BATCH_SIZE)
    columns: list[Any] = [
        wrong.tolist(),
        wanted.tolist(),
        predicted[wrong].tolist(),
        states,
        reference.nearest_regions(states, wanted, choices),
        [region for batch in some for region in input_regions(rdr, batch, choices)],
    ]
    errors = [reference.explained(*one) for one in zip(*columns, strict=True)]
    if repair:
        generator = generator or torch.Generator().manual_seed(0)
        bar = tqdm(errors, "Repairing", disable=not show_progress, delay=1)
        pairs = zip(bar, states, strict=True)
        errors = [repaired(rdr, inputs, *pair, generator) for pair in pairs]
    errors, causes = _grouped(evaluated, errors, choices, show_progress)
    return Misclassification(tuple(errors), tuple(causes), len(inputs), repair)


class _Reference(NamedTuple):
    """The reference bank.

    Attributes:
        bank: the bank.
        targets: int64 ``(N,)``, the classes of its rows.
        predictions: int64 ``(N,)``, those that the model predicts; None if unknown.
    """

    bank: ConfigurationBank
    targets: Tensor
    predictions: Tensor | None

    def nearest_regions(
        self, states: Tensor, targets: Tensor, choices: dict[str, Any]
    ) -> list[Region]:
        """For each instance the nearest region of its class.

        S are the ``n_neighbors`` bank rows of the class, rightly predicted where that is
        known, of smallest configuration distance, ties to the lower row; the query is the
        nearest of them.

        Args:
            states: bool ``(M, D)``, those of the instances.
            targets: int64 ``(M,)``, their classes.
            choices: how regions are made.
        """
        count = Rule(**recipe(choices)).settled(self.bank, len(states)).size
        is_right = self.targets == (
            self.targets if self.predictions is None else self.predictions
        )
        found: dict[int, Region] = {}
        for target in set(targets.tolist()):
            rows = (is_right & (self.targets == target)).nonzero().flatten()
            if not len(rows):
                raise ValueError(
                    f"class {target} has an error but no (rightly predicted) row in the "
                    "bank; fit with instances of every class"
                )
            positions = (targets == target).nonzero().flatten()
            nearest = [
                rows[self.bank.distances(some)[:, rows].argsort(stable=True)[:, :count]]
                for some in torch.split(states[positions], BATCH_SIZE)
            ]
            made = {**choices, "neighbors": torch.cat(nearest)}
            queries = made["neighbors"][:, 0]
            regions = bank_regions(self.bank, queries, made)
            found |= zip(positions.tolist(), regions, strict=True)
        return [found[position] for position in range(len(targets))]

    def explained(
        self,
        index: int,
        target: int,
        predicted: int,
        states: Tensor,
        nearest: Region,
        region: Region,
    ) -> Misclassified:
        """An error, before repairs and causes are looked for."""
        by_class = Counter(self.targets[region.members].tolist())
        by_prediction = None
        if self.predictions is not None:
            by_prediction = Counter(self.predictions[region.members].tolist())
        departs = (states[nearest.neurons] != nearest.states).nonzero().flatten()
        weights = nearest.weights[departs].abs()
        departs = departs[weights.argsort(descending=True, stable=True)]
        return Misclassified(
            index=index,
            target=target,
            predicted=predicted,
            region=region,
            by_class=by_class,
            by_prediction=by_prediction,
            nearest=nearest,
            neurons=nearest.neurons[departs],
            states=nearest.states[departs],
        )


def _check(
    rdr: RelaxedDecisionRegion, bank: ConfigurationBank, inputs: Any, repair: bool
) -> None:
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


def _indexed(
    rdr: RelaxedDecisionRegion, bank: ConfigurationBank, inputs: Tensor
) -> ConfigurationBank:
    """A bank of the inputs, made as the reference bank was."""
    fitted = explainer_of(rdr, 0).fit(
        inputs,
        attribute_to_layer_input=bank.attribute_to_layer_input,
        keep_features=bank.features is not None,
        show_progress=False,
    )
    evaluated: ConfigurationBank = fitted.bank
    return evaluated


def repaired(
    rdr: RelaxedDecisionRegion,
    inputs: Tensor,
    error: Misclassified,
    states: Tensor,
    generator: torch.Generator,
) -> Misclassified:
    """The error, with the smallest repair and how often chance does as well.

    1, 2, 4, ... of the weightiest neurons in which it departs from the nearest region of
    its class, and at last all of them, are clamped to their mean activation over the
    bank's instances that have the wanted state, until the model predicts the class.

    Args:
        rdr: fitted explainer of one layer, with features and without a pool.
        inputs: ``(M, ...)``, the inputs that the error is one of.
        error: the error.
        states: bool ``(D,)``, its states.
        generator: draws the neurons of the control.
    """

    def is_right(neurons: Tensor, wanted: Tensor) -> bool:
        values = rdr.bank.state_means(neurons, wanted)
        with rdr.clamping(neurons, values):
            one = inputs[error.index : error.index + 1]
            return int(predicted_classes(rdr, one)) == error.target

    total = len(error.neurons)
    doubling = [1 << power for power in range(total.bit_length())]
    for count in sorted({*doubling, total} - {0}):
        if is_right(error.neurons[:count], error.states[:count]):
            break
    else:
        return error
    is_other = torch.ones(rdr.bank.n_neurons, dtype=torch.bool)
    is_other[error.neurons] = False
    by_chance = 0
    for _ in range(_CONTROLS):
        # Where fewer others are left, some that depart make up the number.
        order = torch.randperm(len(is_other), generator=generator)
        others_first = is_other[order].int().argsort(descending=True, stable=True)
        drawn = order[others_first[:count]].sort().values
        by_chance += is_right(drawn, ~states[drawn])
    return replace(error, n_repairing=count, by_chance=by_chance / _CONTROLS)


def _grouped(
    bank: ConfigurationBank,
    errors: Sequence[Misclassified],
    choices: dict[str, Any],
    show_progress: bool,
) -> tuple[list[Misclassified], list[Cause]]:
    """The errors with the numbers of their causes, and the causes, the largest first.

    Args:
        bank: the evaluated inputs, right and wrong.
        errors: the errors.
        choices: how regions are made.
        show_progress: draw a progress bar when it takes more than a second.
    """
    rows = torch.tensor([error.index for error in errors])
    predicted = np.array([error.predicted for error in errors])
    neighbors = rows[_nearest_errors(bank, rows, min(_NEIGHBORS, len(rows)))]
    made = {**choices, "neighbors": neighbors}
    regions = bank_regions(bank, rows, made, show_progress=show_progress)
    linked = links(
        bank, rows, lambda part: [regions[position] for position in part]
    ).tocoo()
    heads, tails = linked.coords
    linked.data *= predicted[heads] == predicted[tails]  # one cause has one outcome
    linked.eliminate_zeros()
    groups = cover(reach(linked.tocsr(), _WALK_LENGTH), _AT_MOST, _LEAST_GAIN)
    sizes = np.bincount(groups.labels[groups.labels >= 0], minlength=len(groups.chosen))
    order = np.argsort(-sizes, kind="stable")
    ranks = np.append(np.argsort(order), -1)  # the last is that of label -1
    numbered = [
        replace(error, cause=number)
        for error, number in zip(errors, ranks[groups.labels].tolist(), strict=True)
    ]
    causes = [
        Cause(tuple(one for one in numbered if one.cause == rank), regions[position])
        for rank, position in enumerate(groups.chosen[order].tolist())
    ]
    return numbered, causes


def _nearest_errors(bank: ConfigurationBank, errors: Tensor, count: int) -> Tensor:
    """For each error the positions ``(E, count)`` of the nearest errors."""
    if bank.features is None:
        distances = bank.distances(bank.rows[errors])[:, errors]
        return distances.argsort(dim=1, stable=True)[:, :count]
    features = bank.features_of(errors)
    found = nearest_features(features, features, count, "cosine")
    return torch.stack([rows for rows, _ in found])
