"""What a model does when a region's principal neurons are clamped."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_rdr._arguments import check_choice, check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.metrics._explainers import class_scores, fitted_banks
from captum_rdr.metrics._regions import query_states
from captum_rdr.model.inputs import BATCH_SIZE, input_arguments

To = Literal["opposite", "mean", "zero"]
Among = Literal["unanimous", "all"]
Later = Sequence[tuple[RelaxedDecisionRegion, Region]]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_CONFIDENCE = 0.95
_SPREAD = 2  # places to choose among, per neuron to match


@dataclass(frozen=True)
class PairedEffect:
    """Mean effect of a treatment beside that of its control.

    Attributes:
        n: number of instances.
        effect: mean effect of the treatment; NaN, as all else, without an instance.
        control: mean effect of the control.
        interval: 95 % confidence interval of their mean difference, for other instances
            and other controls of the same kind; NaN below two of either.
        p_value: chance that a control drawn at random does as much as the treatment, from
            those drawn.
    """

    n: int
    effect: float
    control: float
    interval: tuple[float, float]
    p_value: float

    @staticmethod
    def of(effects: Tensor, controls: Tensor) -> "PairedEffect":
        """Compare a treatment with controls of the same instances.

        Args:
            effects: float ``(n,)``, what the treatment did to each instance.
            controls: float ``(R, n)``, what each of R controls, drawn at random, did.

        Returns:
            their means and an interval, for which instances and controls are both drawn
            at random, so that their variances add up (a crossed two-way layout, degrees
            of freedom by Satterthwaite).

        Source: Satterthwaite, *An approximate distribution of estimates of variance
        components*, Biometrics Bulletin 1946.

        >>> controls = torch.tensor([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
        >>> PairedEffect.of(torch.tensor([2.0, 3.0, 4.0]), controls)
        PairedEffect(3 against 0.833 at random, difference 2.17 [0.154, 4.18], p=0.33, n=3)
        """
        treated, several = effects.double().numpy(), controls.double().numpy()
        if not len(treated):
            return PairedEffect(0, np.nan, np.nan, (np.nan, np.nan), np.nan)
        away = treated - several
        middle, reach = float(away.mean()), _reach(away)
        as_much = int((several.mean(1) >= treated.mean()).sum())
        return PairedEffect(
            len(treated),
            float(treated.mean()),
            float(several.mean()),
            (middle - reach, middle + reach),
            (1 + as_much) / (1 + len(several)),
        )

    @property
    def difference(self) -> float:
        """How much more the treatment does."""
        return self.effect - self.control

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"PairedEffect({self.effect:.3g} against {self.control:.3g} at random, "
            f"difference {self.difference:.3g} [{low:.3g}, {high:.3g}], "
            f"p={self.p_value:.2g}, n={self.n})"
        )


def _reach(away: Floats) -> float:
    """Half of the interval of the mean of differences ``(R, n)``, both drawn at random."""
    from scipy.stats import t

    n_sets, n = away.shape
    if min(n_sets, n) < 2:
        return float("nan")
    by_set, by_input = away.mean(1), away.mean(0)
    left = away - by_set[:, None] - by_input + away.mean()
    degrees = np.array([n - 1, n_sets - 1, (n - 1) * (n_sets - 1)])
    squares = np.array([n_sets * by_input.var(ddof=1), n * by_set.var(ddof=1), 0.0])
    squares[2] = (left**2).sum() / degrees[2]
    # What is left over is in both of the others; it is taken off once.
    variance = squares[0] + max(squares[1] - squares[2], 0.0)
    if not variance:
        return 0.0
    freedom = variance**2 / float((squares**2 / degrees).sum())
    reach = t.ppf((1 + _CONFIDENCE) / 2, max(freedom, 1.0))
    return float(reach * (variance / away.size) ** 0.5)


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
        n_random: neurons clamped in a random set.
        to: what they were clamped to.
    """

    members: dict[str, PairedEffect]
    others: dict[str, PairedEffect]
    n_neurons: int
    n_random: int
    to: str

    def __str__(self) -> str:
        lines = [
            f"{self.n_neurons} principal neurons clamped to {self.to}, beside "
            f"{self.n_random} random ones"
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
    n_random: int = 39,
    later: Later = (),
    internal_batch_size: int | None = None,
    generator: torch.Generator | None = None,
    show_progress: bool = True,
) -> Ablation:
    """Clamp the principal neurons and measure what changes, for members and non-members.

    Beside them, sets of random neurons of the same states and like activation frequencies
    are clamped in the same way; every input is compared with itself. A unanimous neuron's
    score depends on its frequency alone, so against ``among="unanimous"`` only what the
    match leaves over can differ; ``among="all"`` asks whether principal neurons matter
    more than others that are as often active.

    Args:
        rdr: explainer of one layer, fitted with features and without a pool.
        region: region of that layer.
        inputs: as in `RelaxedDecisionRegion.attribute`; members and non-members mixed.
        additional_forward_args: as there.
        to: what neurons are clamped to: ``"opposite"``, their mean activation where they
            have the other state; ``"mean"``, that over the bank; or ``"zero"``.
        among: what random neurons are drawn from: those ``"unanimous"`` in S, or ``"all"``
            that are not principal; then a neuron's state is that of most of S.
        n_random: number of random sets, of which the interval takes account, too; 39
            allow a p-value of 1/40.
        later: explainers of later layers of the same model, each with a region of its.
        internal_batch_size: inputs that the model sees at a time, 64 if None.
        generator: draws the random neurons; None for one seeded with 0.
        show_progress: draw a progress bar when it takes more than a second.

    Raises:
        TypeError: ``rdr`` is no explainer, or ``n_random`` no whole number.
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
    PairedEffect(0.132 against 0.0796 at random, difference 0.0524 [0.00134, 0.103],
     p=0.17, n=8)
    """
    (bank,) = fitted_banks(rdr)
    region.check_layer(bank.layer_shape, bank.fingerprint)
    check_whole("n_random", n_random)
    check_choice("to", to, get_args(To))
    check_choice("among", among, get_args(Among))
    generator = generator or torch.Generator().manual_seed(0)
    of_most, random = _random_sets(region, bank, among, n_random, generator)
    sets = [(region.neurons, region.states)]
    sets += [(neurons, of_most[neurons]) for neurons in random]
    whole = input_arguments(inputs, additional_forward_args)
    batches = whole.split(internal_batch_size or BATCH_SIZE)
    read: dict[str, Any] = {
        "additional_forward_args": additional_forward_args,
        "internal_batch_size": internal_batch_size,
    }

    def outcome() -> list[Tensor]:
        of_later = [other.contains(one, inputs, **read) for other, one in later]
        return [class_scores(rdr, batches), *of_later]

    inside = rdr.contains(region, inputs, **read)
    before, changes = outcome(), []
    progress = tqdm(sets, desc="Clamping", disable=not show_progress, delay=1)
    for neurons, states in progress:
        with rdr.clamping(neurons, _values(bank, neurons, states, to)):
            changes.append(_change(before, outcome()))
    members, others = _effects(changes, inside), _effects(changes, ~inside)
    return Ablation(members, others, len(region.neurons), len(random[0]), to)


def _change(before: Sequence[Tensor], after: Sequence[Tensor]) -> dict[str, Tensor]:
    """What a clamp changed for each input: of its logits, and where it lies in regions."""
    away, predicted = after[0] - before[0], before[0].argmax(1)
    found = {
        "logit": away.gather(1, predicted[:, None])[:, 0].abs(),
        "logits": away.norm(dim=1),
        "prediction": (after[0].argmax(1) != predicted).float(),
    }
    for index, (was, now) in enumerate(zip(before[1:], after[1:], strict=True)):
        found[f"later {index}"] = (was != now).float()
    return found


def _effects(
    changes: Sequence[dict[str, Tensor]], kept: Tensor
) -> dict[str, PairedEffect]:
    """Changes by the principal neurons beside those by random ones, of some inputs."""
    principal, *random = ({k: v[kept] for k, v in one.items()} for one in changes)
    return {
        what: PairedEffect.of(value, torch.stack([one[what] for one in random]))
        for what, value in principal.items()
    }


def _random_sets(
    region: Region,
    bank: ConfigurationBank,
    among: Among,
    count: int,
    generator: torch.Generator,
) -> tuple[Tensor, list[Tensor]]:
    """The state that most of S have in each neuron, and random sets of neurons."""
    inside = bank.states(region.neighbors)
    if region.query is None:
        inside = torch.cat([inside, query_states(bank, [region])])
    active, size = inside.numpy().sum(0, dtype=np.int64), len(inside)
    principal, states = region.neurons.numpy(), region.states.numpy()
    free = np.setdiff1d(np.arange(bank.n_neurons), principal)
    pools = {True: free[active[free] == size], False: free[active[free] == 0]}
    if among == "all":
        pools, states = {True: free}, np.ones(len(principal), bool)
    counts = bank.active_counts.numpy()
    sets = [
        torch.from_numpy(matched_neurons(principal, states, pools, counts, generator))
        for _ in range(count)
    ]
    if not len(sets[0]):
        raise ValueError(
            f"no neuron but the {len(principal)} principal ones can be drawn; lower "
            'n_neurons, or use among="all"'
        )
    return torch.from_numpy(2 * active > size), sets


def matched_neurons(
    neurons: Ints,
    states: Bools,
    pools: dict[bool, Ints],
    active_bank: Ints,
    generator: torch.Generator,
) -> Ints:
    """Random neurons of the same states and like activation frequencies.

    The pool of each state is put in order of frequency in the bank. Each principal neuron
    is matched by one drawn near its own place in that order, no neuron twice.

    Args:
        neurons: principal neurons, flat indices.
        states: their states.
        pools: for each state the neurons to draw from, flat indices.
        active_bank: in how many instances of the bank each neuron is active, ``(D,)``.
        generator: draws the neurons.

    Returns:
        flat indices, ascending; fewer than principal neurons where a pool is too small.

    >>> bank = np.array([3, 5, 4, 9, 2, 3])
    >>> generator = torch.Generator().manual_seed(0)
    >>> pools = {True: np.array([1, 2, 3]), False: np.array([4])}
    >>> matched_neurons(np.array([0]), np.array([True]), pools, bank, generator)
    array([1])
    """
    chosen = [np.empty(0, np.int64)]
    for state, pool in pools.items():
        ordered = pool[np.argsort(active_bank[pool], kind="stable")]
        wanted = np.sort(active_bank[neurons[states == state]])
        places = np.searchsorted(active_bank[ordered], wanted)
        chosen.append(ordered[_near(places, len(ordered), generator)])
    return np.sort(np.concatenate(chosen))


def _near(places: Ints, n_pool: int, generator: torch.Generator) -> Ints:
    """Distinct random places near the given ones, which are in ascending order."""
    count = min(len(places), n_pool)
    if count < len(places) or count == 0:
        return np.arange(count)
    width = min(n_pool, _SPREAD * count)
    first = np.clip(places - width // 2, 0, n_pool - width)
    noise = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
    drawn = np.sort(first + np.floor(noise * width).astype(np.int64))
    # Equal places move up to the next free one, and the last down to make room.
    steps = np.arange(count)
    moved = np.maximum.accumulate(drawn - steps)
    result: Ints = np.minimum(moved, n_pool - count) + steps
    return result


def _values(bank: ConfigurationBank, neurons: Tensor, states: Tensor, to: To) -> Tensor:
    """What neurons of these states are clamped to."""
    if to == "opposite":
        return bank.state_means(neurons, ~states)
    if to == "mean":
        return bank.neuron_means(neurons)
    return torch.zeros(len(neurons), dtype=torch.float64)
