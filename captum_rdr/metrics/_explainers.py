"""What metrics and discovery ask of an explainer: its banks, and its model's scores."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.model.hooks import hookable, same_random_state
from captum_rdr.model.inputs import ForwardArguments


def fitted_banks(
    rdr: RelaxedDecisionRegion, *, several: bool = False
) -> list[ConfigurationBank]:
    """The bank of an explainer of one layer, or those of a list of layers.

    Args:
        rdr: the explainer.
        several: whether it must explain a list of layers, and not one.

    Raises:
        TypeError: it is no explainer.
        ValueError: it explains another number of layers, or is not fitted.
    """
    if not isinstance(rdr, RelaxedDecisionRegion):
        raise TypeError(
            f"rdr is a {type(rdr).__name__}; give a fitted RelaxedDecisionRegion"
        )
    is_list = isinstance(rdr.layer, list)
    if is_list != several:
        explained = f"{len(rdr.layer)} layers" if is_list else "one layer"
        wanted = "one layer"
        if several:
            wanted = "a list of layers, e.g. [model.layer1, model.layer2]"
        raise ValueError(f"rdr explains {explained}; give an explainer of {wanted}")
    if rdr.bank is None:
        raise ValueError("rdr has no bank yet; call fit, or pass bank to it")
    return rdr.bank if several else [rdr.bank]


def class_scores(
    rdr: RelaxedDecisionRegion, batches: Sequence[ForwardArguments]
) -> Tensor:
    """What the model gives for each class, without gradients; it is left as found.

    Args:
        rdr: explainer of the model.
        batches: the inputs, some at a time.

    Returns:
        float32 ``(M, C)``.

    Raises:
        ValueError: the model gives something else than one number a class.

    >>> model = torch.nn.Dropout()
    >>> rdr = RelaxedDecisionRegion(model, model)
    >>> from captum_rdr.model.inputs import input_arguments
    >>> class_scores(rdr, [input_arguments(torch.ones(1, 2), None)])
    tensor([[1., 1.]])
    >>> model.training
    True
    """
    reader, scores = rdr.reader, []
    for one in batches:
        args, kwargs = one.to(reader.device)
        hooks = hookable(reader.layers, reader.model)
        with same_random_state(), hooks, torch.no_grad():
            output = rdr.forward_func(*args, **kwargs)
        scores.append(checked_scores(output, one.batch_size))
    return torch.cat(scores)


def checked_scores(output: Any, size: int) -> Tensor:
    """Class scores of so many inputs, as float32 on the CPU.

    Raises:
        ValueError: a forward function gave something else than one number a class.
    """
    shape = tuple(getattr(output, "shape", ()))
    if len(shape) != 2 or shape[0] != size:
        raise ValueError(
            f"forward_func gave {type(output).__name__} of shape {shape} for "
            f"{size} inputs; it must give class scores of shape "
            "(B, n_classes), e.g. lambda x: model(x).logits"
        )
    scores: Tensor = output.detach().float().cpu()
    return scores
