"""What a model does when a region's principal neurons are clamped."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_rdr._arguments import check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.metrics._coherence import votes_of
from captum_rdr.metrics._explainers import class_scores, fitted_banks
from captum_rdr.metrics._regions import query_states
from captum_rdr.model.inputs import BATCH_SIZE, input_arguments

Ints = npt.NDArray[np.int64]
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

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"PairedEffect({self.effect:.3g} against {self.control:.3g} at random, "
            f"difference {self.effect - self.control:.3g} [{low:.3g}, {high:.3g}], "
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


class Ablation(NamedTuple):
    """Effects of clamping the principal neurons, beside random ones.

    Attributes:
        members: effects on the inputs in the region, by what was measured:
            ``"logit"``, absolute change of the logit of the class predicted before;
            ``"prediction"``, 1 where the predicted class changes.
        others: the same for the inputs outside the region.
    """

    members: dict[str, PairedEffect]
    others: dict[str, PairedEffect]


def ablation(
    rdr: RelaxedDecisionRegion,
    region: Region,
    inputs: Any,
    additional_forward_args: Any = None,
    *,
    n_random: int = 39,
    internal_batch_size: int | None = None,
    generator: torch.Generator | None = None,
    show_progress: bool = True,
) -> Ablation:
    """Flip the principal neurons and measure what changes, for members and non-members.

    A neuron is clamped to its mean activation over the bank's instances in which it has
    the other state. Beside the principal neurons, sets of as many random ones that are
    about as often active are clamped in the same way, each away from the state that most
    of S have in it; every input is compared with itself.

    Args:
        rdr: explainer of one layer, fitted with features and without a pool.
        region: region of that layer.
        inputs: as in `RelaxedDecisionRegion.attribute`; members and non-members mixed.
        additional_forward_args: as there.
        n_random: number of random sets, of which the interval takes account, too; 39
            allow a p-value of 1/40.
        internal_batch_size: inputs that the model sees at a time, 64 if None.
        generator: draws the random neurons; None for one seeded with 0.
        show_progress: draw a progress bar when it takes more than a second.

    Raises:
        TypeError: ``rdr`` is no explainer, or ``n_random`` no whole number.
        ValueError: ``rdr`` is of several layers, pooled or without features; the region is
            that of another layer; the model's output is no ``(B, C)`` tensor; or half of
            the neurons or more are principal.

    Source: ablation against random units, Morcos et al., *On the importance of single
    directions for generalization*, ICLR 2018.

    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Linear(4, 40), torch.nn.ReLU(), torch.nn.Linear(40, 3))
    >>> data = torch.randn(200, 4)
    >>> rdr = RelaxedDecisionRegion(model, model[1])
    >>> rdr = rdr.fit(data, keep_features=True, show_progress=False)
    >>> (region,) = rdr.attribute_members([0], n_neurons=5)
    >>> ablation(rdr, region, data[:50]).members["logit"]
    PairedEffect(0.132 against 0.0796 at random, difference 0.0524 [0.00134, 0.103],
     p=0.17, n=8)
    """
    (bank,) = fitted_banks(rdr)
    region.check_layer(bank.layer_shape, bank.fingerprint)
    check_whole("n_random", n_random)
    generator = generator or torch.Generator().manual_seed(0)
    sets = [(region.neurons, region.states)]
    sets += _random_sets(region, bank, n_random, generator)
    extra = additional_forward_args
    batches = input_arguments(inputs, extra).split(internal_batch_size or BATCH_SIZE)
    inside = rdr.contains(
        region, inputs, extra, internal_batch_size=internal_batch_size
    )
    before = class_scores(rdr, batches)
    predicted = before.argmax(1)
    moved, flipped = [], []
    for neurons, states in tqdm(sets, "Clamping", disable=not show_progress, delay=1):
        with rdr.clamping(neurons, bank.state_means(neurons, ~states)):
            after = class_scores(rdr, batches)
        moved.append((after - before).gather(1, predicted[:, None])[:, 0].abs())
        flipped.append((after.argmax(1) != predicted).float())
    measured = {"logit": torch.stack(moved), "prediction": torch.stack(flipped)}

    def effects(kept: Tensor) -> dict[str, PairedEffect]:
        return {
            what: PairedEffect.of(values[0, kept], values[1:, kept])
            for what, values in measured.items()
        }

    return Ablation(effects(inside), effects(~inside))


def _random_sets(
    region: Region, bank: ConfigurationBank, count: int, generator: torch.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Random neurons, with the state that most of S have in each."""
    own = query_states(bank, [region])[0]
    of_most = votes_of(bank, region, own) > 0
    principal, counts = region.neurons.numpy(), bank.active_counts.numpy()
    drawn = [matched_neurons(principal, counts, generator) for _ in range(count)]
    return [(torch.from_numpy(one), of_most[one]) for one in drawn]


def matched_neurons(
    neurons: Ints, active_counts: Ints, generator: torch.Generator
) -> Ints:
    """Random neurons that are about as often active as others.

    All but the given ones are put in order of frequency. Each of those given is matched
    by one drawn near its own place in that order, no neuron twice.

    Args:
        neurons: principal neurons, flat indices.
        active_counts: in how many instances of the bank each neuron is active, ``(D,)``.
        generator: draws the neurons.

    Returns:
        flat indices, ascending, as many as given.

    Raises:
        ValueError: fewer neurons are left to draw.

    >>> matched_neurons(np.array([0]), np.array([3, 5, 4, 9, 2, 3]),
    ...                 torch.Generator().manual_seed(0))
    array([5])
    """
    count, n_free = len(neurons), len(active_counts) - len(neurons)
    if n_free < count:
        raise ValueError(
            f"region has {count} principal neurons, and {n_free} are left to draw as many "
            "from; lower n_neurons"
        )
    free = np.setdiff1d(np.arange(len(active_counts)), neurons)
    ordered = free[np.argsort(active_counts[free], kind="stable")]
    places = np.searchsorted(active_counts[ordered], np.sort(active_counts[neurons]))
    width = min(n_free, _SPREAD * count)
    first = np.clip(places - width // 2, 0, n_free - width)
    noise = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
    drawn = np.sort(first + np.floor(noise * width).astype(np.int64))
    # Equal places move up to the next free one, and the last down to make room.
    steps = np.arange(count)
    moved = np.maximum.accumulate(drawn - steps)
    chosen: Ints = np.sort(ordered[np.minimum(moved, n_free - count) + steps])
    return chosen
