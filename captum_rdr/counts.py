"""Checks of whole numbers."""

import operator


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
