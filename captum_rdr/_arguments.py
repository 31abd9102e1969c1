"""Checks of the arguments that a user passes."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def check_whole(name: str, value: object, least: int = 1) -> None:
    """Refuse what is no whole number, or too small a one.

    Args:
        name: the argument's, for the message.
        value: the argument.
        least: the smallest number that is taken.

    Raises:
        TypeError: the value is no whole number.
        ValueError: it is less than ``least``.

    >>> check_whole("n_neurons", 0)
    Traceback (most recent call last):
    ValueError: n_neurons=0 is too small; use 1 or more
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(
            f"{name}={value!r} is a {type(value).__name__}; use a whole number"
        )
    if number < least:
        raise ValueError(f"{name}={number} is too small; use {least} or more")


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


def checked_rows(indices: Sequence[int] | Tensor, n_rows: int) -> Tensor:
    """Bank rows as an int64 tensor.

    Raises:
        TypeError: they are no whole numbers.
        ValueError: they are out of range or not one-dimensional.

    >>> checked_rows(range(3), 10)
    tensor([0, 1, 2])
    """
    try:
        given = indices if isinstance(indices, Tensor) else list(indices)
        rows = torch.as_tensor(given)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"indices={indices!r} is no sequence of whole numbers; give bank rows, e.g. "
            "[3, 5] or range(10)"
        ) from error
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
