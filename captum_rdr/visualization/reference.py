"""What the rows of a bank look like and what they are called."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_rdr._arguments import positional

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

Picture = Floats
"""Red, green and blue from 0 to 1, shape ``(H, W, 3)``."""

MISSING = (1.0, 0.0, 1.0)
"""The color of pixels that are NaN: magenta."""

UNKNOWN = "?"
"""The name of a class that is not known."""


class Classes(NamedTuple):
    """An instance's class and the class that the model predicts, where known.

    >>> Classes("cat", "dog").is_wrong, Classes("cat", None).is_wrong
    (True, False)
    >>> Classes("cat", "dog").lines
    ('cat', '→ dog')
    """

    label: str | None
    prediction: str | None

    @property
    def is_wrong(self) -> bool:
        """Whether both are known and differ."""
        unknown = {None, UNKNOWN} & {self.label, self.prediction}
        return not unknown and self.label != self.prediction

    @property
    def lines(self) -> tuple[str, ...]:
        """What is known, the prediction behind an arrow."""
        predicted = None if self.prediction is None else f"→ {self.prediction}"
        return tuple(line for line in (self.label, predicted) if line is not None)


@dataclass(frozen=True)
class Reference:
    """The reference set as the visualizers show it.

    Wherever a visualizer takes a data set, it takes one of these as well, which also
    knows labels, predictions and how to make an image of an input.

    Args:
        dataset: anything whose item i is row i of the bank: a Dataset, tensor, array or
            list. Items are inputs, or tuples that begin with them; a whole number behind
            the input is the label where ``labels`` are not given.
        labels: class of each row by position, whole numbers or names ``(N,)``; negative,
            None or NaN where it is unknown.
        predictions: class that the model predicts for each row, in the same way.
        class_names: name of each class.
        to_image: makes an image of an input; None where inputs are images already:
            arrays ``(H, W, C)`` or tensors ``(C, H, W)``, C being 1 or 3, floats from 0
            to 1 or whole numbers from 0 to 255.

    Raises:
        TypeError: labels or predictions are neither whole numbers nor names.
        ValueError: they are not one a row.

    >>> reference = Reference(torch.zeros(2, 1, 4, 4), [1, -1], [0, 0], ["cat", "dog"])
    >>> reference.classes(0)
    Classes(label='dog', prediction='cat')
    >>> reference.classes(1)
    Classes(label='?', prediction='cat')
    >>> reference.classes_of((torch.ones(3, 4, 4), 0))
    Classes(label='cat', prediction=None)
    >>> reference.item(0).shape
    torch.Size([1, 4, 4])
    >>> reference.picture(0).shape
    (4, 4, 3)
    >>> reference.picture_of(torch.ones(3, 4, 4)).shape
    (4, 4, 3)
    """

    dataset: Any
    labels: Any = None
    predictions: Any = None
    class_names: Sequence[str] | None = None
    to_image: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        for name in ("labels", "predictions"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, positional(given, name))
        for name in ("dataset", "class_names"):
            if hasattr(getattr(self, name), "iloc"):  # of pandas: by position, too
                object.__setattr__(self, name, getattr(self, name).to_numpy())

    def item(self, row: int) -> Any:
        """The item of a bank row.

        Raises:
            ValueError: the data set is too small.
        """
        return _at(self.dataset, row, "dataset")

    def picture(self, row: int) -> Picture:
        """The picture of a bank row."""
        return self.picture_of(self.item(row), f"the image of row {row}")

    def picture_of(self, item: Any, name: str = "query") -> Picture:
        """The picture of an instance that the bank need not hold.

        Args:
            item: the input, or a tuple that begins with it.
            name: what errors call it.

        Returns:
            red, green and blue from 0 to 1, float64 ``(H, W, 3)``.
        """
        value = input_of(item)
        image = value if self.to_image is None else self.to_image(value)
        return as_picture(image, name)

    def classes(self, row: int) -> Classes:
        """Label and prediction of a bank row.

        Raises:
            ValueError: there are too few, or too few class names.
        """
        if self.labels is None:
            label = self.classes_of(self.item(row)).label
        else:
            label = self._name(_at(self.labels, row, "labels"))
        if self.predictions is None:
            return Classes(label, None)
        return Classes(label, self._name(_at(self.predictions, row, "predictions")))

    def classes_of(self, item: Any) -> Classes:
        """Label and prediction of an instance that the bank need not hold.

        Args:
            item: the input, or a tuple of it and of its label and the prediction, as
                far as they are known.

        Returns:
            their names.
        """
        behind = [*item[1:3]] if isinstance(item, (tuple, list)) else []
        known = []
        for one in [*behind, None, None][:2]:
            label = None
            with suppress(TypeError, ValueError):  # what is no label
                label = positional([one], "label")[0]
            known.append(None if label is None else self._name(label))
        return Classes(*known)

    def _name(self, label: int | str | None) -> str:
        """The name of a class."""
        if isinstance(label, str):
            return label
        if label is None or label < 0:
            return UNKNOWN
        if self.class_names is None:
            return str(label)
        if label >= len(self.class_names):
            raise ValueError(
                f"a label is {label}, but class_names has {len(self.class_names)} "
                "items; give one name for every class"
            )
        return str(self.class_names[label])


def as_reference(dataset: Any) -> Reference:
    """A data set as a `Reference`; one that is one already as it is."""
    return dataset if isinstance(dataset, Reference) else Reference(dataset)


def input_of(item: Any) -> Any:
    """The input that an item of a data set is, or begins with."""
    return item[0] if isinstance(item, (tuple, list)) else item


def as_batch(items: Sequence[Any]) -> Tensor:
    """The inputs of items as one batch.

    Raises:
        TypeError: one of them is no tensor.
    """
    inputs = [input_of(item) for item in items]
    if not all(isinstance(one, Tensor) for one in inputs):
        raise TypeError(
            f"an input is a {type(inputs[0]).__name__}; give tensors without the batch "
            "dimension, as the model takes them"
        )
    return torch.stack(inputs)


def _at(values: Any, row: int, name: str) -> Any:
    if row >= len(values):
        raise ValueError(
            f"{name} has {len(values)} items, but row {row} of the bank is to be shown; "
            "give those of the reference set that fit read, in its order"
        )
    return values[row]


def as_picture(image: Any, name: str = "image") -> Picture:
    """What to draw for an image.

    Args:
        image: a NumPy array, channels last ``(H, W)`` or ``(H, W, C)`` as Captum's
            visualizers take it; or a tensor, channels first ``(H, W)`` or ``(C, H, W)``
            as models take it. C is 1 or 3. Floats lie from 0 to 1, whole numbers from 0
            to 255. NaN pixels become magenta.
        name: how errors call the image.

    Returns:
        float64 ``(H, W, 3)``; never a view of ``image``.

    Raises:
        TypeError: it is neither array nor tensor, or holds no real numbers.
        ValueError: its shape or a value is out of range.

    >>> as_picture(np.array([[0, 255]], np.uint8)).tolist()
    [[[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]
    >>> as_picture(np.array([[np.nan]])).tolist()
    [[[1.0, 0.0, 1.0]]]
    """
    if not isinstance(image, (Tensor, np.ndarray)):
        raise TypeError(
            f"{name} is a {type(image).__name__}; give a NumPy array (channels last), a "
            "tensor (channels first), or to_image, which makes one of what the dataset "
            "holds"
        )
    values: Any = image
    axis, wanted = -1, "an array (H, W, C)"
    if isinstance(image, Tensor):
        values, axis, wanted = image.detach().cpu().numpy(), 0, "a tensor (C, H, W)"
    if values.ndim == 2:
        values = np.expand_dims(values, axis)
    if values.ndim != 3 or values.shape[axis] not in (1, 3) or not values.size:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}; give one image as {wanted} with 1 or "
            "3 channels: channels come first in a tensor and last in an array"
        )
    high = 255 if values.dtype.kind in "ui" else 1
    floats = np.moveaxis(values, axis, -1).astype(np.float64) / high
    low, top = np.nanmin(floats, initial=0), np.nanmax(floats, initial=0)
    if low < -1e-6 or top > 1 + 1e-6:
        raise ValueError(
            f"{name} has values from {low * high:.4g} to {top * high:.4g}; give "
            f"{values.dtype} from 0 to {high}, e.g. undo a normalization with "
            "to_image=lambda x: (x * std + mean).clamp(0, 1)"
        )
    picture = np.broadcast_to(floats, (*floats.shape[:2], 3)).clip(0, 1)
    picture[np.isnan(floats).any(2)] = MISSING
    return picture
