"""What the rows of a bank look like and what they are called."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from captum_rdr.visualization.pictures import Picture, as_picture

UNKNOWN = "?"
"""The name of a class that is not known."""


class Classes(NamedTuple):
    """An instance's class and the class that the model predicts, where known.

    >>> Classes("cat", "dog").is_wrong, Classes("cat", None).is_wrong
    (True, False)
    """

    label: str | None
    prediction: str | None

    @property
    def is_wrong(self) -> bool:
        """Whether both are known and differ."""
        return (
            self.label not in (None, UNKNOWN)
            and self.prediction not in (None, UNKNOWN)
            and self.label != self.prediction
        )


@dataclass(frozen=True)
class Reference:
    """The reference set as the visualizers show it.

    Wherever a visualizer takes a data set, it takes one of these as well, which also
    knows labels, predictions and how to make an image of an input.

    Args:
        dataset: anything whose item i is row i of the bank: a Dataset, tensor, array or
            list. Items are inputs, or tuples that begin with them; a whole number behind
            the input is the label where ``labels`` are not given.
        labels: class of each row, whole numbers ``(N,)``; negative or None where it is
            unknown.
        predictions: class that the model predicts for each row, in the same way.
        class_names: name of each class.
        to_image: makes of an input an image for `as_picture`; None where inputs are
            images already: arrays ``(H, W, C)`` or tensors ``(C, H, W)``.

    Raises:
        ValueError: labels and predictions differ in length.

    >>> reference = Reference(torch.zeros(2, 1, 4, 4), [1, -1], [0, 0], ["cat", "dog"])
    >>> reference.classes(0)
    Classes(label='dog', prediction='cat')
    >>> reference.classes(1)
    Classes(label='?', prediction='cat')
    """

    dataset: Any
    labels: Sequence[int | None] | Tensor | None = None
    predictions: Sequence[int | None] | Tensor | None = None
    class_names: Sequence[str] | None = None
    to_image: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        if self.labels is None or self.predictions is None:
            return
        if len(self.labels) != len(self.predictions):
            raise ValueError(
                f"labels has {len(self.labels)} items, predictions "
                f"{len(self.predictions)}; give one of each for every row"
            )

    def input(self, row: int) -> Any:
        """The input of a bank row.

        Raises:
            ValueError: the data set is too small.
        """
        return _input(self._item(row))

    def picture(self, row: int, cmap: Any = None) -> Picture:
        """The picture of a bank row."""
        return self.picture_of(self.input(row), cmap, f"the image of row {row}")

    def picture_of(self, value: Any, cmap: Any = None, name: str = "query") -> Picture:
        """The picture of an input that the bank need not hold."""
        image = value if self.to_image is None else self.to_image(value)
        return as_picture(image, cmap, name)

    def classes(self, row: int) -> Classes:
        """Label and prediction of a bank row.

        Raises:
            ValueError: there are too few, or too few class names.
        """
        if self.labels is None:
            item = self._item(row)
            own = item[1] if isinstance(item, (tuple, list)) and len(item) > 1 else None
            label = None if _number(own) is None else self.name(own)
        else:
            label = self.name(_at(self.labels, row, "labels"))
        if self.predictions is None:
            return Classes(label, None)
        return Classes(label, self.name(_at(self.predictions, row, "predictions")))

    def named(self, label: int | None, prediction: int | None) -> Classes:
        """The classes of an instance that the bank need not hold."""
        names = [None if one is None else self.name(one) for one in (label, prediction)]
        return Classes(names[0], names[1])

    def name(self, label: Any) -> str:
        """The name of a class.

        Raises:
            ValueError: there are fewer class names.
        """
        number = _number(label)
        if number is None or number < 0:
            return UNKNOWN
        if self.class_names is None:
            return str(number)
        if number >= len(self.class_names):
            raise ValueError(
                f"a label is {number}, but class_names has {len(self.class_names)} "
                "items; give one name for every class"
            )
        return str(self.class_names[number])

    def _item(self, row: int) -> Any:
        return _at(self.dataset, row, "dataset")


def as_reference(dataset: Any) -> Reference:
    """A data set as a `Reference`; one that is one already as it is."""
    return dataset if isinstance(dataset, Reference) else Reference(dataset)


def _at(values: Any, row: int, name: str) -> Any:
    if row >= len(values):
        raise ValueError(
            f"{name} has {len(values)} items, but row {row} of the bank is to be shown; "
            "give those of the reference set that fit read, in its order"
        )
    return values[row]


def _input(item: Any) -> Any:
    return item[0] if isinstance(item, (tuple, list)) else item


def _number(value: Any) -> int | None:
    """A label as a plain int, None where it is none."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not hasattr(value, "__int__"):
        return None
    return None if value != value else int(value)


def as_batch(value: Any) -> Tensor:
    """One input as a batch of one.

    Raises:
        TypeError: it is no tensor.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"query is a {type(value).__name__}; give the input as a tensor, without the "
            "batch dimension, as the model takes it"
        )
    return torch.unsqueeze(value, 0)
