"""Where a network's stages begin, and which layer of each shows neurons' states."""

import math
from collections.abc import Mapping, Sequence
from itertools import takewhile

from captum_rdr.zoo.tracing import Traced


class Architecture:
    """A traced network as units (blocks, and layers outside of blocks) in order.

    Args:
        traced: what `captum_rdr.zoo.tracing.trace` gave, with the kinds that
            `captum_rdr.zoo.kinds.tell_kinds` told.
        usable: the layers that fired once and gave a tensor, batch first, in order.

    Attributes:
        stages: runs of layers at one resolution whose sign is a state, in calling order.
        recommended: the layer that stands for each.
    """

    def __init__(self, traced: Mapping[str, Traced], usable: Sequence[Traced]) -> None:
        self._traced = traced
        self._fed = [entry for entry in usable if entry.feeds is not None]
        self._holders = {
            outer.name
            for entry in traced.values()
            if entry.kind == "block"
            for outer in self._around(entry)[:-1]
        }
        called = [one for one in traced.values() if one.is_leaf and one.calls]
        paths = [entry.name.split(".") for entry in called]
        shared = takewhile(lambda parts: len({*parts}) == 1, zip(*paths, strict=False))
        self._depth = len(list(shared))  # of the module around all
        self.stages: list[list[Traced]] = []
        for entry in self._deciding(usable):
            if self.stages and self._goes_on(self.stages[-1], entry):
                self.stages[-1].append(entry)
            else:
                self.stages.append([entry])
        self.recommended = [self._recommended(stage) for stage in self.stages]

    def stage_of(self, entry: Traced) -> int | None:
        """Index of the stage at the layer's resolution that is nearest to it."""
        if not entry.n_positions or self._is_aside(entry):
            return None
        near = [
            (min(abs(entry.order - other.order) for other in stage), index)
            for index, stage in enumerate(self.stages)
            if self._place(stage[0]) == self._place(entry)
        ]
        return min(near)[1] if near else None

    def _goes_on(self, stage: Sequence[Traced], entry: Traced) -> bool:
        """Whether a layer belongs to a stage that has begun.

        A new one begins where the number of positions changes, or where another child
        of the root begins that holds several units.
        """
        tops = {self._top(one) for one in (*stage, entry)} - {None}
        return len(tops) < 2 and self._place(stage[0]) == self._place(entry)

    def _top(self, entry: Traced) -> Traced | None:
        """The root's child around a layer, or None where that is a single layer."""
        top = self._around(entry)[: self._depth + 1][-1]
        return None if top.is_leaf or top.kind else top

    def _deciding(self, usable: Sequence[Traced]) -> list[Traced]:
        """Layers whose sign is a state, off side paths, heads and class scores.

        A head is what follows a global pooling, if it all has one position.
        """
        found = [
            entry
            for entry in usable
            if entry.n_positions
            and entry.decides
            and not self._is_aside(entry)
            and not self._is_score(entry)
        ]
        mapped = [entry for entry in found if len(entry.shape or ()) > 2]
        pools = [one for one in self._traced.values() if one.pools_all]
        pooled = max(
            (one.order for one in pools if not self._blocks_around(one)),
            default=math.inf,
        )
        if all(one.n_positions == 1 for one in mapped if one.order > pooled):
            mapped = [one for one in mapped if one.order < pooled]
        return mapped or found

    def _recommended(self, layers: Sequence[Traced]) -> Traced:
        """The layer that stands for the last unit of a stage."""
        units = {entry.name: self._unit(entry) for entry in layers}
        last = max(units.values(), key=lambda unit: unit.order)
        inside = [entry for entry in layers if units[entry.name] is last]
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
        if entry.kind == "activation":  # goes with what it takes
            entry = self._before_gate(entry, self._fed)
        for outer in self._around(entry):  # as one inside a norm does
            if outer.kind == "normalization":
                entry = outer
        block = next((b for b in self._blocks_around(entry) if b.n_positions), entry)
        is_norm = entry.kind == "normalization"
        return (
            entry if is_norm and entry.decides and block.name in entry.enters else block
        )

    def _place(self, entry: Traced) -> int:
        return self._unit(entry).n_positions

    def _is_aside(self, entry: Traced) -> bool:
        """Whether a layer works at a lower resolution than what is made of it.

        Such are squeeze-and-excitation and other pooled branches.
        """
        around = self._around(entry)
        wider = [outer for outer in around if outer.n_positions > entry.n_positions]
        return any(
            one.kind == "block" or one.name not in self._holders for one in wider
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

    def _blocks_around(self, entry: Traced) -> list[Traced]:
        return [outer for outer in self._around(entry) if outer.kind == "block"]
