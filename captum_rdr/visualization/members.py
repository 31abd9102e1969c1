"""Which members of a region are shown, in which order, and what is said of them."""

from typing import Any

import torch
from torch import Generator, Tensor

from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.visualization.reference import Reference
from captum_rdr.visualization.tiles import Tile, TileRow


def ranked(
    region: Region,
    rows: Tensor,
    bank: ConfigurationBank,
    states: Tensor,
    generator: Generator | None = None,
) -> Tensor:
    """Members in the order in which they are shown.

    Args:
        region: the region.
        rows: int64 ``(M,)``, some of its members.
        bank: its bank.
        states: bool ``(D,)``, those of the query.
        generator: shuffles them; None for the nearest by configuration distance first,
            or the most evident first in a region that has an evidence cut. Ties go to
            the lower row.
    """
    if generator is not None:
        return rows[torch.randperm(len(rows), generator=generator)]
    if region.evidence_cut is None:
        order = bank.distances(states)[rows].argsort(stable=True)
    else:
        order = (-_evidence(region, bank, rows)).argsort(stable=True)
    return rows[order]


def _evidence(region: Region, bank: ConfigurationBank, rows: Tensor) -> Tensor:
    blocks = [region.evidence(bank.states(block)) for block in torch.split(rows, 1024)]
    return torch.cat(blocks) if blocks else torch.zeros(0)


def order_name(region: Region, generator: Generator | None) -> str:
    """What `ranked` does, in words."""
    if generator is not None:
        return "drawn at random"
    return "nearest first" if region.evidence_cut is None else "most evident first"


def outside_neighbors(region: Region) -> Tensor:
    """Members that are neither neighbors in S nor the query, int64."""
    inside = region.neighbors
    if region.query is not None:
        inside = torch.cat([inside, torch.tensor([region.query])])
    return region.members[~torch.isin(region.members, inside)]


def disagreements(region: Region, bank: ConfigurationBank, rows: Tensor) -> list[int]:
    """In how many principal neurons each row differs from the region's states."""
    states = bank.states(rows)[:, region.neurons]
    counts: list[int] = (states != region.states).sum(1).tolist()
    return counts


def member_tiles(
    region: Region,
    rows: Tensor,
    bank: ConfigurationBank,
    reference: Reference,
    cmap: Any = None,
) -> tuple[Tile, ...]:
    """Tiles of bank rows with their classes and disagreement counts."""
    return tuple(
        Tile(
            reference.picture(row, cmap),
            reference.classes(row),
            (f"{count} differ{'s' * (count == 1)}",),
            row=row,
        )
        for row, count in zip(
            rows.tolist(), disagreements(region, bank, rows), strict=True
        )
    )


def described(region: Region) -> str:
    """A region's neurons and rule, in words."""
    active = int(region.states.sum())
    rule = f"{region.tolerance:g} may differ" if region.tolerance else "all must agree"
    if region.evidence_cut is not None:
        rule = f"evidence of at least {region.evidence_cut:.3g} nats"
    return (
        f"{len(region.neurons)} principal neurons of {region.layer_shape.numel()} "
        f"({active} active, {len(region.neurons) - active} inactive), {rule}"
    )


def significance_rows(region: Region) -> list[TileRow]:
    """What the test of a region found; nothing if it was not tested."""
    tested = region.significance
    if tested is None:
        return []
    if tested.passed:
        return [TileRow(f"Significant: {tested}, effect {tested.effect:.2g}")]
    found = str(tested).removeprefix("not significant: ")
    doubt = (
        f"Not significant: {found} (level {tested.level:g}), so this may be a chance"
    )
    return [TileRow(f"{doubt} find", is_warning=True)]
