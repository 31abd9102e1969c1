"""Follow tensors through a forward pass: which nonlinearity makes or takes each."""

import re
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode

# Functions with the sign of their argument, or zero where that is negative: "> 0" gives
# the same states before and after them.
_GATES = (
    r"(?:leaky_?|hard_?|quick_?|new_?|fast_?|laplace_?|r|p)?"
    r"(?:relu6?|relu2|squared_?relu|gelu|silu|swish|mish|elu|selu|celu|tanh|softsign)"
)
_GATE = re.compile(_GATES)
_GATE_MODULE = re.compile(rf"{_GATES}(?:activation|tanh)?")
# Quantized functions that end in a ReLU; what they take is not what it cuts off.
_FUSED = re.compile(r"(?:conv\dd|linear|add|batch_norm)_relu")
# Functions whose result is never negative, so that no state is ever inactive.
_POSITIVE = re.compile(r"(?:hard)?_?(?:sigmoid|softmax|softplus|gumbel_softmax)|exp")

# Functions that move values without changing them.
# fmt: off
_MOVES = frozenset((
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes",
    "movedim", "contiguous", "squeeze", "unsqueeze", "clone", "detach", "to", "type",
    "float", "half", "bfloat16", "dropout", "dropout1d", "dropout2d", "dropout3d",
    "feature_dropout", "alpha_dropout", "roll", "native_channel_shuffle",
    "channel_shuffle", "quantize_per_tensor", "dequantize", "t",
))
# Functions that select or join values.
_SELECTS = frozenset((
    "chunk", "split", "tensor_split", "unbind", "__getitem__", "narrow", "select",
    "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool2d",
    "adaptive_max_pool3d", "expand",
))
# fmt: on
_JOINS = frozenset(("cat", "concat", "concatenate", "stack"))


class Gate(NamedTuple):
    """One call of a nonlinearity.

    Attributes:
        name: the function's or module's name.
        number: tells one call from another; parts of several calls have a new one.
    """

    name: str
    number: int

    @property
    def is_positive(self) -> bool:
        """Whether it gives positive values only, as a sigmoid does."""
        return bool(_POSITIVE.fullmatch(self.name))


class _Value(NamedTuple):
    """What is known of a tensor: its gate, and who waits to hear what takes it."""

    gate: Gate | None = None
    waiting: tuple[Callable[[Gate], None], ...] = ()


_UNKNOWN = _Value()


def is_gate_module(class_name: str) -> bool:
    """Whether a module's class name is that of a nonlinearity that keeps signs.

    >>> [is_gate_module(n) for n in ("ReLU6", "NewGELUActivation", "Sigmoid", "Linear")]
    [True, True, False, False]
    """
    return bool(_GATE_MODULE.fullmatch(class_name.lower()))


class Flow(TorchFunctionMode):
    """Watches every torch function of a forward pass.

    >>> import torch
    >>> with Flow() as flow:
    ...     x = torch.ones(2)
    ...     flow.watch(x, lambda gate: print("taken by", gate.name))
    ...     y = torch.relu(x).view(1, 2)
    taken by relu
    >>> flow.gate(y).name, flow.gate(x)
    ('relu', None)
    """

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[int, tuple[weakref.ref[Tensor], _Value]] = {}
        self._n_gates = 0
        self.attended: Callable[[], None] = lambda: None

    def gate(self, tensor: Tensor) -> Gate | None:
        """The nonlinearity that the tensor's values come from, through moves alone."""
        return self._value(tensor).gate

    def watch(self, tensor: Tensor, taken: Callable[[Gate], None]) -> None:
        """Call ``taken`` with each nonlinearity that takes the tensor's values as is."""
        value = self._value(tensor)
        self._set(tensor, value._replace(waiting=(*value.waiting, taken)))

    def pass_gate(self, name: str, taken: Any, given: Any) -> None:
        """Note that a nonlinearity made ``given`` of ``taken`` (None where unknown)."""
        gate = self._new_gate(name)
        for tensor in _tensors(taken):
            for call in self._value(tensor).waiting:
                call(gate)
        for tensor in _tensors(given):
            self._set(tensor, _Value(gate))

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run the function and note what it does to the values."""
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name not in ("__get__", "size", "dim"):
            self._follow(name, args or tuple((kwargs or {}).values()), result)
        return result

    def _follow(self, name: str, args: Any, result: Any) -> None:
        plain = name.strip("_") if not name.startswith("__") else name
        taken = args[:1]
        if _GATE.fullmatch(plain) or _POSITIVE.fullmatch(plain):
            self.pass_gate(plain, taken, result)
        elif _FUSED.fullmatch(plain):
            self.pass_gate("relu", None, result)
        elif plain in _MOVES:
            first = next(_tensors(taken), None)
            self._give(result, _UNKNOWN if first is None else self._value(first))
        elif plain in _SELECTS or plain in _JOINS:
            self._give(result, self._joined(list(_tensors(taken)), plain in _JOINS))
        elif name == "__setitem__":
            self._give(taken, _UNKNOWN)
        else:
            self._give(result, _UNKNOWN)
        if plain in (
            "softmax",
            "scaled_dot_product_attention",
            "multi_head_attention_forward",
        ):
            self.attended()

    def _joined(self, parts: list[Tensor], whole: bool) -> _Value:
        """Value of a part of one tensor, or of several put together."""
        values = [self._value(part) for part in parts]
        names = {value.gate.name if value.gate else None for value in values}
        name = "/".join(sorted(one for one in names if one))
        gate = None if None in names or not names else self._new_gate(name)
        waiting = tuple(call for value in values for call in value.waiting)
        return _Value(gate, waiting if whole else ())

    def _new_gate(self, name: str) -> Gate:
        self._n_gates += 1
        return Gate(name, self._n_gates)

    def _value(self, tensor: Tensor) -> _Value:
        reference, value = self._values.get(id(tensor), (None, _UNKNOWN))
        return value if reference is not None and reference() is tensor else _UNKNOWN

    def _set(self, tensor: Tensor, value: _Value) -> None:
        self._values[id(tensor)] = (weakref.ref(tensor), value)

    def _give(self, result: Any, value: _Value) -> None:
        for tensor in _tensors(result):
            self._set(tensor, value)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Tensors in a value and in the lists, tuples and dicts that it is made of."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
