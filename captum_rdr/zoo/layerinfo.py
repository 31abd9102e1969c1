"""The rows of the table of layers, and the choice of one."""

from dataclasses import dataclass

from captum_rdr.zoo.kinds import Kind

_BODIES = ("backbone.body.", "backbone.features.")


@dataclass(frozen=True)
class LayerInfo:
    """One layer of a model.

    Attributes:
        name: its qualified name.
        stage: index of its stage; None for heads, side paths and stages without a layer
            whose sign is a state.
        kind: what it is.
        shape: its output's shape without the batch; None where that is no tensor.
        n_neurons: the number of values of that.
        n_positions: spatial positions or tokens among them; None where unknown.
        calls: how often it fired in one forward pass in evaluation mode.
        usable: whether `captum_rdr.RelaxedDecisionRegion` takes it as it is (for a
            quantized output, with ``pool=captum_rdr.zoo.dequantized``).
        reason: why not, or what the sign of its output means.
        recommended: whether it is the one that stands for its stage.
        is_quantized: whether its output is a quantized tensor.
    """

    name: str
    stage: int | None
    kind: Kind
    shape: tuple[int, ...] | None
    n_neurons: int
    n_positions: int | None
    calls: int
    usable: bool
    reason: str
    recommended: bool
    is_quantized: bool

    @property
    def has_tokens(self) -> bool:
        """Whether the output is a sequence of tokens, ``(T, E)``."""
        return (
            len(self.shape or ()) == 2 and self.n_positions == (self.shape or (0,))[0]
        )


class LayerTable(tuple[LayerInfo, ...]):
    """Layers in the order in which they end; its repr is a table."""

    __slots__ = ()

    def __repr__(self) -> str:
        """One line a layer, ``*`` before a recommended one."""
        rows = [("", "name", "stage", "kind", "shape", "neurons", "calls", "reason")]
        for info in self:
            rows.append(
                (
                    "*" if info.recommended else "",
                    info.name,
                    "" if info.stage is None else str(info.stage),
                    info.kind,
                    "x".join(map(str, info.shape or ())),
                    f"{info.n_neurons:,}",
                    str(info.calls),
                    info.reason,
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(width) for cell, width in zip(row, widths, strict=True)
            )
            for row in rows
        ]
        return "\n".join(line.rstrip() for line in lines)


def chosen(table: LayerTable, stage: int | str | None) -> LayerInfo:
    """The row of a table that stands for a stage, or that has a name.

    None is the last stage of the backbone's body where there is one, as in detection
    models, whose later stages belong to the pyramid and the heads; else the last stage.

    Raises:
        TypeError: the stage is neither a number nor a name.
        ValueError: there is no such row, or its layer cannot be used.
    """
    if isinstance(stage, str):
        return _named(table, stage)
    if isinstance(stage, bool) or not isinstance(stage, int | None):
        raise TypeError(
            f"stage={stage!r} is a {type(stage).__name__}; give a stage's number or a "
            "layer's name"
        )
    recommended = [info for info in table if info.recommended]
    recommended.sort(key=lambda info: info.stage or 0)
    if not recommended:
        raise ValueError(
            "no usable layer of the model makes or feeds a nonlinearity whose sign is a "
            "state; see layers(model) for the reasons, and choose one by its name"
        )
    if stage is None:
        return _last(recommended)
    if not -len(recommended) <= stage < len(recommended):
        raise ValueError(
            f"stage={stage} but the model has {len(recommended)} stages; use "
            f"{-len(recommended)} to {len(recommended) - 1}"
        )
    return recommended[stage]


def _last(recommended: list[LayerInfo]) -> LayerInfo:
    body = [info for info in recommended if info.name.startswith(_BODIES)]
    return (body or recommended)[-1]


def _named(table: LayerTable, name: str) -> LayerInfo:
    info = next((info for info in table if info.name == name), None)
    if info is None:
        raise ValueError(
            f"layer {name!r} is not in the table; choose one that layers(model) lists, "
            f"e.g. {next((one.name for one in table if one.usable), None)!r}"
        )
    if not info.usable:
        raise ValueError(f"layer {name!r} cannot be used as it is: {info.reason}")
    return info
