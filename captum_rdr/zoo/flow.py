"""Follow tensors through a forward pass: which nonlinearity makes or takes each."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

# Functions with the sign of their argument, or zero where that is negative: "> 0" gives
# the same states before and after them.
_GATES = (
    r"(?:leaky_?|hard_?|quick_?|new_?|fast_?|laplace_?|r|p)?"
    r"(?:relu6?|relu2|squared_?relu|gelu|silu|swish|mish|elu|selu|celu|tanh|softsign)"
)
_GATE = re.compile(_GATES)
_GATE_MODULE = re.compile(rf"{_GATES}(?:activation|tanh)?")
# Functions whose result is never negative, so that no state is ever inactive.
_POSITIVE = re.compile(r"(?:hard)?_?(?:sigmoid|softmax|softplus|gumbel_softmax)|exp")
# Functions that move values without changing them, select some, or join several.
_MOVES = re.compile(
    r"view|reshape|(?:un)?flatten|permute|transpose|t|swapaxes|movedim|contiguous|clone"
    r"|(?:un)?squeeze|detach|to|type|float|half|bfloat16|(?:feature_|alpha_)?dropout"
    r"|dropout[123]d|roll|(?:native_)?channel_shuffle"
)
_SELECTS = re.compile(
    r"chunk|(?:tensor_)?split|unbind|__getitem__|narrow|select|expand"
    r"|(?:adaptive_)?max_pool[123]d"
)
_JOINS = re.compile(r"cat|concat|concatenate|stack")


@dataclass(frozen=True, eq=False)
class Gate:
    """One call of a nonlinearity; parts of several calls are another gate.

    Attributes:
        name: the function's or module's name.
    """

    name: str

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
    """Whether a module's class name is that of a nonlinearity.

    >>> [is_gate_module(n) for n in ("ReLU6", "NewGELUActivation", "Sigmoid", "Linear")]
    [True, True, True, False]
    """
    name = class_name.lower()
    return bool(_GATE_MODULE.fullmatch(name) or _POSITIVE.fullmatch(name))


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
        self._values = WeakTensorKeyDictionary()

    def gate(self, tensor: Tensor) -> Gate | None:
        """The nonlinearity that the tensor's values come from, through moves alone."""
        return self._value(tensor).gate

    def watch(self, tensor: Tensor, taken: Callable[[Gate], None]) -> None:
        """Call ``taken`` with each nonlinearity that takes the tensor's values as is."""
        value = self._value(tensor)
        self._values[tensor] = _Value(value.gate, (*value.waiting, taken))

    def pass_gate(self, name: str, taken: Any, given: Any) -> None:
        """Note that a nonlinearity made ``given`` of ``taken`` (None where unknown)."""
        gate = Gate(name)
        for tensor in _tensors(() if gate.is_positive else taken):
            for call in self._value(tensor).waiting:
                call(gate)
        self._give(given, _Value(gate))

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
        plain = name if name.startswith("__") else name.strip("_")
        taken = [*_tensors(args[:1])]
        if _GATE.fullmatch(plain) or _POSITIVE.fullmatch(plain):
            self.pass_gate(plain, taken, result)
        elif _MOVES.fullmatch(plain) and taken:
            self._give(result, self._value(taken[0]))
        elif _SELECTS.fullmatch(plain):
            self._give(result, self._joined(taken)._replace(waiting=()))
        elif _JOINS.fullmatch(plain):
            self._give(result, self._joined(taken))
        else:
            self._give(taken if name == "__setitem__" else result, _UNKNOWN)

    def _joined(self, parts: list[Tensor]) -> _Value:
        """Value of several tensors put together, or of a part of one."""
        values = [self._value(part) for part in parts]
        names = {value.gate.name for value in values if value.gate is not None}
        known = bool(values) and all(value.gate is not None for value in values)
        waiting = tuple(call for value in values for call in value.waiting)
        return _Value(Gate("/".join(sorted(names))) if known else None, waiting)

    def _value(self, tensor: Tensor) -> _Value:
        value: _Value = self._values.get(tensor, _UNKNOWN)  # type: ignore[no-untyped-call]
        return value

    def _give(self, result: Any, value: _Value) -> None:
        for tensor in _tensors(result):
            self._values[tensor] = value


def _tensors(value: Any) -> Iterator[Tensor]:
    """Tensors in a value and in the lists and tuples that it is made of."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
