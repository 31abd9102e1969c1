"""The concept of a region as a differentiable function of the input."""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules import module as every_module
from torch.utils import checkpoint

from captum_rdr.model.hooks import add_hook, undoing
from captum_rdr.model.inputs import input_arguments
from captum_rdr.model.probe import FittedLayer
from captum_rdr.model.reader import LayerReader
from captum_rdr.model.states import check_shape


@contextmanager
def _refusing_to_train(modules: Sequence[Module]) -> Iterator[None]:
    """Refuse a pass that would run again, in training mode, when gradients are taken."""
    inner = [one for module in modules for one in module.modules()]
    is_training = any(getattr(one, "training", False) for one in inner)
    checkpointed: list[Module] = []

    def look(module: Module, _: Any) -> None:
        frame: FrameType | None = sys._getframe()
        while frame is not None and not checkpointed:
            if frame.f_code.co_filename == checkpoint.__file__:
                checkpointed.append(module)
            frame = frame.f_back

    with undoing() as undo:
        add_hook(every_module._global_forward_pre_hooks, look, undo)
        yield
    if checkpointed and is_training:
        raise ValueError(
            "the model checkpoints gradients, which would run it again in training mode; "
            "call .eval() on it first, or turn checkpointing off"
        )


def concept_score(
    reader: LayerReader,
    fitted: FittedLayer,
    neurons: Tensor,
    states: Tensor,
    check: Callable[[bool], object],
) -> Callable[..., Tensor]:
    """Make a forward function that gives each input's mean signed margin.

    See `captum_rdr.RelaxedDecisionRegion.concept_score`.

    Args:
        reader: reads the one layer of the region.
        fitted: that layer, with its thresholds.
        neurons: int64 ``(t,)``, the region's principal neurons.
        states: bool ``(t,)``, their states.
        check: called before each forward pass with whether the layer's input is read;
            raises if the bank is out of date.

    Raises:
        ValueError: there is no principal neuron.
    """
    if not len(neurons):
        raise ValueError("region has no principal neuron; lower n_neighbors")
    to_input, size = fitted.attribute_to_layer_input, fitted.layer_shape.numel()

    def keep(index: int, activations: Tensor) -> tuple[Tensor, ...]:
        check_shape(activations, fitted.layer_shape, reader.names[index])
        return (activations.clone(),)

    def score(*inputs: Any, **keywords: Any) -> Tensor:
        """Mean signed margin ``(B,)`` of the principal neurons."""
        check(to_input)
        given = input_arguments(inputs[0] if len(inputs) == 1 else inputs, None)
        arguments = given._replace(kwargs={**given.kwargs, **keywords})
        reading = reader.reading(keep, to_input, gradients=True)
        with _refusing_to_train(reader.modules), reading as read:
            # To its end: attributions to later layers and checkpointing need that.
            ((activations,),) = read(arguments, "inputs", leave_early=False)
        # Copies, as tensors made in inference mode cannot take part in a backward pass.
        flat = activations.flatten(1)
        picked = flat[:, neurons.clone().to(flat.device)]
        every = fitted.threshold.expand(size).clone()
        if not states.any() and not bool((flat < every.to(flat)).any()):
            warnings.warn(
                "all principal neurons must be inactive, and nothing lies below its "
                "threshold, as behind a ReLU: the score is flat wherever it is 0; explain "
                "the layer's input, with fit(..., attribute_to_layer_input=True)",
                UserWarning,
                stacklevel=2,
            )
        signs = torch.where(states, 1.0, -1.0).clone().to(picked)
        return ((picked - every[neurons].to(picked)) * signs).mean(1)

    return score
