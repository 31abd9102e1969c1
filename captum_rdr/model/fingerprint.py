"""Tell whether a bank belongs to a model and layer as they are now."""

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import Module

from captum_rdr.model.hooks import raw_bytes
from captum_rdr.model.probe import Probe, sampled
from captum_rdr.model.reader import LayerReader
from captum_rdr.model.signature import Signature, Walk
from captum_rdr.pooling import Pool


class ProbedLayer(Protocol):
    """What a bank knows of the model that it belongs to."""

    layer_shape: torch.Size
    threshold: Tensor
    attribute_to_layer_input: bool
    fingerprint: str
    probe: Probe | None


class Print(NamedTuple):
    """What identifies a layer.

    Attributes:
        whole: digest of weights, layer and the way in which it is read.
        how: digest of the latter two.
    """

    whole: str
    how: str


def weights_digest(modules: Iterable[Module]) -> str:
    """Digest of every parameter and buffer: names, dtypes, shapes and values.

    Of weights on "meta" the values are not known.

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
        if not tensor.is_meta:
            # A copy, since NumPy makes memory that it has seen impossible to resize.
            digest.update(raw_bytes(tensor).to("cpu", copy=True).numpy().data)
    return digest.hexdigest()


class Fingerprints:
    """Tell whether banks belong to a model and its layers as they are now.

    That is so when the model gives the states that the bank holds. It is run on the
    bank's `Probe` when the bank is first used, and whenever a cheap `Signature` of all
    that a forward pass depends on has changed. A bank without one belongs to the model
    of the same fingerprint.

    Args:
        reader: what turns an input into the layers' activations.
        force: accept any bank.

    >>> net = torch.nn.Linear(2, 2)
    >>> prints = Fingerprints(LayerReader(net, [net], None, [None], None))
    >>> [len(one.whole) for one in prints.now(attribute_to_layer_input=False)]
    [64]
    """

    def __init__(self, reader: LayerReader, *, force: bool = False) -> None:
        self._reader, self._force = reader, force
        self._accepted: Signature | None = None
        # Since a first pass may make buffers, the model that was just fitted has two.
        self._own: list[str] = []

    def walk(self) -> Walk:
        """A look at all that a forward pass depends on."""
        reader = self._reader
        return Walk([reader.forward_func, *reader.layers, *reader.pools])

    def now(self, attribute_to_layer_input: bool) -> list[Print]:
        """Digest, for each layer, all that is known to turn an input into its activations.

        That is the weights, the layer's name, its pool, ``call_index`` and whether its
        input is read.
        """
        reader = self._reader
        weights = weights_digest(self._modules())
        how = [reader.call_index, attribute_to_layer_input]
        parts = [
            [_plain(name), _pool_name(pool), *how]
            for name, pool in zip(reader.names, reader.pools, strict=True)
        ]
        return [Print(_digest([weights, *part]), _digest(part)) for part in parts]

    def _modules(self) -> Sequence[Module]:
        """The model, also one that a function hides; else the layers."""
        reader = self._reader
        if reader.model is None:
            for module in self.walk().modules:
                held = {id(one) for one in module.modules()}
                if held.issuperset(map(id, reader.layers)) and len(held) > 1:
                    return [module]
        return reader.modules

    def begin(self, attribute_to_layer_input: bool) -> list[Print]:
        """What identifies the layers of banks that are to be made."""
        self._begun = self.walk().signature(), attribute_to_layer_input
        self._prints = self.now(attribute_to_layer_input)
        return self._prints

    def after_a_pass(self) -> list[Print]:
        """The same once the model has run, as a first pass may make buffers."""
        before, to_input = self._begun
        if self.walk().signature() != before:
            self._prints = self.now(to_input)
        return self._prints

    def accept(self) -> None:
        """Take it that the banks that were begun belong to the model as it is now."""
        self._accepted = self.walk().signature()
        self._own = [one.whole for one in self._prints]

    def check(
        self, banks: Sequence[ProbedLayer], *, without_hooks: bool = False
    ) -> None:
        """Refuse banks of another model, another layer or another way to read it.

        Args:
            banks: one for each layer.
            without_hooks: whether hooks may be on it that were not there before, as
                those of an attribution that calls this in its forward passes.

        Raises:
            ValueError: a bank belongs to something else.
        """
        if self._force:
            return
        walk = self.walk()
        signature, last = walk.signature(), self._accepted
        if signature == last:
            return
        if without_hooks and last is not None and signature.values == last.values:
            return
        others = without_hooks and last is not None and signature.hooks != last.hooks
        prints = self.now(banks[0].attribute_to_layer_input)
        for index, (bank, now) in enumerate(zip(banks, prints, strict=True)):
            if bank.fingerprint:
                self._check(index, bank, now, is_altered=walk.is_clamped or others)
        if not walk.is_clamped:
            self._accepted = self.walk().signature()

    def _check(
        self, index: int, bank: ProbedLayer, now: Print, is_altered: bool
    ) -> None:
        probe, was = bank.probe, bank.fingerprint
        known = [was, *self._own[index : index + 1], probe.fingerprint if probe else ""]
        what: str | None = None
        if probe is None or is_altered:
            if now.whole not in known:
                what = "weights, layer, pool or call_index differ"
        elif probe.how != now.how:
            what = "layer, pool or call_index differ"
        else:
            what = self._difference(index, bank, probe, now.whole in known)
        if what is not None:
            name = self._reader.names[index]
            is_other = f"has fingerprint {was[:12]}..., but model and layer now have"
            raise ValueError(
                f"the bank of layer {name!r} {is_other} {now.whole[:12]}...: {what}; fit "
                "again, load the weights and settings that the bank was made with, or "
                "pass force=True if the states are known to be the same"
                if now.whole not in known
                else f"the bank of layer {name!r} is out of date: {what}; fit again, "
                "give the model, its hooks and the pool back the settings that the bank "
                "was made with, or pass force=True to use the bank all the same"
            )

    def _difference(
        self, index: int, bank: ProbedLayer, probe: Probe, same_weights: bool
    ) -> str | None:
        """How the layer's states of the bank's first instances differ, None if not."""
        try:
            found = self.probed(probe, index, bank.attribute_to_layer_input)
        except Exception as error:
            what = f"the model fails on the bank's first instances ({error})"
            return None if same_weights else what
        if found.shape != probe.activations.shape:
            return f"the layer's shape is another than {tuple(bank.layer_shape)}"
        return probe.difference(found, bank.threshold, same_weights)

    def probed(
        self, probe: Probe, index: int, attribute_to_layer_input: bool
    ) -> Tensor:
        """What a layer gives for a probe's instances now, see `sampled`."""
        with self._reader.only(index).reading(
            lambda _, activations: (sampled(activations),),
            attribute_to_layer_input=attribute_to_layer_input,
        ) as read:
            ((activations,),) = read(
                probe.arguments, "the bank's first instances", leave_early=True
            )
        return activations


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _plain(name: str) -> str:
    """A qualified name without what DataParallel and torch.compile put before it."""
    parts = name.split(".")
    while parts and parts[0] in ("module", "_orig_mod"):
        parts = parts[1:]
    return ".".join(parts)


def _named_tensors(modules: Iterable[Module]) -> Iterable[tuple[str, Tensor]]:
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
        return (
            f"{_pool_name(pool.func)}({pool.args!r}, {sorted(pool.keywords.items())!r})"
        )
    named = pool if hasattr(pool, "__qualname__") else type(pool)
    return f"{named.__module__}.{named.__qualname__}"
