"""Reference instances that show whether a model still gives a bank's states."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from captum_rdr.model.inputs import ForwardArguments
from captum_rdr.model.states import binarize, feature_dtype

MOST_INSTANCES = 8
MOST_BYTES = 1 << 22
"""Inputs that a bank keeps, in bytes; where one instance takes more, it keeps none."""

_MOST_NEURONS = 4096
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
_PLAIN = (bool, int, float, str, type(None))
# Parts of the activations' root mean square: what other weights may change, and what
# another batch size, device or number of threads may change with the same weights.
_EQUAL, _ROUNDING = 1e-4, 1e-2


@dataclass(frozen=True, eq=False)
class Probe:
    """A few reference instances, and what the layer gave for them.

    Attributes:
        arguments: the forward arguments, on the CPU.
        activations: float ``(n, D')``, those of at most 4,096 neurons.
        how: digest of the way in which the layer is read.
        fingerprint: that of the model and layer after a pass, which may make buffers.
        autocast: dtype of the autocast in which the bank was made, empty for none.
    """

    arguments: ForwardArguments
    activations: Tensor
    how: str = ""
    fingerprint: str = ""
    autocast: str = ""

    def packed(self) -> Tensor:
        """All of it as the bytes of a file in the safetensors format, flat uint8.

        >>> probe = Probe(ForwardArguments((torch.ones(1, 2), 3), {}), torch.ones(1, 4))
        >>> Probe.unpacked(probe.packed()).arguments
        ForwardArguments(args=(tensor([[1., 1.]]), 3), kwargs={})
        """
        named = {str(i): value for i, value in enumerate(self.arguments.args)}
        named |= {f"={name}": value for name, value in self.arguments.kwargs.items()}
        tensors = {n: value for n, value in named.items() if isinstance(value, Tensor)}
        values = {n: None if n in tensors else value for n, value in named.items()}
        text = json.dumps([values, self.how, self.fingerprint, self.autocast])
        tensors["activations"] = self.activations
        held = safetensors.torch.save(tensors, {"captum_rdr": text})
        return torch.frombuffer(bytearray(held), dtype=torch.uint8)

    @staticmethod
    def unpacked(packed: Tensor) -> "Probe":
        """What `packed` gave.

        Raises:
            ValueError: it is something else.
        """
        held = packed.numpy().tobytes()
        try:
            tensors = safetensors.torch.load(held)
            header = json.loads(held[8 : 8 + int.from_bytes(held[:8], "little")])
            values, *texts = json.loads(header["__metadata__"]["captum_rdr"])
            named = {name: tensors.get(name, value) for name, value in values.items()}
            return Probe(
                ForwardArguments(
                    tuple(value for name, value in named.items() if name[0] != "="),
                    {name[1:]: one for name, one in named.items() if name[0] == "="},
                ),
                tensors["activations"],
                *map(str, texts),
            )
        except (*_UNREADABLE, safetensors.SafetensorError) as error:
            raise ValueError(
                f"the bank's first instances cannot be read ({error}); restore the bank "
                "from a copy, or fit it anew"
            ) from error

    def difference(
        self, now: Tensor, threshold: Tensor, same_weights: bool
    ) -> str | None:
        """How the states differ from those that the layer gives now, None if they do not.

        Args:
            now: what `sampled` gives of the layer's activations.
            threshold: that of the states: without dimensions, or one for each neuron.
            same_weights: whether only rounding may have changed something; otherwise
                the activations may not have changed, either.
        """
        count = min(len(now), len(self.activations))
        was, now = self.activations[:count], now[:count]
        if threshold.dim():
            threshold = threshold.flatten()[_picked(threshold.numel())]
        flipped = binarize(was, threshold) != binarize(now, threshold)
        size = (was.double() - now.double()).abs()
        scale = was[was.isfinite()].double().square().mean().sqrt()
        if same_weights and self.autocast == autocast_now():
            beyond = flipped & ~(size <= _ROUNDING * scale)
            is_other = int(beyond.sum()) > flipped.numel() // 1000
        else:
            is_other = bool(((was != now) & ~(size <= _EQUAL * scale)).any())
        if not is_other:
            return None
        count, total = int(flipped.sum()), flipped.numel()
        text = (
            f"{count} of {total} states ({100 * count / total:.1f} %) of the bank's "
            f"first {len(was)} instances are other ones now"
        )
        if not count:
            text = f"weights and activations of the bank's first {len(was)} instances differ"
        if self.autocast != autocast_now():
            return f"{text}, and autocast was {self.autocast or 'off'} when it was made"
        return text


def _picked(n_neurons: int) -> Tensor:
    count = min(n_neurons, _MOST_NEURONS)
    return torch.arange(count) * n_neurons // count


def sampled(activations: Tensor) -> Tensor:
    """Activations ``(n, D')`` of at most 4,096 neurons, evenly spaced, on the CPU.

    >>> sampled(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 4096])
    """
    flat = activations.detach().flatten(1)
    picked = flat[:, _picked(flat.shape[1]).to(flat.device)]
    return picked.to("cpu", feature_dtype(picked.dtype))


class FirstInstances:
    """The data's first instances, where they are tensors and small.

    They depend on neither batch size nor device, unless their shapes vary.

    >>> first = FirstInstances()
    >>> for batch in torch.arange(20).reshape(10, 2).split(3):
    ...     first.add(ForwardArguments((batch, None), {}))
    >>> first.arguments.batch_size
    8
    >>> first.add(ForwardArguments((torch.ones(1), object()), {}))
    """

    def __init__(self) -> None:
        self._parts: list[ForwardArguments] = []
        self._count = 0

    def add(self, arguments: ForwardArguments) -> None:
        """Take in the next batch."""
        room = _most_instances(arguments) - self._count
        if room > 0:
            self._parts.append(arguments.part(slice(room)).copied())
            self._count += min(room, arguments.batch_size)

    @property
    def arguments(self) -> ForwardArguments | None:
        """Forward arguments of the first instances, None if there are none to keep."""
        if len(self._parts) < 2:
            return self._parts[0] if self._parts else None
        first, sizes = self._parts[0], [part.batch_size for part in self._parts]

        def joined(values: Sequence[Any]) -> Any:
            whole = [isinstance(one, Tensor) and one.dim() > 0 for one in values]
            if all(whole) and [len(one) for one in values] == sizes:
                return torch.cat(list(values))
            return values[0]

        try:
            return ForwardArguments(
                tuple(map(joined, zip(*(p.args for p in self._parts), strict=True))),
                {
                    name: joined([part.kwargs[name] for part in self._parts])
                    for name in first.kwargs
                },
            )
        except (RuntimeError, ValueError, LookupError):  # they differ in shape
            return first


def _most_instances(arguments: ForwardArguments) -> int:
    """How many instances may be kept of such a batch."""
    values = (*arguments.args, *arguments.kwargs.values())
    tensors = [value for value in values if isinstance(value, Tensor)]
    size = arguments.batch_size
    if size == 0 or not all(map(_is_plain, tensors)):
        return 0
    if not all(isinstance(value, (Tensor, *_PLAIN)) for value in values):
        return 0
    n_bytes = sum(one[:1].nbytes if one.dim() else one.nbytes for one in tensors)
    return min(MOST_INSTANCES, MOST_BYTES // max(n_bytes, 1))


def _is_plain(tensor: Tensor) -> bool:
    is_dense = (
        type(tensor) is Tensor
        and tensor.layout == torch.strided
        and not tensor.is_nested
    )
    odd = tensor.is_quantized or tensor.is_complex() or tensor.is_meta
    return is_dense and not odd


def autocast_now() -> str:
    """The dtypes of autocasts that are on, empty for none."""
    return ", ".join(
        f"{torch.get_autocast_dtype(kind)} on {kind}"
        for kind in ("cpu", "cuda")
        if torch.is_autocast_enabled(kind)
    )
