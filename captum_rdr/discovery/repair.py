"""What an error lacks to lie in the right class's region, and whether that repairs it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.discovery.forward import predicted_classes
from captum_rdr.discovery.regions import bank_regions
from captum_rdr.method.region import Region

CONTROLS = 10
"""Random sets of neurons that a repair is held against."""


class Difference(NamedTuple):
    """Where an instance departs from a region.

    Attributes:
        neurons: int64 ``(m,)``, principal neurons whose state it does not share, the
            weightiest first, ties to the lower index.
        states: bool ``(m,)``, the states that the region asks for.
    """

    neurons: Tensor
    states: Tensor


def nearest_region(
    bank: ConfigurationBank, states: Tensor, rows: Tensor, choices: dict[str, Any]
) -> Region:
    """The region of the given rows that is nearest to an instance.

    S are the ``n_neighbors`` of these rows of smallest configuration distance from the
    instance, ties to the lower row; the query is the nearest of them.

    Args:
        bank: the bank.
        states: bool ``(D,)``, those of the instance.
        rows: int64, bank rows to choose from, ascending, one or more.
        choices: all that `captum_rdr.discovery.regions.recipe` gives.
    """
    distances = bank.distances(states)[rows]
    nearest = rows[distances.argsort(stable=True)[: choices["n_neighbors"]]]
    made = {**choices, "neighbors": nearest}
    (region,) = bank_regions(bank, nearest[:1], made, show_progress=False)
    return region


def difference(region: Region, states: Tensor) -> Difference:
    """Principal neurons in which an instance departs from a region.

    Args:
        region: the region.
        states: bool ``(D,)``, those of the instance.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> import torch
    >>> model, data = torch.nn.Identity(), torch.tensor([[1.0, 1], [1, 1], [-1, 1]])
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> (region,) = rdr.attribute_members([2], n_neighbors=1, n_neurons=2)
    >>> difference(region, torch.tensor([True, True]))
    Difference(neurons=tensor([0]), states=tensor([False]))
    """
    departs = states[region.neurons] != region.states
    order = region.weights[departs].abs().argsort(descending=True, stable=True)
    return Difference(region.neurons[departs][order], region.states[departs][order])


class Repair(NamedTuple):
    """A clamp that makes a prediction right, and whether any other would.

    Attributes:
        n_neurons: how many neurons it sets.
        by_chance: share of `CONTROLS` random sets of as many other neurons whose flip
            makes the prediction right too.
    """

    n_neurons: int
    by_chance: float


def smallest_repair(
    rdr: RelaxedDecisionRegion,
    instance: Tensor,
    states: Tensor,
    target: int,
    wanted: Difference,
    generator: torch.Generator,
) -> Repair | None:
    """How many of the neurons must be set for the right prediction.

    1, 2, 4, ... of the weightiest neurons, and at last all of them, are clamped to
    their mean activation over the bank's instances that have the wanted state.

    Args:
        rdr: fitted explainer of one layer, with features and without a pool.
        instance: ``(1, ...)``, the input.
        states: bool ``(D,)``, those of the instance.
        target: its class.
        wanted: what to set.
        generator: draws the neurons of the control.

    Returns:
        the repair by the first of these numbers with which the model predicts the
        target, None if it does with none of them.
    """
    values = rdr.bank.state_means(wanted.neurons, wanted.states)
    total = len(wanted.neurons)
    doubling = [1 << power for power in range(total.bit_length())]
    for count in sorted({*doubling, total} - {0}):
        if _predicts(rdr, instance, target, wanted.neurons[:count], values[:count]):
            chance = _by_chance(rdr, instance, states, target, wanted, count, generator)
            return Repair(count, chance)
    return None


def _by_chance(
    rdr: RelaxedDecisionRegion,
    instance: Tensor,
    states: Tensor,
    target: int,
    wanted: Difference,
    count: int,
    generator: torch.Generator,
) -> float:
    """How often a flip of as many neurons that are not among the wanted repairs too."""
    is_other = torch.ones(rdr.bank.n_neurons, dtype=torch.bool)
    is_other[wanted.neurons] = False
    others = is_other.nonzero().flatten()
    repairing = 0
    for _ in range(CONTROLS):
        order = torch.randperm(len(others), generator=generator)
        drawn = others[order[:count]].sort().values
        values = rdr.bank.state_means(drawn, ~states[drawn])
        repairing += _predicts(rdr, instance, target, drawn, values)
    return repairing / CONTROLS


def _predicts(
    rdr: RelaxedDecisionRegion,
    instance: Tensor,
    target: int,
    neurons: Tensor,
    values: Tensor,
) -> bool:
    """Whether the model predicts a class when neurons are clamped to values."""
    with rdr.clamping(neurons, values):
        return int(predicted_classes(rdr, instance)) == target
