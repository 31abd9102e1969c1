"""Pools: callables applied to a layer's output before it is binarized.

A pool gets the layer's raw output, batch dimension first. Parameters after the first
are filled by name from the model's own arguments, so that ``last_token`` sees the
``attention_mask`` that the model saw; ``axes`` is filled with what the axes of the
layer's output mean, a `captum_rdr.axes.LayerAxes`.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from captum_rdr.axes import LayerAxes

Pool = Callable[..., Tensor]


def spatial_mean(output: Tensor, axes: LayerAxes | None = None) -> Tensor:
    """Mean over the spatial positions of each channel.

    Args:
        output: shape ``(B, C, *spatial)``, or what ``axes`` say, with one spatial
            dimension or more.
        axes: those of the output, which the layer fills in: channels may come last, and
            tokens are positions, class and register tokens left out.

    Returns:
        shape ``(B, C)``.

    Raises:
        ValueError: there is no spatial dimension.

    >>> spatial_mean(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]))
    tensor([[2., 5.]])
    """
    return _positions(output, axes, "spatial_mean").mean(-1)


def spatial_max(output: Tensor, axes: LayerAxes | None = None) -> Tensor:
    """Maximum over the spatial positions of each channel.

    Args:
        output: shape ``(B, C, *spatial)``, or what ``axes`` say, with one spatial
            dimension or more.
        axes: those of the output, which the layer fills in: channels may come last, and
            tokens are positions, class and register tokens left out.

    Returns:
        shape ``(B, C)``.

    Raises:
        ValueError: there is no spatial dimension.

    >>> spatial_max(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]]))
    tensor([[3., 5.]])
    """
    return _positions(output, axes, "spatial_max").amax(-1)


def class_token(output: Tensor) -> Tensor:
    """First token of each sequence, where transformers of the BERT and ViT kind put it.

    Args:
        output: shape ``(B, T, E)``.

    Returns:
        shape ``(B, E)``.

    Raises:
        ValueError: the output is not a batch of token sequences.

    >>> class_token(torch.arange(6.0).reshape(1, 3, 2))
    tensor([[0., 1.]])
    """
    return _tokens(output, "class_token")[:, 0]


def last_token(output: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Last token of each sequence that is not padding.

    A decoder that pads on the left needs ``position_ids`` with its inputs, such as
    ``(attention_mask.cumsum(-1) - 1).clamp(min=0)``: else it counts padding, too.

    Args:
        output: shape ``(B, T, E)``.
        attention_mask: shape ``(B, T)``, non-zero where a token is not padding, which
            may stand on either side; None when nothing is padded.

    Returns:
        shape ``(B, E)``.

    Raises:
        ValueError: a shape is wrong, or a sequence is all padding.

    >>> last_token(torch.arange(6.0).reshape(1, 3, 2), torch.tensor([[1, 1, 0]]))
    tensor([[2., 3.]])
    """
    tokens = _tokens(output, "last_token")
    if attention_mask is None:
        return tokens[:, -1]
    attended = _attended(tokens, attention_mask)
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    last = (attended * positions).amax(1)
    return tokens[torch.arange(len(tokens), device=tokens.device), last]


def token_mean(output: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    """Mean of each sequence's tokens that are not padding.

    Args:
        output: shape ``(B, T, E)``.
        attention_mask: shape ``(B, T)``, non-zero where a token is not padding; None
            when nothing is padded.

    Returns:
        shape ``(B, E)``.

    Raises:
        ValueError: a shape is wrong, or a sequence is all padding.

    >>> token_mean(torch.arange(6.0).reshape(1, 3, 2), torch.tensor([[1, 1, 0]]))
    tensor([[1., 2.]])
    """
    tokens = _tokens(output, "token_mean")
    if attention_mask is None:
        return tokens.mean(1)
    attended = _attended(tokens, attention_mask).unsqueeze(-1)
    # Padding may hold anything, NaN too, so it is replaced rather than multiplied.
    return tokens.where(attended, 0).sum(1) / attended.sum(1)


def _positions(output: Tensor, axes: LayerAxes | None, pool: str) -> Tensor:
    """Channels by position, ``(B, C, P)``."""
    if output.dim() < 3 or (axes is not None and axes.channel_axis is None):
        raise ValueError(
            f"{pool} needs an output of shape (B, C, *spatial), got {tuple(output.shape)} "
            f"with axes={axes}; leave pool out for a layer without positions"
        )
    return output.flatten(2) if axes is None else axes.arranged(output)[0].flatten(2)


def _tokens(output: Tensor, pool: str) -> Tensor:
    if output.dim() != 3:
        raise ValueError(
            f"{pool} needs an output of shape (B, T, E), got {tuple(output.shape)}; "
            "choose a layer that puts out token sequences"
        )
    return output


def _attended(tokens: Tensor, attention_mask: Tensor) -> Tensor:
    attended = attention_mask.to(tokens.device) != 0
    shape = tokens.shape[:2]
    if attended.shape != shape or not bool(attended.any(1).all()):
        raise ValueError(
            f"attention_mask has shape {tuple(attended.shape)}, or a sequence that is all "
            f"padding; give one of shape {tuple(shape)}, with a token in each sequence"
        )
    return attended
