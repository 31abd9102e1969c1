"""A tensor's values as bytes, whatever its layout."""

import torch
from torch import Tensor


def raw_bytes(tensor: Tensor) -> Tensor:
    """Flat uint8 tensor of a tensor's values, on the same device.

    Bytes compare equal where NaN values do not. A sparse tensor gives its indices and
    values, a quantized one its whole numbers.

    >>> raw_bytes(torch.tensor([1, 256], dtype=torch.int16)).tolist()
    [1, 0, 0, 1]
    """
    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        entries = tensor.to_sparse().coalesce()
        return torch.cat([raw_bytes(entries.indices()), raw_bytes(entries.values())])
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    if tensor.numel() == 0:
        return torch.empty(0, dtype=torch.uint8, device=tensor.device)
    dense = tensor.resolve_conj().resolve_neg().contiguous()
    return dense.reshape(-1).view(torch.uint8)
