"""What a classifier makes of labeled inputs: predictions and states, in one pass."""

from collections.abc import Iterable
from dataclasses import replace
from functools import wraps
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import Module
from tqdm.auto import tqdm

from captum_rdr._arguments import checked_labels
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.metrics._explainers import checked_scores
from captum_rdr.model.inputs import (
    ForwardArguments,
    batch_arguments,
    batches_of,
    taken,
)
from captum_rdr.model.states import binarize


class Evaluated(NamedTuple):
    """Inputs that were evaluated.

    Attributes:
        targets: int64 ``(M,)``, their classes.
        predictions: int64 ``(M,)``, what the model takes them for.
        banks: for each layer a bank of their states.
        features: for each layer the activations ``(E, D)`` of the errors, float32.
    """

    targets: Tensor
    predictions: Tensor
    banks: list[ConfigurationBank]
    features: list[Tensor]

    @property
    def rows(self) -> Tensor:
        """Positions of the errors, int64 ``(E,)``."""
        return (self.targets != self.predictions).nonzero().flatten()

    @property
    def outcomes(self) -> npt.NDArray[np.int64]:
        """Class and prediction of each error, ``(E, 2)``."""
        return torch.stack([self.targets, self.predictions], 1)[self.rows].numpy()


def evaluated(
    rdr: RelaxedDecisionRegion, data: Any, targets: Any, *, show_progress: bool
) -> Evaluated:
    """Run a classifier on labeled inputs, once.

    Args:
        rdr: fitted explainer of one layer or several.
        data: as `captum_rdr.discovery.misclassification` takes it.
        targets: the labels; None to take those of the data.
        show_progress: draw a progress bar.

    Raises:
        ValueError: there are no labels, or more or fewer than inputs.
    """
    banks: list[ConfigurationBank] = (
        rdr.bank if isinstance(rdr.bank, list) else [rdr.bank]
    )
    to_input = banks[0].attribute_to_layer_input
    rdr._current_banks(to_input)  # are they those of the model as it is now?
    known = None if targets is None else checked_labels(targets, "targets")
    forward, outputs = rdr.forward_func, []

    @wraps(forward.forward if isinstance(forward, Module) else forward)
    def heard(*args: Any, **kwargs: Any) -> Any:
        outputs.append(forward(*args, **kwargs))
        return outputs[-1]

    def keep(index: int, activations: Tensor) -> tuple[Tensor, ...]:
        return binarize(activations, banks[index].threshold), activations.flatten(
            1
        ).clone()

    made = [bank.emptied() for bank in banks]
    features: list[list[Tensor]] = [[] for _ in banks]
    classes, predictions, start = [], [], 0
    reader = replace(rdr.reader, forward_func=heard)
    with reader.reading(keep, attribute_to_layer_input=to_input) as read:
        batches = tqdm(
            batches_of(data), "Evaluating", unit="batch", disable=not show_progress
        )
        for number, batch in enumerate(batches):
            arguments, _ = taken(batch_arguments(batch, None), forward)
            outputs.clear()
            kept = read(arguments, f"batch {number}", leave_early=False)
            size = arguments.batch_size
            predictions.append(checked_scores(outputs[-1], size).argmax(1))
            classes.append(_labels(batch, known, start, size))
            start += size
            wrong = classes[-1] != predictions[-1]
            for bank, own, (states, activations) in zip(
                made, features, kept, strict=True
            ):
                bank.append(states)
                own.append(activations.cpu()[wrong].float())
    given = start if known is None else len(known)
    if not start or start != given:
        raise ValueError(
            f"targets has {given} items for {start} inputs; give one each, and one or more"
        )
    return Evaluated(
        torch.cat(classes),
        torch.cat(predictions),
        made,
        [torch.cat(own) for own in features],
    )


def _labels(batch: Any, known: Tensor | None, start: int, size: int) -> Tensor:
    """The labels of a batch."""
    if known is not None:
        return checked_labels(known[start : start + size], "targets", size)
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise ValueError(
            "data gives no labels; give a loader of (inputs, labels), or pass targets"
        )
    return checked_labels(batch[1], "targets", size)


def arguments_of(
    rdr: RelaxedDecisionRegion, data: Any, rows: Iterable[int]
) -> dict[int, ForwardArguments]:
    """The forward arguments of some inputs, by position."""
    wanted, found, start = sorted(rows), {}, 0
    for batch in batches_of(data):
        arguments, _ = taken(batch_arguments(batch, None), rdr.forward_func)
        for row in wanted:
            if start <= row < start + arguments.batch_size:
                found[row] = arguments.part(slice(row - start, row - start + 1))
        start += arguments.batch_size
    return found
