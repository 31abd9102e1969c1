"""The concept of a region as a differentiable function of the input."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_rdr.bank import ConfigurationBank
from captum_rdr.batches import input_arguments
from captum_rdr.reading import LayerReader
from captum_rdr.region import Region


def concept_score(
    reader: LayerReader,
    bank: ConfigurationBank,
    region: Region,
    attribute_to_layer_input: bool,
) -> Callable[..., Tensor]:
    """A forward function that gives each input's mean signed margin.

    See `captum_rdr.RelaxedDecisionRegion.concept_score`.

    Args:
        reader: reads the one layer of the region.
        bank: that layer's bank, which has the thresholds.
        region: the region.
        attribute_to_layer_input: whether the layer's input is read.

    Raises:
        ValueError: region and bank are of different layers, or the region has no
            principal neuron.
    """
    if region.layer_shape != bank.layer_shape:
        raise ValueError(
            f"region belongs to a layer of shape {tuple(region.layer_shape)}, the bank "
            f"to {tuple(bank.layer_shape)}; pass a region of this layer"
        )
    if not len(region.neurons):
        raise ValueError("region has no principal neuron; lower n_neighbors")
    signs = torch.where(region.states, 1.0, -1.0)
    all_thresholds = bank.threshold.expand(bank.n_neurons)
    thresholds = all_thresholds[region.neurons]

    def margins(index: int, activations: Tensor) -> tuple[Tensor, ...]:
        picked = activations.flatten(1)[:, region.neurons.to(activations.device)]
        return ((picked - thresholds.to(picked)) * signs.to(picked),)

    def score(*inputs: Any) -> Tensor:
        """Mean signed margin ``(B,)`` of the principal neurons."""
        arguments = input_arguments(inputs, None)
        with reader.reading(
            margins, attribute_to_layer_input=attribute_to_layer_input, gradients=True
        ) as read:
            ((found,),) = read(arguments, "inputs", leave_early=True)
        return found.mean(1)

    return score
