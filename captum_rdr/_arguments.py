"""Checks of the arguments that a user passes."""

import operator
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def check_whole(name: str, value: object, least: int | None = 1) -> int:
    """A whole number as a plain int, refused where it is none, or too small.

    Args:
        name: the argument's, for the message.
        value: the argument.
        least: the smallest number that is taken; None for any.

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
    if least is not None and number < least:
        raise ValueError(f"{name}={number} is too small; use {least} or more")
    return number


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Refuse a word that is none of those known.

    Raises:
        ValueError: it is another.

    >>> check_choice("to", "one", ("mean", "zero"))
    Traceback (most recent call last):
    ValueError: to='one' is unknown; use one of ('mean', 'zero')
    """
    if value not in known:
        raise ValueError(f"{name}={value!r} is unknown; use one of {tuple(known)}")


def check_level(level: float) -> None:
    """Refuse a level of significance that is no probability between 0 and 1.

    Raises:
        ValueError: it is none.

    >>> check_level(5)
    Traceback (most recent call last):
    ValueError: level=5 is no probability; use e.g. 0.05
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} is no probability; use e.g. 0.05")


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
    check_range("indices", rows, n_rows, "the bank's rows")
    return rows.to(torch.int64).cpu()


def distinct_rows(indices: Sequence[int] | Tensor, n_rows: int, name: str) -> Tensor:
    """Bank rows, one or more and each once, as an int64 tensor.

    Raises:
        TypeError: they are no whole numbers.
        ValueError: there is none, one comes twice, or `checked_rows` refuses them.

    >>> distinct_rows([4, 4], 10, "rows")
    Traceback (most recent call last):
    ValueError: rows holds 2 rows, 1 different; give one row or more, each once
    """
    rows = checked_rows(indices, n_rows)
    different = len(set(rows.tolist()))
    if not len(rows) or different < len(rows):
        raise ValueError(
            f"{name} holds {len(rows)} rows, {different} different; give one row or more, "
            "each once"
        )
    return rows


def checked_labels(labels: Any, name: str, size: int | None = None) -> Tensor:
    """Labels as an int64 tensor, by position: an index, as a column has it, is ignored.

    Args:
        labels: a sequence of whole numbers, an array or a tensor.
        name: the argument's, for the message.
        size: how many there must be; None for any number.

    Raises:
        TypeError: they are no whole numbers.
        ValueError: there are more or fewer than ``size``.

    >>> checked_labels([2, 0], "labels", 2)
    tensor([2, 0])
    """
    try:
        is_tensor = isinstance(labels, Tensor)
        found = labels if is_tensor else torch.tensor(np.asarray(labels))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{name} is a {type(labels).__name__} that holds no numbers; give whole "
            "numbers, e.g. those of the class names"
        ) from error
    is_real = found.is_floating_point() or found.is_complex()
    if found.dtype == torch.bool or (is_real and found.numel()):
        raise TypeError(f"{name} has dtype {found.dtype}; give whole numbers")
    wanted = (found.numel() if size is None else size,)
    if found.shape != wanted:
        raise ValueError(
            f"{name} has shape {tuple(found.shape)}; give one label an instance, {wanted}"
        )
    return found.to(torch.int64).cpu()


def checked_folders(out: Any, layer: Any, resume: bool) -> list[Path | None]:
    """One folder a layer, or None for banks in memory.

    Args:
        out: None, a folder, or for a list of layers a list of folders.
        layer: a module or a list of modules.
        resume: whether an earlier run is to be resumed.

    Raises:
        TypeError: a list does not meet a list.
        ValueError: the lists differ in length, two folders are one, or there is nothing
            to resume.

    >>> checked_folders(None, [1, 2], False)
    [None, None]
    """
    count = len(layer) if isinstance(layer, list) else 1
    if out is None:
        if resume:
            raise ValueError("resume=True needs out, the folder of the unfinished bank")
        return [None] * count
    if isinstance(layer, list) != isinstance(out, list):
        raise TypeError(
            f"out={out!r} does not fit layer; give a folder for a module, a list of "
            "folders for a list of modules"
        )
    folders = [Path(one) for one in for_each(out, count, "out")]
    if len({os.path.realpath(folder) for folder in folders}) < count:
        raise ValueError(f"out={out!r} names one folder twice; give each layer its own")
    return list(folders)


def check_range(name: str, indices: Tensor, count: int, of: str) -> None:
    """Refuse indices that are not from 0 to ``count - 1``.

    Raises:
        ValueError: one is out of range.

    >>> check_range("neurons", torch.tensor([2, 5]), 5, "the layer's flat indices")
    Traceback (most recent call last):
    ValueError: neurons go from 2 to 5, but the layer's flat indices from 0 to 4
    """
    if indices.numel() and not 0 <= indices.min() <= indices.max() < count:
        raise ValueError(
            f"{name} go from {int(indices.min())} to {int(indices.max())}, but {of} "
            f"from 0 to {count - 1}"
        )
