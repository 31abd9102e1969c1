"""What a model does when a region's principal neurons are clamped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank, bits
from captum_rdr.method.region import Region
from captum_rdr.metrics.matching import matched_neurons
from captum_rdr.metrics.outcomes import Later, as_inputs, batched, change, outcomes
from captum_rdr.metrics.paired import PairedEffect, paired_effect
from captum_rdr.metrics.requery import query_states, states_inside
from captum_rdr.model.inputs import input_arguments

To = Literal["opposite", "mean", "zero"]
Among = Literal["unanimous", "all"]


@dataclass(frozen=True)
class Ablation:
    """Effects of clamping the principal neurons, beside random ones.

    Attributes:
        members: effects on the inputs in the region, by what was measured:
            ``"logit"``, absolute change of the logit of the class predicted before;
            ``"logits"``, Euclidean length of the change of all logits; ``"prediction"``,
            1 where the predicted class changes; ``"later i"``, 1 where membership in the
            i-th later region changes.
        others: the same for the inputs outside the region.
        n_neurons: neurons clamped.
        n_random: neurons clamped in a random set, on average.
        to: what they were clamped to.
    """

    members: dict[str, PairedEffect]
    others: dict[str, PairedEffect]
    n_neurons: int
    n_random: float
    to: str

    def __str__(self) -> str:
        lines = [
            f"{self.n_neurons} principal neurons clamped to {self.to}, beside "
            f"{self.n_random:.4g} random ones"
        ]
        for who, effects in (("members", self.members), ("others", self.others)):
            lines += [f"{who}, {what}: {effect}" for what, effect in effects.items()]
        return "\n".join(lines)


def ablation(
    rdr: RelaxedDecisionRegion,
    region: Region,
    inputs: Any,
    additional_forward_args: Any = None,
    *,
    to: To = "opposite",
    among: Among = "unanimous",
    n_random: int = 5,
    later: Later = (),
    batch_size: int = 64,
    generator: torch.Generator | None = None,
    show_progress: bool = True,
) -> Ablation:
    """Clamp the principal neurons and measure what changes, for members and non-members.

    Beside them, sets of random neurons of the same states and like activation frequencies
    are clamped in the same way; every input is compared with itself. A neuron's rank
    among unanimous neurons depends on its frequency alone (see
    `captum_rdr.method.neurons.scores`), so against ``among="unanimous"`` only what the match
    leaves over can differ; ``among="all"`` asks whether principal neurons matter more
    than others that are as often active.

    Args:
        rdr: explainer of one layer, fitted with features and without a pool.
        region: region of that layer.
        inputs: as in `RelaxedDecisionRegion.attribute`; members and non-members mixed.
        additional_forward_args: as there.
        to: what neurons are clamped to: ``"opposite"``, their mean activation where they
            have the other state; ``"mean"``, that over the bank; or ``"zero"``.
        among: what random neurons are drawn from: those ``"unanimous"`` in S, or ``"all"``
            that are not principal; then a neuron's state is that of most of S.
        n_random: number of random sets.
        later: explainers of later layers of the same model, each with a region of its.
        batch_size: inputs that go through the model at once.
        generator: draws the random neurons; None for one seeded with 0.
        show_progress: draw a progress bar when it takes more than a second.

    Raises:
        ValueError: ``rdr`` is of several layers, pooled or without features; the region is
            that of another layer; the model's output is no ``(B, C)`` tensor; or there
            is no neuron to draw.

    Source: ablation against random units, Morcos et al., *On the importance of single
    directions for generalization*, ICLR 2018.

    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Linear(4, 40), torch.nn.ReLU(), torch.nn.Linear(40, 3))
    >>> data = torch.randn(200, 4)
    >>> rdr = RelaxedDecisionRegion(model, model[1])
    >>> rdr = rdr.fit(data, keep_features=True, show_progress=False)
    >>> (region,) = rdr.attribute_members([0], n_neurons=5)
    >>> found = ablation(rdr, region, data[:50], among="all")
    >>> found.members["logit"]
    PairedEffect(0.132 against 0.0528 at random, difference 0.0792 [0.0308, 0.128], n=8)
    """
    bank = _one_bank(rdr)
    region.check_layer(bank.layer_shape, bank.fingerprint)
    if n_random < 1:
        raise ValueError(f"n_random={n_random} draws no neuron; use 1 or more")
    for name, value, known in (
        ("to", to, ("opposite", "mean", "zero")),
        ("among", among, ("unanimous", "all")),
    ):
        if value not in known:
            raise ValueError(f"{name}={value!r} is unknown; use one of {known}")
    generator = generator or torch.Generator().manual_seed(0)
    active, size = _active(region, bank)
    sets = [region.neurons] + [
        _random(region, bank, active, size, among, generator) for _ in range(n_random)
    ]
    arguments = input_arguments(inputs, additional_forward_args)
    batches = batched(arguments, batch_size)
    inside = torch.cat([rdr.contains(region, *as_inputs(one)) for one in batches])
    before = outcomes(rdr, later, batches)
    changes = []
    for number, neurons in enumerate(
        tqdm(sets, desc="Clamping", disable=not show_progress, delay=1)
    ):
        states = torch.from_numpy(2 * active > size)[neurons]
        states = region.states if number == 0 else states
        with rdr.clamping(neurons, _values(bank, neurons, states, to)):
            changes.append(change(before, outcomes(rdr, later, batches)))
    return Ablation(
        _effects(changes, inside),
        _effects(changes, ~inside),
        len(region.neurons),
        float(np.mean([len(one) for one in sets[1:]])),
        to,
    )


def _one_bank(rdr: RelaxedDecisionRegion) -> ConfigurationBank:
    bank = rdr.bank
    if not isinstance(bank, ConfigurationBank):
        raise ValueError(
            f"rdr has {'no bank' if bank is None else 'several layers'}; give an "
            "explainer of one layer, fitted with keep_features=True"
        )
    return bank


def _active(region: Region, bank: ConfigurationBank) -> tuple[bits.Ints, int]:
    """In how many instances of S each neuron is active, and how many there are."""
    inside = states_inside(bank, region, query_states(bank, [region])[0])
    return inside.numpy().sum(0, dtype=np.int64), len(inside)


def _random(
    region: Region,
    bank: ConfigurationBank,
    active: bits.Ints,
    size: int,
    among: Among,
    generator: torch.Generator,
) -> Tensor:
    """Random neurons that match the principal ones."""
    free = np.setdiff1d(np.arange(bank.n_neurons), region.neurons.numpy())
    if among == "unanimous":
        pools = {True: free[active[free] == size], False: free[active[free] == 0]}
        states = region.states.numpy()
    else:
        pools, states = {True: free}, np.ones(len(region.neurons), bool)
    neurons = matched_neurons(
        region.neurons.numpy(), states, pools, bank.active_counts.numpy(), generator
    )
    if not len(neurons):
        raise ValueError(
            f"no neuron but the {len(region.neurons)} principal ones can be drawn; lower "
            'n_neurons, or use among="all"'
        )
    return torch.from_numpy(neurons)


def _values(bank: ConfigurationBank, neurons: Tensor, states: Tensor, to: To) -> Tensor:
    if to == "opposite":
        return bank.state_means(neurons, ~states)
    if to == "mean":
        return bank.neuron_means(neurons)
    return torch.zeros(len(neurons), dtype=torch.float64)


def _effects(
    changes: Sequence[dict[str, Tensor]], kept: Tensor
) -> dict[str, PairedEffect]:
    """Changes by the principal neurons beside the mean of those by random ones."""
    principal, *random = changes
    return {
        what: paired_effect(
            value[kept], torch.stack([one[what] for one in random]).mean(0)[kept]
        )
        for what, value in principal.items()
    }
