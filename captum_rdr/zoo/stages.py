"""Where a network's stages begin, and which layer of each shows neurons' states."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from captum_rdr.zoo.kinds import Kind, ancestors, is_learned, n_positions
from captum_rdr.zoo.tracing import Traced


@dataclass
class Stage:
    """A run of layers at one resolution.

    Attributes:
        positions: spatial positions or tokens.
        top: the root's child that holds its units, or None.
        layers: layers of it whose sign is a state, in calling order.
        recommended: the one to explain.
    """

    positions: int
    top: str | None
    layers: list[Traced] = field(default_factory=list)
    recommended: str = ""


class Architecture:
    """A traced network as units (blocks, and layers outside of blocks) in order.

    Args:
        traced: what `captum_rdr.zoo.tracing.trace` gave.
        kinds: what `captum_rdr.zoo.kinds.kinds` made of it.
        usable: names of the layers that fired once and gave a tensor, batch first.
    """

    def __init__(
        self,
        traced: Mapping[str, Traced],
        kinds: Mapping[str, Kind],
        usable: Sequence[str],
    ) -> None:
        self._traced = traced
        self._kinds = kinds
        self._usable = set(usable)
        self._positions = _positions_by_name(traced)
        self._prefix = self._only_child()
        self._fed = [traced[name] for name in usable if traced[name].feeds is not None]
        self._last_learned = max(
            (one.order for one in traced.values() if one.is_leaf and _learns(one)),
            default=0,
        )
        self._holding_blocks = {
            outer
            for name, kind in kinds.items()
            if kind == "block"
            for outer in ancestors(name)
            if outer != name
        }

    def stages(self) -> list[Stage]:
        """The stages that hold a layer whose sign is a state, in calling order.

        A new one begins where the number of positions changes, or where another child
        of the root begins that holds several units.
        """
        stages: list[Stage] = []
        for entry in self._deciding():
            positions, top = self._place(entry), self._top(entry.name)
            last = stages[-1] if stages else None
            moved = last is not None and top is not None and last.top not in (None, top)
            if last is None or moved or last.positions != positions:
                last = Stage(positions, top)
                stages.append(last)
            last.top = last.top or top
            last.layers.append(entry)
        for stage in stages:
            stage.recommended = self._recommended(stage.layers).name
        return stages

    def positions(self, name: str) -> int | None:
        """Spatial positions or tokens of a layer's output, None where unknown."""
        return self._positions.get(name)

    def stage_of(self, name: str, stages: Sequence[Stage]) -> int | None:
        """Index of the stage at the layer's resolution that is nearest to it."""
        if name not in self._positions or self._is_aside(name):
            return None
        entry = self._traced[name]
        near = [
            (min(abs(entry.order - other.order) for other in stage.layers), index)
            for index, stage in enumerate(stages)
            if stage.positions == self._place(entry)
        ]
        return min(near)[1] if near else None

    def _deciding(self) -> list[Traced]:
        """Layers whose sign is a state, off side paths, heads and class scores."""
        found = [
            self._traced[name]
            for name in self._kinds
            if name in self._usable
            and name in self._positions
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
        if not pools or any(self._positions[entry.name] > 1 for entry in after):
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
            chosen = last
        else:
            # In a block with a linear output: where it is widest.
            full = self._positions[last.name]
            level = [one for one in inside if self._positions[one.name] == full]
            chosen = max(level or inside, key=lambda one: (one.n_neurons, one.order))
        return self._before_gate(chosen, layers)

    def _before_gate(self, chosen: Traced, layers: Sequence[Traced]) -> Traced:
        """The layer whose output the chosen one's gate takes, or the chosen one.

        Both have the same states; before the gate inactive neurons have a gradient.
        """
        for entry in layers:
            if chosen.gate is not None and entry.feeds == chosen.gate:
                return entry
        return chosen

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
            if name in self._positions:
                enters = name in entry.enters and decides(entry)
                if enters and self._kinds[entry.name] == "normalization":
                    return entry.name
                return name
        return entry.name

    def _place(self, entry: Traced) -> int:
        return self._positions[self._unit(entry)]

    def _is_aside(self, name: str) -> bool:
        """Whether a layer works at a lower resolution than what is made of it.

        Such are squeeze-and-excitation and other pooled branches.
        """
        own = self._positions[name]
        for outer in ancestors(name):
            if self._positions.get(outer, 0) <= own or outer == name:
                continue
            if self._kinds.get(outer) == "block" or outer not in self._holding_blocks:
                return True
        return False

    def _is_score(self, name: str) -> bool:
        """Whether a map has one channel for each number that the network returns."""
        output = self._traced[""].shape
        shape = self._traced[name].shape
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
        prefix = ""
        while True:
            within = prefix and f"{prefix}."
            inner = {
                _child(name, prefix)
                for name, entry in self._traced.items()
                if entry.calls and name.startswith(within) and name != prefix
            }
            if len(inner) != 1 or self._traced[only := inner.pop()].is_leaf:
                return prefix
            prefix = only


def _child(name: str, holder: str) -> str:
    """The child of ``holder`` that is ``name`` or holds it."""
    within = holder and f"{holder}."
    return within + name.removeprefix(within).split(".")[0]


def decides(entry: Traced) -> bool:
    """Whether the sign of a layer's output is what the network goes on with."""
    gates = (entry.gate, entry.feeds)
    return any(gate is not None and not gate.is_positive for gate in gates)


def _positions_by_name(traced: Mapping[str, Traced]) -> dict[str, int]:
    """Positions of every module's output, by the last learned leaf that ran in it."""
    learned = sorted(
        (entry for entry in traced.values() if entry.is_leaf and _learns(entry)),
        key=lambda entry: entry.order,
    )
    last = {outer: leaf for leaf in learned for outer in ancestors(leaf.name)}
    found = {}
    previous: Traced | None = None
    by_order = {leaf.order: leaf for leaf in learned}
    for entry in sorted(traced.values(), key=lambda entry: entry.order):
        previous = by_order.get(entry.order, previous)
        leaf = last.get(entry.name, previous)
        if entry.name and entry.shape is not None and leaf is not None:
            found[entry.name] = n_positions(leaf.module, entry.shape)
    return found


def _learns(entry: Traced) -> bool:
    return entry.shape is not None and is_learned(entry.module)
