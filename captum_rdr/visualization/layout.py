"""The scores of a region's principal neurons, summed by place and by channel."""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from captum_rdr.method.region import Region

Floats = npt.NDArray[np.float64]


class NeuronLayout(NamedTuple):
    """Principal neurons by place and by channel.

    Attributes:
        active: summed scores of the neurons that must be active at each place,
            ``(H, W)``; None for a layer without places.
        inactive: the same of those that must be inactive.
        prefix: summed scores of tokens before the grid, active and inactive,
            ``(2, P)``.
        channels: summed scores of each channel, active and inactive, ``(2, C)``.
        unit: what a channel is called.
    """

    active: Floats | None
    inactive: Floats | None
    prefix: Floats
    channels: Floats
    unit: str


def neuron_layout(region: Region, grid: tuple[int, int] | None = None) -> NeuronLayout:
    """Sum the scores of a region's principal neurons by place and by channel.

    Args:
        region: its layer has shape ``(C, H, W)``; ``(T, E)``, tokens by features; or
            ``(D,)``.
        grid: height and width of the tokens' grid; tokens before it, the class token
            for one, stand apart. None for a square grid behind no or one such token,
            or else one row.

    Raises:
        ValueError: the layer has another shape, or the grid does not fit it.
    """
    shape = tuple(region.layer_shape)
    if len(shape) not in (1, 2, 3):
        raise ValueError(
            f"region's layer has shape {shape}; only channels with places (C, H, W), "
            "tokens (T, E) and vectors (D,) can be drawn: pool the layer, see "
            "captum_rdr.pooling"
        )
    if grid is not None and len(shape) != 2:
        raise ValueError(
            f"grid={grid} is for tokens (T, E), but the region's layer has shape {shape}"
            "; leave it out"
        )
    mask = region.mask().double()
    signed = torch.stack([mask.clamp(min=0), -mask.clamp(max=0)])
    none = np.zeros((2, 0))
    if len(shape) == 1:
        return NeuronLayout(None, None, none, signed.numpy(), "neuron")
    if len(shape) == 3:
        places = signed.sum(1).numpy()
        channels = signed.sum((2, 3)).numpy()
        return NeuronLayout(places[0], places[1], none, channels, "channel")
    height, width = grid or _token_grid(shape[0])
    n_prefix = shape[0] - height * width
    if min(height, width) < 1 or n_prefix < 0:
        raise ValueError(
            f"grid={grid} holds {height * width} tokens, but the layer has {shape[0]}; "
            "give a height and width whose product is no more"
        )
    tokens = signed.sum(2).numpy()
    active, inactive = tokens[:, n_prefix:].reshape(2, height, width)
    channels = signed.sum(1).numpy()
    return NeuronLayout(active, inactive, tokens[:, :n_prefix], channels, "feature")


def _token_grid(n_tokens: int) -> tuple[int, int]:
    """A square grid, behind a class token where that makes one; else one row."""
    for n_patches in (n_tokens - 1, n_tokens):
        side = math.isqrt(n_patches)
        if side > 1 and side * side == n_patches:
            return side, side
    return 1, n_tokens
