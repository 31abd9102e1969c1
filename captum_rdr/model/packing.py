"""Tensors and values of JSON's types as bytes in the safetensors format."""

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
from torch import Tensor


def packed(tensors: Mapping[str, Tensor], fields: Any) -> bytes:
    """Tensors by name and values of JSON's types as the bytes of a file.

    >>> import torch
    >>> unpacked(packed({"x": torch.ones(2)}, {"y": 3}))
    ({'x': tensor([1., 1.])}, {'y': 3})
    """
    # The library takes no tensors that share memory.
    held = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    return safetensors.torch.save(held, {"captum_rdr": json.dumps(fields)})


def unpacked(data: bytes) -> tuple[dict[str, Tensor], Any]:
    """What `packed` made bytes of; any exception if they are something else."""
    tensors = safetensors.torch.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return tensors, json.loads(header["__metadata__"]["captum_rdr"])
