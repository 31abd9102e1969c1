"""Whether errors are put right by clamping the neurons in which they go astray."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.discovery._evaluated import inputs_at
from captum_rdr.discovery._recipe import bank_regions
from captum_rdr.metrics._explainers import checked_scores
from captum_rdr.model.hooks import on_call, same_random_state, undoing
from captum_rdr.model.inputs import ForwardArguments

_CONTROLS = 10  # random sets of neurons that a repair is held against
_NEIGHBORS = 16  # rows of the right class whose region an error is moved into
_COLUMNS = 512  # neurons whose activations are averaged at a time


@dataclass(frozen=True, eq=False)
class Repair:
    """What it takes to put one error right.

    Attributes:
        index: position of the error among the inputs.
        neurons: int64 ``(m,)``, neurons in which it departs from the nearest region of
            its class, the weightiest first.
        states: bool ``(m,)``, the states that this asks for.
        n_repairing: how many of these neurons must be clamped to those states for the
            right prediction, of 1, 2, 4, ... and all; None if none of these numbers does.
        by_chance: share of ten random sets of as many other neurons whose flip makes the
            prediction right too (where there are fewer others, some of those that depart
            make up the number); None without a repair.

    >>> Repair(3, torch.tensor([5, 2]), torch.tensor([True, False]), n_repairing=1)
    Repair(index=3, neurons=tensor([5, 2]), states=tensor([ True, False]),
           n_repairing=1, by_chance=None)
    """

    index: int
    neurons: Tensor
    states: Tensor
    n_repairing: int | None = None
    by_chance: float | None = None


def _means_of_states(rdr: RelaxedDecisionRegion) -> Tensor:
    """Each neuron's mean activation where it is inactive, and active: ``(2, D)``."""
    means = []
    for some in torch.split(torch.arange(rdr.bank.n_neurons), _COLUMNS):
        is_active = torch.arange(2 * len(some)) >= len(some)
        both = rdr.bank.state_means(some.repeat(2), is_active)
        means.append(both.reshape(2, -1))
    return torch.cat(means, 1)


def repaired(
    rdr: RelaxedDecisionRegion,
    models: Tensor,
    evaluated: ConfigurationBank,
    classes: Tensor,
    data: Any,
    groups: Sequence[Tensor],
    count: int,
    generator: torch.Generator,
) -> list[tuple[Repair, ...]]:
    """Repairs of some errors of each group.

    Args:
        rdr: fitted explainer of one layer, without a pool.
        models: int64 ``(N,)``, the class of each bank row that is a model of it.
        evaluated: the states of the inputs.
        classes: int64 ``(M,)``, the classes of the inputs.
        data: the inputs.
        groups: int64, positions of errors.
        count: errors of each that are tried.
        generator: draws them, and the neurons of the control.

    Raises:
        ValueError: the layer is pooled, or a class has no model.
    """
    samples = [
        rows[torch.randperm(len(rows), generator=generator)[:count]].tolist()
        for rows in groups
    ]
    arguments = dict(inputs_at(rdr, data, chain(*samples)))
    means = _means_of_states(rdr)

    def repair(row: int) -> Repair:
        rows = (models == classes[row]).nonzero().flatten()
        if not len(rows):
            raise ValueError(
                f"class {classes[row]} has an error but no (rightly predicted) row in the "
                "bank; fit with instances of every class, or pass repair=0"
            )
        states = evaluated.states([row])[0]
        near = rows[rdr.bank.distances(states)[rows].argsort(stable=True)[:_NEIGHBORS]]
        (nearest,) = bank_regions(rdr.bank, near[:1], {"neighbors": near})
        departs = (states[nearest.neurons] != nearest.states).nonzero().flatten()
        weights = nearest.weights[departs].abs()
        departs = departs[weights.argsort(descending=True, stable=True)]
        found = Repair(row, nearest.neurons[departs], nearest.states[departs])
        one = _Instance(rdr, arguments[row], int(classes[row]))
        flipped = torch.where(states, means[0], means[1])
        return one.repaired(found, flipped, generator)

    return [tuple(map(repair, sample)) for sample in samples]


class _Instance(NamedTuple):
    """One input, and the class that it should be taken for."""

    rdr: RelaxedDecisionRegion
    arguments: ForwardArguments
    target: int

    def repaired(
        self, error: Repair, flipped: Tensor, generator: torch.Generator
    ) -> Repair:
        """The error with its smallest repair, and how often chance does as well.

        All numbers of neurons are tried in one forward pass, all random sets in another.
        """
        neurons, size = error.neurons, len(flipped)
        counts = [*(1 << n for n in range(len(neurons).bit_length())), len(neurons)]
        right = self._is_right([neurons[:count] for count in counts], flipped)
        if not any(right):
            return error
        count = counts[right.index(True)]
        # Where fewer others are left, some that depart make up the number.
        is_other = (~torch.isin(torch.arange(size), neurons)).int()
        drawn = []
        for _ in range(_CONTROLS):
            order = torch.randperm(size, generator=generator)
            first = is_other[order].argsort(descending=True, stable=True)
            drawn.append(order[first[:count]])
        by_chance = sum(self._is_right(drawn, flipped)) / _CONTROLS
        return replace(error, n_repairing=count, by_chance=by_chance)

    def _is_right(self, sets: Sequence[Tensor], flipped: Tensor) -> list[bool]:
        """Whether each set of neurons, flipped, gives the right prediction."""
        values = torch.full((len(sets), len(flipped)), torch.nan, dtype=torch.float64)
        for row, neurons in zip(values, sets, strict=True):
            row[neurons] = flipped[neurons]
        try:
            scores = self._scores(values, 1)
        except Exception:  # what follows wants one size; other errors come again
            scores = self._scores(values, len(values))
        found: list[bool] = (scores.argmax(1) == self.target).tolist()
        return found

    def _scores(self, values: Tensor, size: int) -> Tensor:
        """Class scores by each row of values; so many copies of the input run up to the
        layer, and as many as there are rows from there on.
        """
        reader, copies = self.rdr.reader, torch.zeros(size, dtype=torch.int64)
        given: Any = self.arguments.part(copies)  # type: ignore[arg-type]

        def repeat(value: Tensor) -> Tensor:
            return value.repeat_interleave(len(values) // len(value), 0)

        with undoing() as undo, same_random_state(), torch.no_grad():
            if size < len(values):
                to_input = self.rdr.bank.attribute_to_layer_input
                on_call(reader.layers[0], to_input, repeat, undo)
            with self.rdr.clamping(torch.arange(values.shape[1]), values):
                args, kwargs = given.to(reader.device)
                return checked_scores(
                    self.rdr.forward_func(*args, **kwargs), len(values)
                )
