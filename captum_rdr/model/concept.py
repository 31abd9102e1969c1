"""The concept of a region as a differentiable function of the input."""

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.modules import module as every_module
from torch.utils import checkpoint

from captum_rdr.model.hooks import remove_hook, undoing
from captum_rdr.model.inputs import ForwardArguments, input_arguments
from captum_rdr.model.reader import LayerReader
from captum_rdr.model.states import FittedLayer, check_shape

_FLAT = (
    "all principal neurons must be inactive, and nothing in the layer lies below its "
    "threshold, as behind a ReLU: the score is 0 and flat wherever they are; explain the "
    "layer before the nonlinearity, or what it takes in, with fit(..., "
    "attribute_to_layer_input=True)"
)


@contextmanager
def noticing_checkpoints() -> Iterator[list[str]]:
    """Fill the yielded list with modules that run in a checkpoint of PyTorch's."""
    found: list[str] = []

    def look(module: Module, _: Any) -> None:
        frame = sys._getframe()
        while frame.f_back is not None and not found:
            frame = frame.f_back
            if frame.f_code.co_filename == checkpoint.__file__:
                found.append(type(module).__name__)

    with undoing() as undo:
        everywhere = every_module._global_forward_pre_hooks
        undo.add(partial(remove_hook, everywhere, look))
        every_module.register_module_forward_pre_hook(look)
        yield found


def _depends_on_training(modules: Iterable[Module]) -> bool:
    """Whether one is in training mode and names that mode in its code."""
    every = [one for module in modules for one in module.modules()]
    return any(_names_training(cast(Any, type(one))) for one in every if one.training)


@functools.lru_cache(maxsize=4096)
def _names_training(kind: Any) -> bool:
    return any(
        "training" in function.__code__.co_names
        for one in kind.__mro__
        if one is not Module
        for function in vars(one).values()
        if inspect.isfunction(function)
    )


def _check_gradient(
    activations: Tensor, arguments: ForwardArguments, is_checkpointed: bool
) -> None:
    given = (*arguments.args, *arguments.kwargs.values())
    wanted = any(isinstance(one, Tensor) and one.requires_grad for one in given)
    if wanted and torch.is_grad_enabled() and not activations.requires_grad:
        why = (
            "it lies in a reentrant checkpoint; pass use_reentrant=False to the "
            "checkpoint, or turn checkpointing off"
            if is_checkpointed
            else "the model runs it without gradients; choose a layer that has them"
        )
        raise ValueError(f"the layer's output has no gradient: {why}")


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
        is_training = _depends_on_training(reader.modules)
        with (
            reader.reading(
                keep, attribute_to_layer_input=to_input, gradients=True
            ) as read,
            noticing_checkpoints() as found,
        ):
            # To its end: attributions to later layers and checkpointing need that.
            ((activations,),) = read(arguments, "inputs", leave_early=False)
        if found and is_training:
            raise ValueError(
                "the model is in training mode and checkpoints gradients, so it would "
                "run once more in training mode when gradients are taken; call .eval() "
                "on it first, or turn checkpointing off"
            )
        _check_gradient(activations, arguments, bool(found))
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
