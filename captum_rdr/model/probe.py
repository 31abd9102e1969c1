"""Reference instances that show whether a model still gives a bank's states."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from captum_rdr.model.inputs import ForwardArguments
from captum_rdr.model.packing import packed, unpacked
from captum_rdr.model.reader import LayerReader
from captum_rdr.model.signature import autocast_now
from captum_rdr.model.states import binarize, feature_dtype

_MOST_NEURONS = 4096
# Parts of the activations' root mean square: what other weights may change, and what
# another batch size, device or number of threads may change with the same weights.
_EQUAL, _ROUNDING = 1e-4, 1e-2


@dataclass(frozen=True, eq=False)
class Probe:
    """A few reference instances, and what the layer gave for them.

    Attributes:
        arguments: the forward arguments, on the CPU.
        activations: float ``(n, D')``, those of at most 4,096 neurons.
        autocast: dtype of the autocast in which the bank was made, empty for none.
    """

    arguments: ForwardArguments
    activations: Tensor
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
        fields = [values, self.autocast]
        held = packed({**tensors, "activations": self.activations}, fields)
        return torch.frombuffer(bytearray(held), dtype=torch.uint8)

    @staticmethod
    def unpacked(held: Tensor) -> "Probe":
        """What `packed` gave; any exception if it is something else."""
        tensors, (values, autocast) = unpacked(held.numpy().tobytes())
        named = {name: tensors.get(name, value) for name, value in values.items()}
        args = tuple(value for name, value in named.items() if name[0] != "=")
        kwargs = {name[1:]: one for name, one in named.items() if name[0] == "="}
        arguments = ForwardArguments(args, kwargs)
        return Probe(arguments, tensors["activations"], str(autocast))

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
        text = (
            f"activations and {int(flipped.sum())} of {flipped.numel()} states "
            f"({100 * flipped.double().mean():.1f} %) of the bank's first {count} "
            "instances are other ones now"
        )
        if self.autocast != autocast_now():
            text += f", and autocast was {self.autocast or 'off'} when it was made"
        return text


class FittedLayer(Protocol):
    """What is known of a layer once data was indexed; its bank is one."""

    layer_shape: torch.Size
    threshold: Tensor
    attribute_to_layer_input: bool
    fingerprint: str
    probe: Probe | None


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


def read_sampled(
    reader: LayerReader, arguments: ForwardArguments, to_input: bool
) -> list[Tensor]:
    """What `sampled` gives of each layer for the first instances.

    Args:
        reader: reads the layers.
        arguments: those of the instances.
        to_input: whether the layers' inputs are read.
    """
    with reader.reading(lambda _, output: (sampled(output),), to_input) as read:
        torch.rand(1)  # so that what is drawn at random is drawn anew
        found = read(arguments, "the first instances", leave_early=True)
    return [activations for (activations,) in found]
