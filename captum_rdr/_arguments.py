"""Checks of the arguments that a user passes."""

import operator
from collections.abc import Iterable, Mapping, Sequence, Set
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def check_whole(
    name: str,
    value: object,
    least: int | None = 1,
    most: int | None = None,
    of: str = "",
) -> int:
    """A whole number as a plain int, refused where it is none, too small or too large.

    Args:
        name: the argument's, for the message.
        value: the argument.
        least: the smallest number that is taken; None for any.
        most: the largest, None for any.
        of: what there are ``most`` of, in words, for the message.

    Raises:
        TypeError: the value is no whole number.
        ValueError: it is less than ``least`` or more than ``most``.

    >>> check_whole("n_neurons", 0)
    Traceback (most recent call last):
    ValueError: n_neurons=0 is too small; use 1 or more
    >>> check_whole("k", 4, most=3, of="the bank's 3 instances")
    Traceback (most recent call last):
    ValueError: k=4 is more than the bank's 3 instances; lower it
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
    if most is not None and number > most:
        raise ValueError(f"{name}={number} is more than {of}; lower it")
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
        raise ValueError(
            f"{name}={value!r} is unknown; use one of {tuple(known)}{meant(value, known)}"
        )


def meant(value: object, known: Iterable[str]) -> str:
    """A question after the known word that is most like an unknown one, if any is.

    >>> meant("resnet5O", ["alexnet", "resnet50"])
    "; did you mean 'resnet50'?"
    """
    near = get_close_matches(str(value), list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


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


def positional(
    values: Any, name: str, size: int | None = None, of: str = "instances"
) -> list[Any]:
    """Labels or rows in the order in which they lie: a column's index is ignored.

    Args:
        values: a list, tuple or range; an array or a tensor on any device; or a column,
            categorical or frame of one column, as pandas has them.
        name: the argument's, for the message.
        size: how many there must be; None for any number.
        of: what they are of, in words, for the message.

    Returns:
        int each, or str each; None where a value is unknown.

    Raises:
        TypeError: they are neither whole numbers nor names.
        ValueError: they are not one a row, as one-hot labels are not, or more or fewer
            than ``size``.

    >>> positional(np.array([2, 0]), "labels"), positional(("cat", None), "labels")
    ([2, 0], ['cat', None])
    >>> positional([[0, 1], [1, 0]], "labels")
    Traceback (most recent call last):
    ValueError: labels has shape (2, 2); give one label an instance, (2,), or one
    row a query, e.g. labels.argmax(1) where they are one-hot
    """
    column = _as_array(values, name)
    if hasattr(values, "columns") and column.shape[1:] == (1,):
        column = column[:, 0]  # a frame's only column
    if column.ndim != 1:
        raise ValueError(
            f"{name} has shape {column.shape}; give one label an instance, "
            f"{column.shape[:1]}, or one row a query, e.g. {name}.argmax(1) where they "
            "are one-hot"
        )
    items: list[Any] = column.tolist()
    items = [None if _is_unknown(one) else one for one in items]
    if None in items:  # a column of numbers that has unknown ones holds floats
        items = [int(one) if _is_whole(one) else one for one in items]
    kinds = {type(one) for one in items} - {type(None)}
    if size not in (None, len(items)):
        raise ValueError(
            f"{name} has {len(items)} items for {size} {of}; give one each"
        )
    if kinds <= {int} or kinds <= {str}:
        return items
    if len(kinds) > 1 or not kinds <= {bool, float, complex}:
        raise _no_sequence(values, name)
    dtype = getattr(values, "dtype", torch.tensor(items[:1]).dtype)
    mask = ", or for a mask mask.nonzero().flatten()" if bool in kinds else ""
    raise TypeError(f"{name} has dtype {dtype}; give whole numbers{mask}")


def _as_array(values: Any, name: str) -> npt.NDArray[Any]:
    if isinstance(values, Tensor):
        return np.array(values.tolist())
    if hasattr(values, "__array__"):
        return np.asarray(values)
    is_text = isinstance(values, (str, bytes, Mapping, Set))
    if is_text or not isinstance(values, Iterable):
        raise _no_sequence(values, name)
    plain = (Tensor, np.generic)
    items = [one.tolist() if isinstance(one, plain) else one for one in values]
    return np.array(items, dtype=object)


def _no_sequence(values: Any, name: str) -> TypeError:
    return TypeError(
        f"{name}={values!r:.60} is no sequence of whole numbers; give a list, array, "
        "tensor or column of one value a row, e.g. [3, 5] or range(10)"
    )


def _is_unknown(value: Any) -> bool:
    """Whether a value is missing: None, NaN, or what pandas has for that."""
    is_nan = isinstance(value, float) and value != value
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and value.is_integer()


def checked_rows(indices: Any, n_rows: int, name: str = "indices") -> Tensor:
    """Bank rows as an int64 tensor, by position as `positional` reads them.

    Raises:
        TypeError: they are no whole numbers.
        ValueError: they are out of range or not one-dimensional.

    >>> checked_rows(range(3), 10)
    tensor([0, 1, 2])
    """
    rows = checked_labels(indices, name)
    check_range(name, rows, n_rows, "the bank's rows")
    return rows


def distinct_rows(indices: Any, n_rows: int, name: str) -> Tensor:
    """Bank rows, one or more and each once, as an int64 tensor.

    Raises:
        TypeError: they are no whole numbers.
        ValueError: there is none, one comes twice, or `checked_rows` refuses them.

    >>> distinct_rows([4, 4], 10, "rows")
    Traceback (most recent call last):
    ValueError: rows holds 2 rows, 1 different; give one row or more, each once
    """
    rows = checked_rows(indices, n_rows, name)
    different = len(set(rows.tolist()))
    if not len(rows) or different < len(rows):
        raise ValueError(
            f"{name} holds {len(rows)} rows, {different} different; give one row or more, "
            "each once"
        )
    return rows


def checked_labels(labels: Any, name: str, size: int | None = None) -> Tensor:
    """Labels as an int64 tensor, by position as `positional` reads them.

    Args:
        labels: whole numbers.
        name: the argument's, for the message.
        size: how many there must be; None for any number.

    Raises:
        TypeError: they are no whole numbers.
        ValueError: there are more or fewer than ``size``, or not one a row.

    >>> checked_labels([2, 0], "labels", 2)
    tensor([2, 0])
    """
    items = positional(labels, name, size)
    for position, one in enumerate(items):
        if not isinstance(one, int):
            raise TypeError(
                f"{name} holds {one!r} at position {position}; give whole numbers, e.g. "
                "those of the classes"
            )
    return torch.tensor(items, dtype=torch.int64)


def coded_labels(**given: Any) -> list[Tensor]:
    """Whole numbers, or names, as int64 tensors.

    Args:
        **given: labels by the name of their argument; a name gets the same number in all
            of them.

    Raises:
        TypeError: they are neither, or some are names and others numbers.
        ValueError: they are not one a row.

    >>> coded_labels(labels=["b", "a"], targets=("a",))
    [tensor([1, 0]), tensor([0])]
    """
    columns = {name: positional(labels, name) for name, labels in given.items()}
    every = {one for column in columns.values() for one in column}
    number: dict[Any, int] = {}
    if all(isinstance(one, str) for one in every):
        number = {one: position for position, one in enumerate(sorted(every))}
    return [
        checked_labels([number.get(one, one) for one in column], name)
        for name, column in columns.items()
    ]


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
