"""Checks of what the findings are asked for."""

from typing import Any

import torch
from torch import Tensor

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank


def single_bank(rdr: RelaxedDecisionRegion) -> ConfigurationBank:
    """The bank of an explainer of one layer.

    Raises:
        TypeError: it is no explainer.
        ValueError: it explains several layers, or is not fitted.
    """
    if not isinstance(rdr, RelaxedDecisionRegion):
        raise TypeError(
            f"rdr is a {type(rdr).__name__}; give a fitted RelaxedDecisionRegion"
        )
    if isinstance(rdr.layer, list):
        raise ValueError(
            f"rdr explains {len(rdr.layer)} layers; give an explainer of one layer"
        )
    if rdr.bank is None:
        raise ValueError("rdr has no bank yet; call fit, or pass bank to it")
    bank: ConfigurationBank = rdr.bank
    return bank


def checked_labels(labels: Any, name: str, size: int) -> Tensor:
    """Labels as an int64 tensor.

    Raises:
        TypeError: they are no whole numbers.
        ValueError: there are more or fewer than ``size``.

    >>> checked_labels([2, 0], "labels", 2)
    tensor([2, 0])
    """
    found = torch.as_tensor(labels)
    if found.dtype == torch.bool or found.is_floating_point() or found.is_complex():
        raise TypeError(f"{name} has dtype {found.dtype}; give whole numbers")
    if found.shape != (size,):
        raise ValueError(
            f"{name} has shape {tuple(found.shape)}; give one label an instance, ({size},)"
        )
    return found.to(torch.int64).cpu()
