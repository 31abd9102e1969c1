"""States that a user passes, as packed rows."""

import numpy as np
import torch
from torch import Tensor

from captum_rdr import bits


def row_width(n_neurons: int) -> int:
    """Bytes of a row of the bank: whole 64-bit words.

    >>> row_width(12)
    8
    """
    return 8 * -(-n_neurons // 64)


def packed_rows(states: Tensor, layer_shape: torch.Size) -> bits.Bytes:
    """Instances as they lie in a bank: packed and padded with zeros to 64 bits.

    Args:
        states: bool ``(M, D)`` or ``(M, D1, ..., Dm)``, or packed uint8
            ``(M, ceil(D / 8))``; the first dimension may be missing.
        layer_shape: ``(D1, ..., Dm)``.

    Returns:
        uint8 array of shape ``(M, 8 * ceil(D / 64))``.

    Raises:
        TypeError: the dtype is neither bool nor uint8.
        ValueError: the shape does not fit, or a packed row has a bit set behind the
            last neuron.

    >>> packed_rows(torch.tensor([True, False, False, True]), torch.Size([4]))
    array([[9, 0, 0, 0, 0, 0, 0, 0]], dtype=uint8)
    """
    n_neurons = layer_shape.numel()
    states = torch.as_tensor(states).detach().cpu()
    if states.dtype not in (torch.bool, torch.uint8):
        raise TypeError(
            f"states has dtype {states.dtype}; give torch.bool states or packed "
            "torch.uint8 rows"
        )
    if not _fits(states, layer_shape):
        raise ValueError(
            f"states has shape {tuple(states.shape)} and dtype {states.dtype}, but the "
            f"layer needs bool (M, {n_neurons}) or packed uint8 "
            f"(M, {bits.row_bytes(n_neurons)}); take them from the same layer"
        )
    if states.dtype == torch.bool:
        packed = bits.pack(states.reshape(-1, n_neurons))
    else:
        packed = states.reshape(-1, states.shape[-1])
    spare = 8 * packed.shape[1] - n_neurons
    if spare and bool((packed[:, -1] >> (8 - spare)).any()):
        raise ValueError(
            f"states has bits set behind neuron {n_neurons - 1}; pack with "
            'numpy.packbits(..., bitorder="little")'
        )
    rows = np.zeros((len(packed), row_width(n_neurons)), np.uint8)
    rows[:, : packed.shape[1]] = packed.numpy()
    return rows


def is_single(states: Tensor, layer_shape: torch.Size) -> bool:
    """Whether states are those of one instance, without a first dimension.

    What could be a batch of one is taken as that.

    >>> is_single(torch.zeros(4, dtype=torch.bool), torch.Size([2, 2]))
    True
    """
    states = torch.as_tensor(states)
    if states.dtype == torch.uint8 or states.dim() == 1:
        return states.dim() == 1
    row_of_one = (1, layer_shape.numel())
    return states.shape == layer_shape and states.shape not in (row_of_one, (1,))


def checked_states(
    neurons: Tensor, states: Tensor, n_neurons: int
) -> tuple[bits.Ints, bits.Bools]:
    """Neurons and the states wanted of them, as arrays.

    Raises:
        ValueError: they differ in number, or an index is out of range.

    >>> checked_states(torch.tensor([3]), torch.tensor([True]), 4)
    (array([3]), array([ True]))
    """
    picked = torch.as_tensor(neurons, dtype=torch.int64).reshape(-1)
    wanted = torch.as_tensor(states, dtype=torch.bool).reshape(-1)
    if len(picked) != len(wanted):
        raise ValueError(
            f"{len(picked)} neurons but {len(wanted)} states; give one state each"
        )
    if len(picked) and not 0 <= picked.min() <= picked.max() < n_neurons:
        raise ValueError(
            f"neurons go from {int(picked.min())} to {int(picked.max())}, but the "
            f"layer's flat indices from 0 to {n_neurons - 1}"
        )
    return picked.numpy(), wanted.numpy()


def _fits(states: Tensor, layer_shape: torch.Size) -> bool:
    if states.dtype == torch.uint8:
        flat = bits.row_bytes(layer_shape.numel())
        return states.dim() in (1, 2) and states.shape[-1] == flat
    n_leading = 0 if is_single(states, layer_shape) else 1
    return states.shape[n_leading:] in (layer_shape, (layer_shape.numel(),))
