"""Whether errors are put right by clamping the neurons in which they go astray."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.discovery._recipe import bank_regions
from captum_rdr.metrics._explainers import class_scores
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
    """

    index: int
    neurons: Tensor
    states: Tensor
    n_repairing: int | None
    by_chance: float | None


class Repairs:
    """Tries repairs, many in one forward pass.

    Args:
        rdr: fitted explainer of one layer, with features and without a pool.
        targets: int64 ``(N,)``, the classes of the bank rows.
        is_right: bool ``(N,)``, those that the model is right on; None if unknown.
        generator: draws the neurons of the control.
    """

    def __init__(
        self,
        rdr: RelaxedDecisionRegion,
        targets: Tensor,
        is_right: Tensor | None,
        generator: torch.Generator,
    ) -> None:
        self.rdr, self._bank = rdr, rdr.bank
        self._targets, self.generator = targets, generator
        self._is_right = is_right
        neurons = torch.arange(rdr.bank.n_neurons)
        self._means = torch.cat(  # of each neuron where it is inactive, and active
            [
                torch.stack(
                    [
                        rdr.bank.state_means(some, torch.full((len(some),), state))
                        for state in (False, True)
                    ]
                )
                for some in torch.split(neurons, _COLUMNS)
            ],
            1,
        )

    def of(
        self, index: int, arguments: ForwardArguments, states: Tensor, target: int
    ) -> Repair:
        """The smallest repair of an error, and how often chance does as well.

        Args:
            index: position of the error.
            arguments: those of a forward pass of it alone.
            states: bool ``(D,)``, its states.
            target: its class.
        """
        neurons, wanted = self._departing(states, target)
        total = len(neurons)
        doubling = [1 << power for power in range(total.bit_length())]
        counts = sorted({*doubling, total} - {0})
        sets = [neurons[:count] for count in counts]
        right = self._repaired(arguments, sets, states, target)
        if not any(right):
            return Repair(index, neurons, wanted, None, None)
        count = counts[right.index(True)]
        is_other = torch.ones(len(states), dtype=torch.bool)
        is_other[neurons] = False
        drawn = []
        for _ in range(_CONTROLS):
            # Where fewer others are left, some that depart make up the number.
            order = torch.randperm(len(states), generator=self.generator)
            first = is_other[order].int().argsort(descending=True, stable=True)
            drawn.append(order[first[:count]])
        by_chance = sum(self._repaired(arguments, drawn, states, target)) / _CONTROLS
        return Repair(index, neurons, wanted, count, by_chance)

    def _departing(self, states: Tensor, target: int) -> tuple[Tensor, Tensor]:
        """Neurons in which an error departs from its class, and the states wanted."""
        is_model = self._targets == target
        if self._is_right is not None:
            is_model &= self._is_right
        rows = is_model.nonzero().flatten()
        if not len(rows):
            raise ValueError(
                f"class {target} has an error but no (rightly predicted) row in the bank; "
                "fit with instances of every class, or pass repair=0"
            )
        away = self._bank.distances(states)[rows]
        near = rows[away.argsort(stable=True)[:_NEIGHBORS]]
        (nearest,) = bank_regions(self._bank, near[:1], {"neighbors": near})
        departs = (states[nearest.neurons] != nearest.states).nonzero().flatten()
        weights = nearest.weights[departs].abs()
        departs = departs[weights.argsort(descending=True, stable=True)]
        return nearest.neurons[departs], nearest.states[departs]

    def _repaired(
        self,
        arguments: ForwardArguments,
        sets: Sequence[Tensor],
        states: Tensor,
        target: int,
    ) -> list[bool]:
        """Whether a flip of each set of neurons gives the right prediction."""
        if not sets:
            return []
        flipped = self._means.gather(0, (~states).long()[None])[0]
        values = torch.full((len(sets), len(states)), torch.nan, dtype=torch.float64)
        for row, neurons in zip(values, sets, strict=True):
            row[neurons] = flipped[neurons]
        copies: Any = torch.zeros(len(sets), dtype=torch.int64)
        with self.rdr.clamping(torch.arange(len(states)), values):
            several = arguments.part(cast("slice", copies))
            scores = class_scores(self.rdr, [several])
        found: list[bool] = (scores.argmax(1) == target).tolist()
        return found
