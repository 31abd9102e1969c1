"""Tell whether a bank belongs to a model and layer as they are now."""

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from torch import Tensor
from torch.nn import Module

from captum_rdr.model.hooks import raw_bytes
from captum_rdr.model.probe import FittedLayer, read_sampled
from captum_rdr.model.reader import LayerReader
from captum_rdr.model.signature import Walk
from captum_rdr.pooling import Pool

_HOW = 8  # digits of a fingerprint that tell the way in which the layer is read


def weights_digest(modules: Iterable[Module]) -> str:
    """Digest of every parameter and buffer: names, dtypes, shapes and values.

    Of weights on "meta" the values are not known.

    Args:
        modules: the model, or the layers alone where the model is unknown.

    Returns:
        64 hexadecimal digits.

    >>> import torch
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
        if not tensor.is_meta:
            # A copy, since NumPy makes memory that it has seen impossible to resize.
            digest.update(raw_bytes(tensor).to("cpu", copy=True).numpy().data)
    return digest.hexdigest()


class Fingerprints:
    """Tell whether banks belong to a model and its layers as they are now.

    That is so when the model gives the states that the bank holds. It is run on the
    bank's probe when the bank is first used, and whenever a cheap look (`Walk`) at all
    that a forward pass depends on has changed. A bank without one belongs to the model
    of the same fingerprint.

    Args:
        reader: what turns an input into the layers' activations.

    >>> from torch import nn
    >>> net = nn.Linear(2, 2)
    >>> prints = Fingerprints(LayerReader(net, [net], None, [None], None))
    >>> [len(one) for one in prints.now(attribute_to_layer_input=False)]
    [64]
    """

    def __init__(self, reader: LayerReader) -> None:
        self._reader = reader
        self._accepted: tuple[list[Any], list[Any]] | None = None
        # Since a first pass may make buffers, the model that was just fitted has two.
        self._own: list[str] = []

    def _walk(self) -> Walk:
        """A look at all that a forward pass depends on."""
        reader = self._reader
        return Walk([reader.forward_func, *reader.layers, *reader.pools])

    def now(self, attribute_to_layer_input: bool) -> list[str]:
        """Digest, for each layer, all that is known to turn an input into its activations.

        That is the weights, the layer's name, its pool, ``call_index`` and whether its
        input is read.
        """
        reader = self._reader
        weights = weights_digest(reader.modules)[_HOW:]
        prints = []
        for name, pool in zip(reader.names, reader.pools, strict=True):
            how = [_plain(name), _pool_name(pool)]
            how += [str(reader.call_index), str(attribute_to_layer_input)]
            digest = hashlib.sha256(json.dumps(how).encode()).hexdigest()
            prints.append(digest[:_HOW] + weights)
        return prints

    def accept(self, prints: list[str]) -> None:
        """Take it that banks of these fingerprints belong to the model as it is now."""
        self._keep(self._walk())
        self._own = prints

    def _keep(self, walk: Walk) -> None:
        self._accepted = walk.values, walk.hooks

    def check(self, banks: Sequence[FittedLayer], without_hooks: bool = False) -> None:
        """Refuse banks of another model, another layer or another way to read it.

        Args:
            banks: one for each layer.
            without_hooks: whether hooks may be on it that were not there before, as
                those of an attribution that calls this in its forward passes.

        Raises:
            ValueError: a bank belongs to something else.
        """
        walk, is_altered = self._walk(), False
        if self._accepted is not None:
            values, hooks = self._accepted
            is_altered = without_hooks and hooks != walk.hooks
            if values == walk.values and (without_hooks or hooks == walk.hooks):
                return
        is_altered |= walk.is_clamped
        prints = self.now(banks[0].attribute_to_layer_input)
        for index, (bank, now) in enumerate(zip(banks, prints, strict=True)):
            what = bank.fingerprint and self._change(index, bank, now, is_altered)
            if what:
                raise ValueError(
                    f"the bank of layer {self._reader.names[index]!r} is out of date: "
                    f"{what}; it has fingerprint {bank.fingerprint[:12]}..., but model "
                    f"and layer now have {now[:12]}...; fit again, restore weights, "
                    "hooks and pool, or pass force=True if the states are the same"
                )
        if not walk.is_clamped:
            self._keep(self._walk())

    def _change(
        self, index: int, bank: FittedLayer, now: str, is_altered: bool
    ) -> str | None:
        """How a layer is another than the bank's, None if it is not."""
        probe = bank.probe
        same_weights = now in [bank.fingerprint, *self._own[index : index + 1]]
        if probe is None or is_altered:
            return None if same_weights else "weights, layer, pool or call_index differ"
        if bank.fingerprint[:_HOW] != now[:_HOW]:
            return "layer, pool or call_index differ"
        reader, to_input = self._reader.only(index), bank.attribute_to_layer_input
        try:
            (found,) = read_sampled(reader, probe.arguments, to_input)
        except Exception as error:
            what = f"the model fails on the bank's first instances ({error})"
            return None if same_weights else what
        if found.shape != probe.activations.shape:
            return f"the layer's shape is another than {tuple(bank.layer_shape)}"
        return probe.difference(found, bank.threshold, same_weights)


def _plain(name: str) -> str:
    """A qualified name without what DataParallel and torch.compile put before it."""
    return re.sub(r"^((module|_orig_mod)(\.|$))+", "", name)


def _named_tensors(modules: Iterable[Module]) -> Iterator[tuple[str, Tensor]]:
    for module in modules:
        yield from chain(module.named_parameters(), module.named_buffers())
        for name, packed in module.state_dict().items():  # as quantized layers have
            for number, one in enumerate(packed if isinstance(packed, tuple) else ()):
                if isinstance(one, Tensor):
                    yield f"{name}.{number}", one


def _pool_name(pool: Pool | None) -> str:
    if pool is None:
        return ""
    if isinstance(pool, functools.partial):
        given = f"{pool.args!r}, {sorted(pool.keywords.items())!r}"
        return f"{_pool_name(pool.func)}({given})"
    named = pool if hasattr(pool, "__qualname__") else type(pool)
    return f"{named.__module__}.{named.__qualname__}"
