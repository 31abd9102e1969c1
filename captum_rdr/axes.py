"""What the axes of a layer's output mean: channels, places, times, tokens."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Any, cast

from torch import Tensor
from torch.nn import Module

from captum_rdr._arguments import check_whole

KINDS = ("channel", "time", "other", "window", "token", "height", "width")
"""What an axis may be; the order in which `LayerAxes.arranged` puts them."""

# By the number of axes, where channels come first and where they come last.
_VIDEO = "time height width"
_FIRST = {2: "channel time", 3: "channel height width", 4: f"channel {_VIDEO}"}
_LAST = {2: "token channel", 3: "height width channel", 4: f"{_VIDEO} channel"}
_PREFIX = re.compile(
    r"cls|(cls|class|reg|register|registers|dist|distillation|storage)_tokens?"
    r"|class_embedding|registers"
)
_SIMILAR = 0.2  # log of how far the grid's shape may be from the image's


@dataclass(frozen=True)
class LayerAxes:
    """What the axes of a layer's output mean.

    Args:
        kinds: the kind of each axis of one instance's output, in order, each one of
            `KINDS`: a string ``"height width channel"`` or a sequence of words.
            ``"channel"`` is what a neuron looks for, a channel or a feature;
            ``"window"`` counts windows, whose tokens are then counted by ``"token"``.
        n_prefix: class and register tokens, which have no place, before the others.

    Raises:
        ValueError: a kind is unknown, or a number is out of range.

    >>> axes = LayerAxes("height width channel")
    >>> axes.channel_axis
    2
    >>> axes.named((3, 2, 5))
    {'height': 3, 'width': 2, 'channel': 5}
    >>> axes.check((7, 7, 96))  # it may be of such a layer
    >>> axes.as_fields()
    {'kinds': 'height width channel', 'n_prefix': 0}
    >>> LayerAxes("token channel", n_prefix=1)
    LayerAxes(kinds=('token', 'channel'), n_prefix=1)
    """

    kinds: tuple[str, ...]
    n_prefix: int = 0

    def __post_init__(self) -> None:
        kinds = self.kinds.split() if isinstance(self.kinds, str) else self.kinds
        object.__setattr__(self, "kinds", tuple(kinds))
        single = [kind for kind in self.kinds if kind != "other"]
        if not set(single) <= set(KINDS) or len(set(single)) < len(single):
            raise ValueError(
                f"kinds={self.kinds} must be of {KINDS}, each once but for 'other'; "
                "give e.g. 'height width channel'"
            )
        check_whole("n_prefix", self.n_prefix, least=0)

    @property
    def channel_axis(self) -> int | None:
        """Which axis of an instance's output counts channels; None where none does."""
        return self.kinds.index("channel") if "channel" in self.kinds else None

    def check(self, shape: Sequence[int]) -> None:
        """Refuse an output that cannot have these axes.

        Args:
            shape: that of one instance.

        Raises:
            ValueError: it has more or fewer axes or tokens.
        """
        sizes = dict(zip(self.kinds, shape, strict=False))
        n_tokens = sizes.get("token", math.inf)
        if len(self.kinds) != len(shape) or n_tokens <= self.n_prefix:
            raise ValueError(
                f"axes={self} do not fit an output of shape {tuple(shape)} an instance; "
                "give one kind an axis, fewer prefix tokens than tokens, or leave axes out"
            )

    def as_fields(self) -> dict[str, Any]:
        """The arguments that make it, as JSON has them."""
        return {"kinds": " ".join(self.kinds), "n_prefix": self.n_prefix}

    def named(self, index: Sequence[int]) -> dict[str, int]:
        """A neuron's coordinates, as `captum_rdr.Region.unravel` gives them, by kind."""
        return dict(zip(self.kinds, index, strict=True))

    def arranged(self, values: Tensor, aspect: float = 1.0) -> tuple[Tensor, Tensor]:
        """Put channels first and places behind them, whatever the layer's own order.

        Args:
            values: shape ``(B, *shape)``.
            aspect: height of an input image in shares of its width, which a grid of
                tokens is then taken to have.

        Returns:
            values by place, ``(B, C, T, H, W)``, axes that the layer lacks having size 1;
            and those of the tokens before the grid, ``(B, C, P)``.

        Raises:
            ValueError: the values cannot have these axes.

        >>> import torch
        >>> axes = LayerAxes("token channel", n_prefix=1)
        >>> places, prefix = axes.arranged(torch.zeros(2, 10, 7))
        >>> places.shape, prefix.shape
        (torch.Size([2, 7, 1, 3, 3]), torch.Size([2, 7, 1]))
        """
        self.check(values.shape[1:])
        numbers = [KINDS.index(kind) for kind in self.kinds]
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        sizes = dict.fromkeys(KINDS, 1)
        for kind, size in zip(self.kinds, values.shape[1:], strict=True):
            sizes[kind] *= size
        moved = values.permute(0, *(1 + axis for axis in order))
        full = moved.reshape(len(values), *sizes.values())
        prefix = full[..., : self.n_prefix, :, :].flatten(2)
        within = 1.0 if "window" in self.kinds else aspect
        tokens = _grid(sizes["token"] - self.n_prefix, within)
        split = full[..., self.n_prefix :, :, :].reshape(
            *(len(values), sizes["channel"], sizes["time"] * sizes["other"]),
            *_grid(sizes["window"], aspect),
            *tokens,
            *(sizes["height"], sizes["width"]),
        )
        rows_and_columns = split.permute(0, 1, 2, 3, 5, 7, 4, 6, 8)
        return rows_and_columns.flatten(6).flatten(3, 5), prefix


def _grid(count: int, aspect: float) -> tuple[int, int]:
    """Height and width whose product is ``count``: of the aspect, or square, or one row.

    >>> _grid(12, 0.75), _grid(12, 1.33), _grid(9, 2.0), _grid(7, 1.0)
    ((3, 4), (4, 3), (3, 3), (1, 7))
    """
    heights = [height for height in range(1, count + 1) if count % height == 0]
    for wanted in (aspect, 1.0):
        errors = [(abs(math.log(h * h / count / wanted)), h) for h in heights]
        error, height = min(errors, default=(math.inf, 1))
        if error < _SIMILAR:
            return height, count // height
    return 1, count


def axes_of(
    layer: Module | None,
    shape: Sequence[int],
    model: Module | None = None,
    *,
    of_input: bool = False,
    leaf: Module | None = None,
) -> LayerAxes | None:
    """What a layer's axes mean, told by its shape, type and place in the model.

    The channels stand where the last layer with weights in it, or before it, puts them,
    first in convolutions and batch norms, last in linear layers and layer norms, unless
    their number shows that they were moved. Class and register tokens are told by the
    names of the model's parameters.

    Args:
        layer: the layer; None where it is unknown.
        shape: its output's shape without the batch.
        model: the model around it; None where it is unknown.
        of_input: whether the shape is that of what the layer takes in.
        leaf: the last layer with weights that ran in it, where a trace has shown it.

    Returns:
        the axes; None where no layer tells them.

    >>> from torch import nn
    >>> axes_of(nn.Conv1d(3, 8, 5), (8, 60)).kinds
    ('channel', 'time')
    >>> axes_of(nn.LayerNorm(96), (7, 7, 96)).kinds
    ('height', 'width', 'channel')
    """
    shape = tuple(shape)
    if len(shape) < 2:
        return LayerAxes(("channel",) * len(shape))
    if leaf is None and layer is not None:
        leaf = _leaf(layer, shape, model, of_input)
    if leaf is None:
        return None
    axis = channel_axis(leaf, shape, of_input)
    width, end = channels_of(leaf, of_input)
    # Several convolutions may be joined, but what a linear layer gave may be anything.
    if end == -1 and shape[axis] != width:
        return None
    around = _around(layer, model)
    kinds = (_LAST if axis else _FIRST).get(len(shape))
    if kinds == "height width channel":
        kinds = _windowed(around) or kinds
    if kinds is None:
        return None
    n_prefix = _n_prefix(around, shape[0]) if kinds == "token channel" else 0
    return LayerAxes(cast("tuple[str, ...]", kinds), n_prefix)


def guessed_axes(shape: Sequence[int]) -> LayerAxes:
    """What a layer's axes mean by all likelihood, where its shape alone is known.

    Args:
        shape: its output's shape without the batch.

    Returns:
        channels first, but last behind tokens ``(T, E)``, of which the first is a class
        token where the others make a square.

    >>> guessed_axes((10, 64))
    LayerAxes(kinds=('token', 'channel'), n_prefix=1)
    """
    if len(shape) == 2:
        squares = [math.isqrt(n) ** 2 == n for n in (shape[0], shape[0] - 1)]
        has_class = shape[0] > 2 and squares == [False, True]
        return LayerAxes(("token", "channel"), int(has_class))
    unknown = ["channel", *["other"] * len(shape)][: len(shape)]
    return LayerAxes(tuple(_FIRST.get(len(shape), " ".join(unknown)).split()))


def _around(layer: Module | None, model: Module | None) -> list[Module]:
    """The modules around a layer, innermost first."""
    if model is None:
        return []
    named = model.named_modules()
    parts = next((name for name, one in named if one is layer), "").split(".")
    counts = range(len(parts) - 1, -1, -1)
    return [model.get_submodule(".".join(parts[:count])) for count in counts]


def _leaf(
    layer: Module, shape: Sequence[int], model: Module | None, of_input: bool
) -> Module | None:
    """The layer with weights whose channels are those of a layer's output or input."""
    nearest = [one for one in layer.modules() if channels_of(one)[0]]
    if not nearest and model is not None:
        before = takewhile(lambda one: one is not layer, model.modules())
        nearest = [one for one in before if channels_of(one)[0]][-1:]
    if not of_input:
        nearest.reverse()

    def fits(one: Module) -> bool:
        width, _ = channels_of(one, of_input)
        return shape[channel_axis(one, shape, of_input)] == width

    # Modules need not run in the order in which they are registered.
    return next(chain(filter(fits, nearest), nearest), None)


def _windowed(around: Sequence[Module]) -> str | None:
    """The axes of windows, where a module around a layer parts the image (MaxViT)."""
    for module in around:
        if "partition" in type(module).__name__.lower():
            # Its grid attention swaps windows and tokens.
            swap = type(getattr(module, "partition_swap", None)).__name__
            is_swapped = swap == "SwapAxes"
            return "token window channel" if is_swapped else "window token channel"
    return None


def _n_prefix(around: Sequence[Module], n_tokens: int) -> int:
    """Number of class and register tokens before the others."""
    for module in around:
        named = module.named_parameters()
        tokens = [one for name, one in named if _PREFIX.fullmatch(name.split(".")[-1])]
        if tokens:
            sizes = [one.shape[-2] if one.dim() > 1 else 1 for one in tokens]
            return min(sum(sizes), n_tokens - 1)
    return 0


def channel_axis(module: Module, shape: Sequence[int], of_input: bool = False) -> int:
    """Which end of a shape counts the channels of a layer with weights.

    Args:
        module: the layer.
        shape: its output's shape without the batch; it may be that of a module around.
        of_input: whether the shape is that of what it takes in.

    Returns:
        the first or the last axis.

    >>> from torch.nn import Linear
    >>> channel_axis(Linear(3, 8), (7, 7, 8)), channel_axis(Linear(3, 8), (8, 7, 7))
    (2, 0)
    """
    width, first = channels_of(module, of_input)
    ends = (0, len(shape) - 1) if first == 0 else (len(shape) - 1, 0)
    # A block may permute what its last leaf gives, and so turn the channels around.
    return next((axis for axis in ends if shape[axis] == width), ends[0])


def channels_of(module: Module, of_input: bool = False) -> tuple[int, int]:
    """Number of channels of a layer with weights, and where they stand.

    Args:
        module: any module.
        of_input: ask for what it takes in, not for what it puts out.

    Returns:
        the number, 0 for a module without channels of its own; and their axis, 0 or -1.

    >>> from torch.nn import Linear
    >>> channels_of(Linear(3, 8)), channels_of(Linear(3, 8), of_input=True)
    ((8, -1), (3, -1))
    """
    side = "in" if of_input else "out"
    first = (f"{side}_channels", "num_features", "num_channels")
    last = (f"{side}_features", "nx" if of_input else "nf")  # Hugging Face's Conv1D
    for name in (*first, *last):
        size = getattr(module, name, None)
        if isinstance(size, int):
            return size, 0 if name in first else -1
    weight = getattr(module, "weight", None)
    is_norm = "norm" in type(module).__name__.lower()
    if is_norm and isinstance(weight, Tensor) and weight.dim() == 1:
        # Layer norms act on the last dimension, frozen batch norms on the first.
        return weight.shape[-1], 0 if hasattr(module, "running_mean") else -1
    return 0, 0
