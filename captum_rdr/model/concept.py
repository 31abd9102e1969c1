"""The concept of a region as a differentiable function of the input."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.model.inputs import ForwardArguments, input_arguments
from captum_rdr.model.reader import LayerReader


def concept_score(
    reader: LayerReader,
    bank: ConfigurationBank,
    region: Region,
    check: Callable[[], object],
) -> Callable[..., Tensor]:
    """Make a forward function that gives each input's mean signed margin.

    See `captum_rdr.RelaxedDecisionRegion.concept_score`.

    Args:
        reader: reads the one layer of the region.
        bank: that layer's bank, which has the thresholds.
        region: the region.
        check: called before each forward pass; raises if the bank is out of date.

    Raises:
        ValueError: region and bank are of different layers, or the region has no
            principal neuron.
    """
    region.check_layer(bank.layer_shape, bank.fingerprint)
    if not len(region.neurons):
        raise ValueError("region has no principal neuron; lower n_neighbors")

    def keep(index: int, activations: Tensor) -> tuple[Tensor, ...]:
        check_shape(activations, bank.layer_shape, reader.names[index])
        return (activations.clone(),)

    def score(*inputs: Any, **keywords: Any) -> Tensor:
        """Mean signed margin ``(B,)`` of the principal neurons."""
        check()
        given = inputs[0] if len(inputs) == 1 else inputs
        args, kwargs = input_arguments(given, None)
        arguments = ForwardArguments(args, {**kwargs, **keywords})
        with reader.reading(
            keep,
            attribute_to_layer_input=bank.attribute_to_layer_input,
            gradients=True,
        ) as read:
            # To its end: attributions to later layers and checkpointing need that.
            ((activations,),) = read(arguments, "inputs", leave_early=False)
        return _mean_margin(activations, bank, region)

    return score


def _mean_margin(
    activations: Tensor, bank: ConfigurationBank, region: Region
) -> Tensor:
    # Copies, since tensors made in inference mode cannot take part in a backward pass.
    neurons = region.neurons.clone().to(activations.device)
    thresholds = bank.threshold.expand(bank.n_neurons)[region.neurons].clone()
    signs = torch.where(region.states, 1.0, -1.0).clone()
    picked = activations.flatten(1)[:, neurons]
    return ((picked - thresholds.to(picked)) * signs.to(picked)).mean(1)


def check_shape(activations: Tensor, shape: torch.Size, name: str) -> None:
    """Refuse activations of another shape than the bank's.

    Raises:
        ValueError: the shape differs.
    """
    if activations.shape[1:] != shape:
        raise ValueError(
            f"layer {name!r} gave shape {tuple(activations.shape[1:])} an instance, but "
            f"the bank holds {tuple(shape)}; give inputs of the size that was "
            "fitted"
        )
