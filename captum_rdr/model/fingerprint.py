"""Tell whether a bank belongs to a model and layer."""

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import chain

import torch
from torch import Tensor
from torch.nn import Module

from captum_rdr.model.hooks import raw_bytes
from captum_rdr.model.reader import LayerReader
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
        digest.update(f"{_plain(name)} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(raw_bytes(tensor).cpu().numpy().data)
    return digest.hexdigest()


class Fingerprints:
    """Tell whether banks belong to a model and its layers as they are now.

    Args:
        reader: what turns an input into the layers' activations.
        force: accept any bank.

    >>> net = torch.nn.Linear(2, 2)
    >>> prints = Fingerprints(LayerReader(net, [net], None, [None], None))
    >>> [len(one) for one in prints.now(attribute_to_layer_input=False)]
    [64]
    """

    def __init__(self, reader: LayerReader, *, force: bool = False) -> None:
        self._reader, self._force = reader, force
        self._accepted: Versions | None = None

    def versions(self) -> "Versions":
        """A cheap token that changes when a parameter or buffer is written.

        A write through ``parameter.data`` does not change it.
        """
        return tuple(
            (id(tensor), _address(tensor), _version(tensor))
            for _, tensor in _named_tensors(self._reader.modules)
        )

    def now(self, attribute_to_layer_input: bool) -> list[str]:
        """Digest, for each layer, all that turns an input into its activations.

        That is the weights, the layer's name, its pool, ``call_index`` and whether its
        input is read.
        """
        reader = self._reader
        weights = weights_digest(reader.modules)
        how = [reader.call_index, attribute_to_layer_input]
        parts = [
            [weights, _plain(name), _pool_name(pool), *how]
            for name, pool in zip(reader.names, reader.pools, strict=True)
        ]
        return [hashlib.sha256(json.dumps(part).encode()).hexdigest() for part in parts]

    def accept(self, versions: "Versions") -> None:
        """Take it that the banks belong to the model of these versions."""
        self._accepted = versions

    def check(self, stored: Sequence[str], attribute_to_layer_input: bool) -> None:
        """Refuse banks of another model, another layer or another way to read it.

        Digests the weights only if one was written since banks were last accepted.

        Args:
            stored: each bank's fingerprint, empty where it is unknown.
            attribute_to_layer_input: whether the banks are of the layers' inputs.

        Raises:
            ValueError: a bank has another fingerprint.
        """
        if self._force:
            return
        versions = self.versions()
        if versions == self._accepted:
            return
        prints = self.now(attribute_to_layer_input)
        for name, was, now in zip(self._reader.names, stored, prints, strict=True):
            if was not in ("", now):
                raise ValueError(
                    f"the bank of layer {name!r} has fingerprint {was[:12]}..., but "
                    f"model and layer now have {now[:12]}...: weights, layer, pool or "
                    "call_index differ; fit again, load the weights that the bank was "
                    "made with, or pass force=True if the states are known to be the "
                    "same"
                )
        self.accept(versions)


Versions = tuple[tuple[int, int, int], ...]


def _address(tensor: Tensor) -> int:
    return tensor.data_ptr() if tensor.layout == torch.strided else 0


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _plain(name: str) -> str:
    """A qualified name without what DataParallel and torch.compile put before it."""
    parts = name.split(".")
    while parts and parts[0] in ("module", "_orig_mod"):
        parts = parts[1:]
    return ".".join(parts)


def _named_tensors(modules: Iterable[Module]) -> Iterable[tuple[str, Tensor]]:
    for module in modules:
        yield from chain(module.named_parameters(), module.named_buffers())


def _pool_name(pool: Pool | None) -> str:
    if pool is None:
        return ""
    if isinstance(pool, functools.partial):
        return (
            f"{_pool_name(pool.func)}({pool.args!r}, {sorted(pool.keywords.items())!r})"
        )
    named = pool if hasattr(pool, "__qualname__") else type(pool)
    return f"{named.__module__}.{named.__qualname__}"
