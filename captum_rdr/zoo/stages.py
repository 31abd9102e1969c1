"""Where a network's stages begin, and which layer of each shows neurons' states."""

from collections.abc import Iterator, Mapping, Sequence

from torch.nn import Module

from captum_rdr.zoo.kinds import ancestors, is_learned, n_positions
from captum_rdr.zoo.tracing import Traced


class Architecture:
    """A traced network as units (blocks, and layers outside of blocks) in order.

    Args:
        traced: what `captum_rdr.zoo.tracing.trace` gave.
        kinds: what `captum_rdr.zoo.kinds.kinds_of` made of it.
        usable: names of the layers that fired once and gave a tensor, batch first.

    Attributes:
        leaves: the layer with weights that made the values of each module's output, by
            name, where it is known.
        positions: spatial positions or tokens of each module's output, by name, where
            they are known.
        stages: runs of layers at one resolution whose sign is a state, in calling order.
        recommended: name of the layer that stands for each.
    """

    def __init__(
        self,
        traced: Mapping[str, Traced],
        kinds: Mapping[str, str],
        usable: Sequence[str],
    ) -> None:
        self._traced, self._kinds = traced, kinds
        self.leaves = _leaf_by_name(traced)
        self.positions = {
            name: n_positions(leaf, traced[name].shape or ())
            for name, leaf in self.leaves.items()
        }
        self._prefix = self._only_child()
        self._fed = [traced[name] for name in usable if traced[name].feeds is not None]
        self._last_learned = max(map(_order_if_learned, traced.values()), default=0)
        blocks = [name for name, kind in kinds.items() if kind == "block"]
        self._holding_blocks = {
            outer for name in blocks for outer in ancestors(name) if outer != name
        }
        self.stages: list[list[Traced]] = []
        for entry in self._deciding(usable):
            if self.stages and self._goes_on(self.stages[-1], entry):
                self.stages[-1].append(entry)
            else:
                self.stages.append([entry])
        self.recommended = [self._recommended(stage).name for stage in self.stages]

    def stage_of(self, name: str) -> int | None:
        """Index of the stage at the layer's resolution that is nearest to it."""
        if name not in self.positions or self._is_aside(name):
            return None
        entry = self._traced[name]
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
        tops = {self._top(one.name) for one in (*stage, entry)} - {None}
        return len(tops) < 2 and self._place(stage[0]) == self._place(entry)

    def _deciding(self, usable: Sequence[str]) -> list[Traced]:
        """Layers whose sign is a state, off side paths, heads and class scores."""
        found = [
            self._traced[name]
            for name in usable
            if name in self.positions
            and decides(self._traced[name])
            and not self._is_aside(name)
            and not self._is_score(name)
        ]
        mapped = [entry for entry in found if len(entry.shape or ()) > 2]
        return self._without_head(mapped) or found

    def _without_head(self, layers: list[Traced]) -> list[Traced]:
        """Leave out what follows a global pooling, if it all has one position."""
        pools = [
            entry.order
            for entry in self._traced.values()
            if entry.pools_all and not any(self._blocks_around(entry.name))
        ]
        after = [entry for entry in layers if entry.order > max(pools, default=-1)]
        if not pools or any(self.positions[entry.name] > 1 for entry in after):
            return layers
        return [entry for entry in layers if entry not in after]

    def _blocks_around(self, name: str) -> Iterator[str]:
        return (one for one in ancestors(name) if self._kinds.get(one) == "block")

    def _recommended(self, layers: Sequence[Traced]) -> Traced:
        """The layer that stands for the last unit of a stage."""
        units = {entry.name: self._traced[self._unit(entry)] for entry in layers}
        last = max(units.values(), key=lambda unit: unit.order)
        inside = [entry for entry in layers if units[entry.name] is last]
        if last in inside:
            return self._before_gate(last, layers)
        # In a block with a linear output: where it is widest.
        full = self.positions[last.name]
        level = [one for one in inside if self.positions[one.name] == full]
        widest = max(level or inside, key=lambda one: (one.n_neurons, one.order))
        return self._before_gate(widest, layers)

    def _before_gate(self, chosen: Traced, layers: Sequence[Traced]) -> Traced:
        """The layer whose output the chosen one's gate takes, or the chosen one.

        Both have the same states; before the gate inactive neurons have a gradient.
        """
        if chosen.gate is None:
            return chosen
        return next((one for one in layers if one.feeds == chosen.gate), chosen)

    def _unit(self, entry: Traced) -> str:
        """The outermost block around a layer, or the layer itself.

        A norm that a block begins with, as in pre-activation networks, belongs to what
        came before.
        """
        if self._kinds[entry.name] == "activation":  # goes with what it takes
            entry = self._before_gate(entry, self._fed)
        for name in ancestors(entry.name):  # as one inside a norm does
            if self._kinds.get(name) == "normalization":
                entry = self._traced[name]
        for name in self._blocks_around(entry.name):
            if name in self.positions:
                enters = name in entry.enters and decides(entry)
                is_norm = self._kinds[entry.name] == "normalization"
                return entry.name if enters and is_norm else name
        return entry.name

    def _place(self, entry: Traced) -> int:
        return self.positions[self._unit(entry)]

    def _is_aside(self, name: str) -> bool:
        """Whether a layer works at a lower resolution than what is made of it.

        Such are squeeze-and-excitation and other pooled branches.
        """
        own = self.positions[name]
        wider = [one for one in ancestors(name) if self.positions.get(one, 0) > own]
        blocks = set(self._blocks_around(name))
        return any(one in blocks or one not in self._holding_blocks for one in wider)

    def _is_score(self, name: str) -> bool:
        """Whether a map has one channel for each number that the network returns."""
        output, shape = self._traced[""].shape, self._traced[name].shape
        if output is None or shape is None or len(output) != 2 or len(shape) < 3:
            return False
        late = self._traced[name].order >= self._last_learned
        return late and output[1] in (shape[1], shape[-1])

    def _top(self, name: str) -> str | None:
        """The root's child around a layer, or None where that is a single layer."""
        top = _child(name, self._prefix)
        return None if self._traced[top].is_leaf or top in self._kinds else top

    def _only_child(self) -> str:
        """The module around all others: the root, or its only child, and so on."""
        called = [name for name, entry in self._traced.items() if entry.calls]
        prefix, inner = "", {""}
        while len(inner) == 1 and not self._traced[only := inner.pop()].is_leaf:
            prefix = only
            within = [name for name in called if prefix in ("", *ancestors(name))]
            inner = {_child(name, prefix) for name in within if name != prefix}
        return prefix


def _child(name: str, holder: str) -> str:
    """The child of ``holder`` that is ``name`` or holds it."""
    within = holder and f"{holder}."
    return within + name.removeprefix(within).split(".")[0]


def decides(entry: Traced) -> bool:
    """Whether the sign of a layer's output is what the network goes on with."""
    gates = (entry.gate, entry.feeds)
    return any(gate is not None and not gate.is_positive for gate in gates)


def _leaf_by_name(traced: Mapping[str, Traced]) -> dict[str, Module]:
    """The last learned leaf that ran in each module that gave a tensor, or before it."""
    last: dict[str, Traced] = {}
    found: dict[str, Module] = {}
    previous: Traced | None = None
    for entry in sorted(traced.values(), key=lambda entry: entry.order):
        if _order_if_learned(entry) >= 0:
            previous = entry
            last.update(dict.fromkeys(ancestors(entry.name), entry))
        leaf = last.get(entry.name, previous)
        if entry.name and entry.shape is not None and leaf is not None:
            found[entry.name] = leaf.module
    return found


def _order_if_learned(entry: Traced) -> int:
    """When a leaf with channels of its own ended, -1 of anything else."""
    is_leaf = entry.is_leaf and entry.shape is not None
    return entry.order if is_leaf and is_learned(entry.module) else -1
