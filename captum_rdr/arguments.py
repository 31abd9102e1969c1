"""Checks of the arguments that a user passes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_rdr.bank import ConfigurationBank


def check_layer(forward_func: Callable[..., Any], layer: Module | list[Module]) -> None:
    """Refuse what cannot run or be recorded.

    Raises:
        TypeError: ``forward_func`` is not callable, or ``layer`` neither a module nor a
            list of modules.
    """
    if not callable(forward_func):
        raise TypeError(
            f"forward_func is a {type(forward_func).__name__}, which cannot be called; "
            "pass the model or a function around it"
        )
    layers = layer if isinstance(layer, list) else [layer]
    if not layers or not all(isinstance(one, Module) for one in layers):
        raise TypeError(
            f"layer={layer!r} is neither a module nor a list of modules; pass e.g. "
            "model.layer4"
        )


def for_each(value: Any, count: int, name: str) -> list[Any]:
    """One value a layer: a list as it is, anything else repeated.

    Raises:
        ValueError: the list has another length.

    >>> for_each(0.0, 2, "threshold")
    [0.0, 0.0]
    """
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        raise ValueError(
            f"{name} has {len(value)} items for {count} layers; give one each"
        )
    return value


def check_banks(
    bank: ConfigurationBank | list[ConfigurationBank], layer: Module | list[Module]
) -> list[ConfigurationBank]:
    """One bank a layer.

    Raises:
        TypeError: something is no bank, or a list does not meet a list.
        ValueError: the lists differ in length.
    """
    several = isinstance(layer, list)
    banks = bank if isinstance(bank, list) else [bank]
    all_banks = all(isinstance(one, ConfigurationBank) for one in banks)
    if several != isinstance(bank, list) or not all_banks:
        raise TypeError(
            f"bank={bank!r} does not fit layer; give a ConfigurationBank for a module, "
            "a list of them for a list of modules"
        )
    return for_each(banks, len(layer) if isinstance(layer, list) else 1, "bank")


def checked_rows(indices: Sequence[int] | Tensor, n_rows: int) -> Tensor:
    """Bank rows as an int64 tensor.

    Raises:
        TypeError: they are no whole numbers.
        ValueError: they are out of range or not one-dimensional.

    >>> checked_rows(range(3), 10)
    tensor([0, 1, 2])
    """
    rows = torch.as_tensor(indices if isinstance(indices, Tensor) else list(indices))
    if rows.dtype == torch.bool or (rows.is_floating_point() and rows.numel()):
        raise TypeError(
            f"indices has dtype {rows.dtype}; give whole numbers, or for a mask "
            "mask.nonzero().flatten()"
        )
    if rows.dim() != 1:
        raise ValueError(
            f"indices has shape {tuple(rows.shape)}; give bank rows of shape (Q,)"
        )
    if rows.numel() and not 0 <= rows.min() <= rows.max() < n_rows:
        raise ValueError(
            f"indices go from {int(rows.min())} to {int(rows.max())}, but the bank's "
            f"rows from 0 to {n_rows - 1}"
        )
    return rows.to(torch.int64).cpu()
