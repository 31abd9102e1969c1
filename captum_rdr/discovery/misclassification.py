"""Why inputs are misclassified, and which errors are one cause."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.discovery.causes import grouped
from captum_rdr.discovery.checks import checked_labels, single_bank
from captum_rdr.discovery.errors import Cause, Misclassification, Misclassified
from captum_rdr.discovery.forward import predicted_classes
from captum_rdr.discovery.regions import explainer_of, recipe
from captum_rdr.discovery.repair import difference, nearest_region, smallest_repair
from captum_rdr.method.region import Region
from captum_rdr.model.inputs import BATCH_SIZE


def misclassification(
    rdr: RelaxedDecisionRegion,
    inputs: Tensor,
    targets: Sequence[int] | Tensor,
    reference_targets: Sequence[int] | Tensor,
    reference_predictions: Sequence[int] | Tensor | None = None,
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
          0       6  0 x 6           1 x 6                      6           1       0.00 ...
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
    evaluated = _indexed(rdr, bank, inputs)
    standing, groups = grouped(
        evaluated,
        wrong,
        predicted[wrong],
        recipe(evaluated, len(wrong), choices),
        show_progress=show_progress,
    )
    causes = groups.labels.tolist()
    generator = generator or torch.Generator().manual_seed(0)
    made = recipe(bank, len(bank), choices)
    regions = _regions(rdr, bank, inputs[wrong], made)
    progress = tqdm(
        wrong.tolist(), "Explaining", unit="error", disable=not show_progress, delay=1
    )
    errors = []
    for position, index in enumerate(progress):
        target, region = int(given[index]), regions[position]
        states = evaluated.states(torch.tensor([index]))[0]
        candidates = ((reference == target) & usable).nonzero().flatten()
        nearest = nearest_region(bank, states, candidates, made)
        wanted = difference(nearest, states)
        repaired = None
        if repair:
            one = inputs[index : index + 1]
            repaired = smallest_repair(rdr, one, states, target, wanted, generator)
        errors.append(
            Misclassified(
                index=index,
                target=target,
                predicted=int(predicted[index]),
                region=region,
                by_class=Counter(reference[region.members].tolist()),
                by_prediction=None
                if known is None
                else Counter(known[region.members].tolist()),
                nearest=nearest,
                neurons=wanted.neurons,
                states=wanted.states,
                n_repairing=None if repaired is None else repaired.n_neurons,
                by_chance=None if repaired is None else repaired.by_chance,
                cause=causes[position],
            )
        )
    chosen = [standing[position] for position in groups.chosen.tolist()]
    return _with_causes(errors, chosen, len(inputs), repair)


def _with_causes(
    errors: Sequence[Misclassified],
    standing: Sequence[Region],
    n_inputs: int,
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
    return Misclassification(tuple(numbered), tuple(causes), n_inputs, repair)


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
