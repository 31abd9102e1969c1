"""The concept of a region as a differentiable function of the input."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_rdr.model.inputs import input_arguments
from captum_rdr.model.reader import LayerReader
from captum_rdr.model.states import FittedLayer, check_shape

_FLAT = (
    "all principal neurons must be inactive, and nothing in the layer lies below its "
    "threshold, as behind a ReLU: the score is 0 and flat wherever they are; explain the "
    "layer before the nonlinearity, or what it takes in, with fit(..., "
    "attribute_to_layer_input=True)"
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

    def keep(index: int, activations: Tensor) -> tuple[Tensor, ...]:
        check_shape(activations, fitted.layer_shape, reader.names[index])
        return (activations.clone(),)

    def score(*inputs: Any, **keywords: Any) -> Tensor:
        """Mean signed margin ``(B,)`` of the principal neurons."""
        to_input = fitted.attribute_to_layer_input
        check(to_input)
        given = input_arguments(inputs[0] if len(inputs) == 1 else inputs, None)
        arguments = given._replace(kwargs={**given.kwargs, **keywords})
        with reader.reading(
            keep, attribute_to_layer_input=to_input, gradients=True
        ) as read:
            # To its end: attributions to later layers and checkpointing need that.
            ((activations,),) = read(arguments, "inputs", leave_early=False)
        # Copies, as tensors made in inference mode cannot take part in a backward pass.
        picked = activations.flatten(1)[:, neurons.clone().to(activations.device)]
        every = fitted.threshold.expand(fitted.layer_shape.numel())
        thresholds = every[neurons].clone().to(picked)
        if not states.any() and not bool(
            (activations.flatten(1) < every.to(picked)).any()
        ):
            warnings.warn(_FLAT, UserWarning, stacklevel=2)
        signs = torch.where(states, 1.0, -1.0).clone().to(picked)
        return ((picked - thresholds) * signs).mean(1)

    return score
