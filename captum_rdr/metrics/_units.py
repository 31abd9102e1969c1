"""Which neurons are kept together when a layer is split in two halves."""

from typing import NamedTuple

import torch
from torch import Tensor

from captum_rdr._arguments import check_whole
from captum_rdr.bank import ConfigurationBank

_LOOKED_AT = 256  # rows that tell whether the order of neurons means something
_STATES = 1 << 24  # of these rows, at most
_SHUFFLES = 20  # random orders that theirs is compared with
_ROUNDING = 1e-6  # of likeness
_ALIKE = 5.0  # standard deviations above these, beyond any accident


class Units(NamedTuple):
    """What is split in two halves.

    Attributes:
        axis: axis of the layer's shape whose entries are kept whole.
        assumed: which it is and who says so, in words.
        untestable: why nothing can be split; empty where it can.
    """

    axis: int
    assumed: str
    untestable: str = ""


def units_of(bank: ConfigurationBank, channel_axis: int | None = None) -> Units:
    """Which neurons are split, by the caller's word, the bank's, or an assumption.

    An assumption is checked, and so is a layer of one dimension, which may be a flattened
    one: neurons must not be alike because of their place.

    Raises:
        TypeError: ``channel_axis`` is no whole number.
        ValueError: it is out of range.

    >>> units_of(ConfigurationBank((4, 1, 7)), 2)
    Units(axis=2, assumed='split by axis 2, as given', untestable='')
    """
    shape = bank.layer_shape
    wide = [axis for axis, size in enumerate(shape) if size > 1]
    if not wide:
        return Units(0, "", "the layer has a single neuron, of which no half can judge")
    known = bank.axes.channel_axis if bank.axes else None
    if channel_axis is not None:
        of = f"the last axis of a layer of shape {tuple(shape)}"
        axis = check_whole("channel_axis", channel_axis, 0, len(shape) - 1, of)
        told = "as given"
    elif known is not None:
        axis, told = known, "where the layer has channels"
    else:
        axis, told = wide[0], "taken for channels"
    is_unsure = channel_axis is None and (known is None or len(wide) == 1)
    untestable = ""
    if shape[axis] < 2:
        untestable = f"axis {axis} has a single channel"
    elif is_unsure and _places_matter(bank, axis):
        untestable = f"neurons along axis {axis} are alike by place; say channel_axis"
    return Units(axis, f"split by axis {axis}, {told}", untestable)


def _places_matter(bank: ConfigurationBank, axis: int) -> bool:
    """Whether units along an axis are alike because of where their neurons lie.

    In a layer of one dimension: whether neurons some steps apart are more alike than in
    any other order of them. Else: whether neurons of different units in the same place are
    more alike than if the places of each unit were shuffled, and not much less than those
    of one unit in different places, as they are in different channels.
    """
    n_units = bank.layer_shape[axis]
    count = min(len(bank), _LOOKED_AT, max(32, _STATES // bank.n_neurons))
    rows = torch.linspace(0, len(bank) - 1, count).long()
    states = bank.states(rows).reshape(-1, *bank.layer_shape).float()
    units = states.movedim(axis + 1, 1).reshape(len(rows), n_units, -1)
    units = (units - units.mean(0)) / units.std(0, correction=0).clamp(min=1e-6)
    n_places = units.shape[2]
    likeness, moved, noise = _of_steps, 1, 0.0
    if n_places > 1:
        across, within = _in_place(units), _in_place(units.mT)
        if across.mean() < within.mean() / 2:
            return False
        likeness, moved, noise = _in_place, 2, float(across.std()) / len(rows) ** 0.5
    drawing = torch.Generator().manual_seed(0)
    shuffles = torch.rand(_SHUFFLES, n_units, n_places, generator=drawing)
    by_chance = [
        likeness(units.take_along_dim(order[None], moved)).mean()
        for order in shuffles.argsort(moved)
    ]
    chance = torch.stack(by_chance)
    spread = max(float(chance.std()), noise, _ROUNDING)
    return float(likeness(units).mean() - chance.mean()) > _ALIKE * spread


def _of_steps(units: Tensor) -> Tensor:
    """Largest mean likeness of single neurons some steps apart, by the power spectrum."""
    power = torch.fft.rfft(units[:, :, 0]).abs().square().mean(0)
    likeness: Tensor = torch.fft.irfft(power, units.shape[1]) / units.shape[1]
    return likeness[1 : units.shape[1] // 2 + 1].max()


def _in_place(units: Tensor) -> Tensor:
    """By row, how much more alike two units are in one place than in different ones."""
    n_units = units.shape[1]
    pairs = n_units * (n_units - 1)
    return (units.sum(1).var(1) - units.var(2).sum(1)) / pairs


def split_neurons(
    layer_shape: torch.Size, generator: torch.Generator, axis: int
) -> Tensor:
    """Choose the half of the neurons that finds regions, in whole units.

    Args:
        layer_shape: shape of the layer's output per instance.
        generator: draws the units.
        axis: the axis that holds the units, two or more.

    Returns:
        bool tensor ``(D,)``: true for the neurons of the drawn half of the units, the
        smaller one if their number is odd.

    >>> drawing = torch.Generator().manual_seed(0)
    >>> split_neurons(torch.Size([3, 2]), drawing, 0).reshape(3, 2)
    tensor([[False, False],
            [False, False],
            [ True,  True]])
    """
    size, n_later = layer_shape[axis], len(layer_shape) - 1 - axis
    chosen = torch.zeros(size, dtype=torch.bool)
    chosen[torch.randperm(size, generator=generator)[: size // 2]] = True
    return chosen.reshape(-1, *[1] * n_later).expand(layer_shape).flatten()
