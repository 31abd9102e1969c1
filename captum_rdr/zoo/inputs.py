"""Inputs on which a model can be traced."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from captum_rdr.model.inputs import ForwardArguments, input_arguments

DEFAULT_SHAPE = (3, 224, 224)
"""Shape of an instance for a model that does not tell its own."""

_BATCH = 2  # tells a batch from a single instance
_TOKENS = 8


def example_arguments(model: Module, inputs: Any = None) -> ForwardArguments:
    """Forward arguments for a traced pass, on the model's device.

    Args:
        model: its first parameter tells device and dtype.
        inputs: a batch as `captum_rdr.RelaxedDecisionRegion.attribute` takes it, the
            shape of one instance, or None for what the model's configuration tells.

    Raises:
        TypeError: the inputs are of another kind.

    >>> net = torch.nn.Linear(4, 3)
    >>> example_arguments(net, (4,)).args[0].shape
    torch.Size([2, 4])
    """
    given = _configured(model) if inputs is None else inputs
    parameter = next(
        (one for one in model.parameters() if one.is_floating_point()), torch.empty(0)
    )
    if isinstance(given, (tuple, list)) and all(isinstance(n, int) for n in given):
        generator = torch.Generator().manual_seed(0)
        batch = torch.randn(_BATCH, *given, generator=generator)
        given = batch.to(parameter.dtype)
    return input_arguments(given, None).to(parameter.device)


def _configured(model: Module) -> Any:
    """A shape (timm, Hugging Face vision) or token ids (Hugging Face text)."""
    pretrained = getattr(model, "pretrained_cfg", None)
    if isinstance(pretrained, dict) and "input_size" in pretrained:
        return tuple(pretrained["input_size"])
    if isinstance(getattr(model, "image_size", None), int):  # torchvision's ViT
        return (3, model.image_size, model.image_size)
    config = getattr(model, "config", None)
    if isinstance(getattr(config, "image_size", None), int):
        side = config.image_size  # type: ignore[union-attr]
        return (getattr(config, "num_channels", 3), side, side)
    if isinstance(getattr(config, "vocab_size", None), int):
        return token_ids(config.vocab_size)  # type: ignore[union-attr]
    return DEFAULT_SHAPE


def token_ids(vocabulary: int) -> dict[str, Tensor]:
    """A batch of token ids and its attention mask, as Hugging Face's models take them.

    >>> token_ids(100)["input_ids"].shape
    torch.Size([2, 8])
    """
    ids = torch.arange(_BATCH * _TOKENS).reshape(_BATCH, _TOKENS) % vocabulary
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
