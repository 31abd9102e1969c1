"""The pool that suits a layer: one token of a sequence, floats of a quantized output."""

import torch
from torch import Tensor
from torch.nn import Module

from captum_rdr.model.hooks import recording
from captum_rdr.model.inputs import ForwardArguments
from captum_rdr.pooling import Pool, class_token, last_token, token_mean

_CLASS_TOKENS = ("class_token", "cls_token", "class_embedding", "cls_pos")


def dequantized(output: Tensor) -> Tensor:
    """Floating-point values of a quantized layer's output.

    Args:
        output: a quantized tensor.

    Returns:
        a tensor of the same shape, float32.

    >>> dequantized(torch.tensor([0.5])).dtype  # a float stays as it is
    torch.float32
    """
    return output.dequantize() if output.is_quantized else output


def token_pool(model: Module, layer: Module, arguments: ForwardArguments) -> Pool:
    """The pool that suits a layer that puts out token sequences.

    Text: `last_token` where the layer's first token does not see the last one (a
    decoder), else `class_token`. Images and clips: `class_token` where the model has a
    parameter of such a name, else `token_mean`.

    Args:
        model: the model that holds the layer; it runs twice on text.
        layer: the layer.
        arguments: what the model takes.
    """
    if "input_ids" in arguments.kwargs:
        return last_token if _is_causal(model, layer, arguments) else class_token
    names = (name.rpartition(".")[2] for name, _ in model.named_parameters())
    return class_token if any(name in _CLASS_TOKENS for name in names) else token_mean


def _is_causal(model: Module, layer: Module, arguments: ForwardArguments) -> bool:
    """Whether the layer's first token stays the same when the last input changes."""
    ids: Tensor = arguments.kwargs["input_ids"]
    other = ids.clone()
    other[:, -1] = torch.where(ids[:, -1] == 0, 1, 0)
    firsts = []
    with recording([layer], model=model) as record:
        for given in (ids, other):
            kwargs = {**arguments.kwargs, "input_ids": given}
            ((output,),) = record.run(
                model, *arguments.args, leave_early=False, **kwargs
            )
            firsts.append(output[:, 0])
    return bool(torch.allclose(firsts[0], firsts[1], rtol=1e-4, atol=1e-6))
