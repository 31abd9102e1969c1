"""Whether banks suit the layers that they are asked about."""

import warnings
from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn import Module

from captum_rdr._arguments import for_each
from captum_rdr.bank.bank import ConfigurationBank

_LEAST_ROWS, _LOOKED_AT = 256, 2048  # of a bank, for a warning of rows that are alike


def checked_banks(
    bank: ConfigurationBank | list[ConfigurationBank],
    layer: Module | list[Module],
    thresholds: Sequence[Tensor | None],
) -> list[ConfigurationBank]:
    """One bank a layer, with the thresholds that were given.

    Zero, which is the default, and the median, which is not known, go with any bank.

    Raises:
        TypeError: something is no bank, or a list does not meet a list.
        ValueError: the lists differ in length, or a threshold is not the bank's.
    """
    several = isinstance(layer, list)
    banks = bank if isinstance(bank, list) else [bank]
    all_banks = all(isinstance(one, ConfigurationBank) for one in banks)
    if several != isinstance(bank, list) or not all_banks:
        raise TypeError(
            f"bank={bank!r} does not fit layer; give a ConfigurationBank for a module, "
            "a list of them for a list of modules"
        )
    for_each(banks, len(thresholds), "bank")
    for threshold, one in zip(thresholds, banks, strict=True):
        if threshold is None or (threshold.dim() == 0 and threshold == 0):
            continue
        if threshold.flatten().tolist() != one.threshold.flatten().tolist():
            raise ValueError(
                f"threshold={threshold} is not that of {one!r}; leave threshold out to "
                "use the bank's, or fit again"
            )
    return banks


def warn_if_alike(name: str, bank: ConfigurationBank) -> None:
    """Warn of a bank in which different instances look the same."""
    rows = slice(0, _LOOKED_AT)
    if bank.sketches is None or len(bank) < _LEAST_ROWS:
        return
    instances = len(np.unique(bank.sketches[rows].cpu(), axis=0))
    configurations = len(np.unique(bank.packed[rows].cpu(), axis=0))
    if configurations < instances / 10:
        warnings.warn(
            f"{instances} different instances have only {configurations} different "
            f"configurations in layer {name!r}, so regions cannot tell them apart; use "
            'threshold="median", another pool (the maximum over many places makes '
            "nearly all neurons active), or a layer of more neurons",
            UserWarning,
            stacklevel=3,
        )
