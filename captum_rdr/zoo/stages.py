"""Where a network's stages begin, and which layer of each shows neurons' states."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby

from captum_rdr.zoo.tracing import Traced


def blocks_of(traced: Mapping[str, Traced]) -> set[Traced]:
    """Modules of a class that stands several times in one place, and those beside.

    >>> import torch
    >>> from captum_rdr.zoo.tracing import example_arguments, trace
    >>> layer = torch.nn.TransformerEncoderLayer(4, 2, 4, batch_first=True)
    >>> net = torch.nn.TransformerEncoder(layer, 2)
    >>> traced = trace(net, example_arguments(net, (5, 4)))
    >>> sorted(block.name for block in blocks_of(traced))
    ['layers.0', 'layers.1']
    """
    held = [one for one in traced.values() if one.name and one.holds_layers]
    where = {one: one.name.rpartition(".")[0] for one in held}
    counts = Counter((where[one], type(one.module)) for one in held)
    repeated = {kind for (_, kind), count in counts.items() if count > 1}
    beside = {place for (place, _), count in counts.items() if count > 1}
    return {
        one
        for one in held
        if type(one.module) in repeated or (where[one] in beside and one.shape)
    }


class Architecture:
    """A traced network as units (blocks, and layers outside of blocks) in order.

    Args:
        traced: what `captum_rdr.zoo.tracing.trace` gave.
        usable: the modules that fired once and gave a tensor, batch first, in order.

    Attributes:
        stages: runs of layers at one resolution whose sign is a state, in calling order.
        recommended: the layer that stands for each.
    """

    def __init__(self, traced: Mapping[str, Traced], usable: Sequence[Traced]) -> None:
        self._traced, self._blocks = traced, blocks_of(traced)
        self._layers = [
            one for one in usable if one in self._blocks or not one.holds_layers
        ]
        self._holders = {
            outer for block in self._blocks for outer in self._around(block)[:-1]
        }
        self.stages = [[*run] for _, run in groupby(self._deciding(), self._place)]
        self.recommended = [self._recommended(stage) for stage in self.stages]

    def stage_of(self, entry: Traced) -> int | None:
        """Index of a layer's stage, None for one that has none."""
        return next((i for i, one in enumerate(self.stages) if entry in one), None)

    def _deciding(self) -> list[Traced]:
        """Layers whose sign is a state, off side paths, vectors and class scores."""
        known = [one for one in self._layers if one.n_positions and one.decides]
        inner = [one for one in known if not self._is_aside(one)]
        found = [one for one in inner if not self._is_score(one)]
        return [entry for entry in found if len(entry.shape or ()) > 2] or found

    def _recommended(self, layers: Sequence[Traced]) -> Traced:
        """The layer that stands for the last unit of a stage."""
        units = {entry: self._unit(entry) for entry in layers}
        last = max(units.values(), key=lambda unit: unit.order)
        inside = [entry for entry in layers if units[entry] is last]
        if last not in inside:  # in a block with a linear output: where it is widest
            level = [one for one in inside if one.n_positions == last.n_positions]
            last = max(level or inside, key=lambda one: (one.n_neurons, one.order))
        return self._before_gate(last, layers)

    def _before_gate(self, chosen: Traced, layers: Sequence[Traced]) -> Traced:
        """The layer whose output the chosen one's gate takes, or the chosen one.

        Both have the same states; before the gate inactive neurons have a gradient.
        """
        if chosen.gate is None:
            return chosen
        return next((one for one in layers if one.feeds == chosen.gate), chosen)

    def _unit(self, entry: Traced) -> Traced:
        """The outermost block around a layer, or the layer itself.

        A norm that a block begins with, as in pre-activation networks, belongs to what
        came before.
        """
        if entry.is_activation:  # goes with what it takes
            entry = self._before_gate(entry, self._layers)
        around = self._around(entry)
        entry = next((outer for outer in around if outer.is_norm), entry)  # within one
        blocks = (b for b in around if b in self._blocks and b.n_positions)
        block = next(blocks, entry)
        is_first = next(block.module.children(), None) is entry.module
        return entry if is_first and entry.is_norm and entry.decides else block

    def _place(self, entry: Traced) -> int:
        return self._unit(entry).n_positions

    def _is_aside(self, entry: Traced) -> bool:
        """Whether a layer works at a lower resolution than what is made of it.

        Such are squeeze-and-excitation and other pooled branches.
        """
        return any(
            outer.n_positions > entry.n_positions and outer not in self._holders
            for outer in self._around(entry)
        )

    def _is_score(self, entry: Traced) -> bool:
        """Whether a map has one channel for each number that the network returns."""
        root, shape = self._traced[""], entry.shape or ()
        if root.shape is None or len(root.shape) != 2 or len(shape) < 3:
            return False
        return entry.leaf is root.leaf and root.shape[1] in (shape[1], shape[-1])

    def _around(self, entry: Traced) -> list[Traced]:
        """The modules around a layer, but for the root, outermost first, and itself."""
        parts = entry.name.split(".")
        counts = range(1, len(parts) + 1)
        return [self._traced[".".join(parts[:count])] for count in counts]
