"""Two halves of a layer's neurons: one finds regions, the other judges them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from captum_rdr.bank import ConfigurationBank, bits
from captum_rdr.method.region import Region
from captum_rdr.method.rule import Rule
from captum_rdr.metrics.requery import found_by, rule_of

_BLOCK_BYTES = 1 << 26  # unpacked states held at a time


@dataclass(frozen=True)
class Halves:
    """A bank's neurons, split in two.

    Attributes:
        bank: the whole bank.
        finding: bool ``(D,)``, the neurons that find regions.
        found_in: bank of those neurons.
        judging: bank of the other neurons.
    """

    bank: ConfigurationBank
    finding: Tensor
    found_in: ConfigurationBank
    judging: ConfigurationBank

    @property
    def judged_in(self) -> bits.Bytes:
        """Packed rows of the other neurons, as a bank holds them."""
        return self.judging.packed

    @property
    def n_judging(self) -> int:
        """Number of the other neurons."""
        return self.judging.n_neurons


class Trial(NamedTuple):
    """What it takes to judge regions.

    Attributes:
        halves: the split bank.
        queries: the regions of the whole bank.
        found: the same regions as the finding half found them.
        seed: for what is drawn at random.
    """

    halves: Halves
    queries: Sequence[Region]
    found: list[Region]
    seed: int


def trial(
    regions: Sequence[Region],
    bank: ConfigurationBank,
    generator: torch.Generator | None,
    *,
    show_progress: bool,
) -> Trial:
    """Split the neurons and find each region anew on one half.

    Args:
        regions: regions of ``bank``.
        bank: the whole bank.
        generator: splits the neurons; None for one seeded with 0.
        show_progress: draw a progress bar when it takes more than a second.

    Raises:
        TypeError: something is no region.
        ValueError: a region is that of another bank or lacks its rule.
    """
    for region in regions:
        if not isinstance(region, Region):
            raise TypeError(
                f"regions holds a {type(region).__name__}; give a list of Region"
            )
        region.check_layer(bank.layer_shape, bank.fingerprint)
    generator = generator or torch.Generator().manual_seed(0)
    finding = split_neurons(bank.layer_shape, generator)
    seed = int(torch.randint(1 << 62, (), generator=generator))
    with_features = any(r.rule is not None and r.rule.needs_features for r in regions)
    halves = halve(bank, finding, with_features=with_features)
    found = found_again(halves, regions, show_progress=show_progress)
    return Trial(halves, regions, found, seed)


def split_neurons(layer_shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Choose the half of the neurons that finds regions.

    Units of the first dimension that has two or more (channels of a convolution, tokens
    of a sequence) go to one half whole: neighboring positions of one feature map are
    alike in any image, which would otherwise pass for a concept.

    Args:
        layer_shape: shape of the layer's output per instance.
        generator: draws the units.

    Returns:
        bool tensor ``(D,)``: true for the neurons of the drawn half of the units, the
        smaller one if their number is odd.

    Raises:
        ValueError: the layer has a single neuron.

    >>> split_neurons(torch.Size([3, 2]), torch.Generator().manual_seed(0)).reshape(3, 2)
    tensor([[False, False],
            [False, False],
            [ True,  True]])
    """
    axis = next((axis for axis, size in enumerate(layer_shape) if size > 1), None)
    if axis is None:
        raise ValueError(
            f"the layer has shape {tuple(layer_shape)}; a single neuron cannot be split "
            "into a half that finds regions and a half that judges them"
        )
    size = layer_shape[axis]
    chosen = torch.zeros(size, dtype=torch.bool)
    chosen[torch.randperm(size, generator=generator)[: size // 2]] = True
    shape = [size if i == axis else 1 for i in range(len(layer_shape))]
    return chosen.reshape(shape).expand(layer_shape).flatten()


def halve(bank: ConfigurationBank, finding: Tensor, *, with_features: bool) -> Halves:
    """Split a bank by its neurons.

    Args:
        bank: the whole bank.
        finding: bool ``(D,)``, the neurons that find regions.
        with_features: whether the finding half needs its float features.
    """
    found_in = ConfigurationBank((int(finding.sum()),), reserve=len(bank))
    judging = ConfigurationBank((int((~finding).sum()),), reserve=len(bank))
    step = max(1, _BLOCK_BYTES // bank.n_neurons)
    for start in range(0, len(bank), step):
        rows = slice(start, start + step)
        states = bank.states(rows)
        features = None
        if with_features and bank.features is not None:
            features = bank.features[rows][:, finding]
        found_in.append(states[:, finding], features)
        judging.append(states[:, ~finding])
    return Halves(bank, finding, found_in, judging)


def found_again(
    halves: Halves,
    regions: Sequence[Region],
    bank: ConfigurationBank | None = None,
    *,
    show_progress: bool = False,
) -> list[Region]:
    """Find each region anew from its query on the finding half alone.

    Args:
        halves: the split bank.
        regions: regions of the whole bank, each with its rule.
        bank: bank of the finding half to use in place of the one in ``halves``; its rows
            are then strangers to the queries.
        show_progress: draw a progress bar when it takes more than a second.

    Raises:
        ValueError: a region lacks its rule, its query's states or features.
    """
    return found_by(
        halves.found_in if bank is None else bank,
        regions,
        [halved_rule(region, halves) for region in regions],
        halves.bank,
        neurons=halves.finding,
        are_rows=bank is None,
        show_progress=show_progress,
    )


def halved_rule(region: Region, halves: Halves) -> Rule:
    """A region's rule, with no more neurons than the finding half has."""
    rule = rule_of(region)
    n_neurons = min(rule.n_neurons, halves.found_in.n_neurons)
    tolerance = rule.tolerance
    if rule.weighting == "uniform":
        tolerance = min(int(tolerance), n_neurons - 1)
    return replace(rule, n_neurons=n_neurons, tolerance=tolerance)
