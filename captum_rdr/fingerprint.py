"""Tell whether a bank belongs to a model and layer."""

import hashlib
import json
from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor
from torch.nn import Module

from captum_rdr.pooling import Pool


def weights_digest(modules: Iterable[Module]) -> str:
    """Digest of every parameter and buffer: names, dtypes, shapes and values.

    Args:
        modules: the model, or the layers alone where the model is unknown.

    Returns:
        64 hexadecimal digits.

    >>> net = torch.nn.Linear(2, 2)
    >>> before = weights_digest([net])
    >>> with torch.no_grad():
    ...     _ = net.weight.add_(1)
    >>> weights_digest([net]) == before
    False
    """
    digest = hashlib.sha256()
    for name, tensor in _named_tensors(modules):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        digest.update(flat.cpu().numpy().data)
    return digest.hexdigest()


def fingerprint(
    weights: str,
    layer: str,
    pool: Pool | None,
    call_index: int | None,
    attribute_to_layer_input: bool,
) -> str:
    """Digest of all that turns an input into a layer's activations.

    Args:
        weights: the model's `weights_digest`.
        layer: the layer's qualified name.
        pool: the pool, known by its qualified name.
        call_index: which call of the layer.
        attribute_to_layer_input: whether its input is read.

    Returns:
        64 hexadecimal digits.
    """
    reading = [weights, layer, _pool_name(pool), call_index, attribute_to_layer_input]
    return hashlib.sha256(json.dumps(reading).encode()).hexdigest()


def versions(modules: Iterable[Module]) -> tuple[tuple[int, int, int], ...]:
    """A cheap token that changes when a parameter or buffer is written or replaced."""
    return tuple(
        (id(tensor), tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version)
        for _, tensor in _named_tensors(modules)
    )


def _named_tensors(modules: Iterable[Module]) -> Iterable[tuple[str, Tensor]]:
    for module in modules:
        yield from chain(module.named_parameters(), module.named_buffers())


def _pool_name(pool: Pool | None) -> str:
    if pool is None:
        return ""
    named = pool if hasattr(pool, "__qualname__") else type(pool)
    return f"{named.__module__}.{named.__qualname__}"
