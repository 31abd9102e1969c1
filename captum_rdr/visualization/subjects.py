"""A region and its query: what pictures show of them, and in which words."""

from collections.abc import Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from captum_rdr._arguments import check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.method.regions import evidence
from captum_rdr.metrics._explainers import fitted_banks
from captum_rdr.metrics._labels import without_query
from captum_rdr.metrics._regions import query_states
from captum_rdr.visualization.reference import Classes, Reference, as_reference
from captum_rdr.visualization.tiles import Row, Tile


def banks_of(rdr: RelaxedDecisionRegion) -> list[ConfigurationBank]:
    """The banks of all layers, of an explainer of one or of several."""
    return fitted_banks(rdr, several=isinstance(rdr.layer, list))


def of(
    region: Region, rdr: RelaxedDecisionRegion, dataset: Any = (), query: Any = None
) -> "Subject":
    """What a visualizer of one region was asked for.

    Raises:
        TypeError: it is no region.
        ValueError: it belongs to no layer of the explainer.
    """
    if not isinstance(region, Region):
        raise TypeError(
            f"region is a {type(region).__name__}; give a Region, e.g. the first that "
            "attribute returned"
        )
    for bank in banks_of(rdr):
        with suppress(ValueError):
            region.check_layer(bank.layer_shape, bank.fingerprint)
            return Subject(region, bank, as_reference(dataset), query)
    raise ValueError(
        f"region belongs to a layer of shape {tuple(region.layer_shape)}, which is not "
        "that of rdr, or to another state of the model; give a region that rdr made"
    )


@dataclass(frozen=True)
class Subject:
    """A region to show.

    Attributes:
        region: the region.
        bank: its bank.
        reference: what bank rows look like.
        query: the query's input, or a tuple of it and its classes; None for the bank row
            that the query is.
    """

    region: Region
    bank: ConfigurationBank
    reference: Reference
    query: Any = None

    @property
    def item(self) -> Any:
        """The query's input, or what begins with it.

        Raises:
            ValueError: the bank does not hold the query and it is not given.
        """
        if self.query is not None:
            return self.query
        if self.region.query is None:
            raise ValueError(
                "the bank does not hold the region's query; pass it as query, the input "
                "without the batch dimension"
            )
        return self.reference.item(self.region.query)

    @property
    def classes(self) -> Classes:
        """The query's class and the predicted one."""
        if self.query is None and self.region.query is not None:
            return self.reference.classes(self.region.query)
        return self.reference.classes_of(self.query)

    @property
    def tile(self) -> Tile:
        """The query's picture."""
        picture = self.reference.picture_of(self.item)
        return Tile(picture, self.classes, is_query=True, row=self.region.query)

    def ranked(
        self, count: int, rows: Tensor | None = None, generator: Generator | None = None
    ) -> Tensor:
        """Members in the order in which they are shown.

        Args:
            count: how many to show at most; users call it ``n_members``.
            rows: int64 ``(M,)``, some of the members; None for all but the query.
            generator: shuffles them; None for the nearest by configuration distance
                first, or the most evident first in a region that has an evidence cut.
                Ties go to the lower row.
        """
        check_whole("n_members", count, 0)
        region = self.region
        rows = without_query(region.members, region) if rows is None else rows
        if generator is not None:
            return rows[torch.randperm(len(rows), generator=generator)][:count]
        if region.evidence_cut is None:
            keys = self.bank.distances(query_states(self.bank, [region])[0])
        else:
            keys = -evidence([region], self.bank)[0]
        return rows[keys[rows].argsort(stable=True)][:count]

    @property
    def order(self) -> str:
        """What `ranked` does, in words."""
        is_cut = self.region.evidence_cut is not None
        return "most evident first" if is_cut else "nearest first"

    def counted(self, rows: Sized) -> str:
        """How many of the members are shown, in which order."""
        return f"{len(rows)} of {len(self.region.members)} members, {self.order}"

    def ranks(self, rows: Tensor) -> list[str]:
        """What `ranked` goes by: evidence, or the number of neurons unlike the query's."""
        states = self.bank.states(rows)
        if self.region.evidence_cut is not None:
            found = self.region.evidence(states).tolist()
            return [f"{nats:.3g} nats" for nats in found]
        counts = (states != query_states(self.bank, [self.region])).sum(1).tolist()
        return [f"{count} away" for count in counts]

    def disagreements(self, states: Tensor) -> list[str]:
        """In how many principal neurons instances differ; empty where none may.

        Args:
            states: bool ``(M, D)``.
        """
        region = self.region
        counts = (states[:, region.neurons] != region.states).sum(1).tolist()
        if region.evidence_cut is not None or not (region.tolerance or any(counts)):
            return [""] * len(counts)
        return [f"{count} differ{'s' * (count == 1)}" for count in counts]

    def tiles(self, rows: Tensor, notes: Sequence[str] | None = None) -> list[Tile]:
        """Tiles of members with their classes, and notes on them or what ranks them."""
        ranks = self.ranks(rows) if notes is None else notes
        differing = self.disagreements(self.bank.states(rows))
        pairs = zip(ranks, differing, strict=True)
        found = [tuple(filter(None, pair)) for pair in pairs]
        return tiles_of(self.reference, dict(zip(rows.tolist(), found, strict=True)))

    @property
    def described(self) -> str:
        """A region's neurons and rule, in words."""
        region = self.region
        active, count = int(region.states.sum()), len(region.neurons)
        rule = "all must agree"
        if region.evidence_cut is not None:
            rule = f"evidence of at least {region.evidence_cut:.3g} nats"
        elif region.tolerance:
            rule = f"{region.tolerance:g} may differ"
        return (
            f"{count} principal neurons of {region.n_layer} ({active} active, "
            f"{count - active} inactive), {rule}."
        )

    def headed(self, text: str) -> list[Row]:
        """A text, and what the region's test found, if it was tested."""
        tested = self.region.significance
        if tested is None:
            return [Row(text)]
        doubt = {
            "significant": f", effect {tested.effect:.2g}",
            "not significant": f" (level {tested.level:g}), so this may be a chance find",
            "a mixture": ", so members need not show one thing",
        }.get(tested.verdict, "")
        found = f"{tested.verdict.capitalize()}: {tested.found}{doubt}"
        return [Row(text), Row(found, is_warning=not tested.passed)]


def tiles_of(reference: Reference, notes: Mapping[int, Sequence[str]]) -> list[Tile]:
    """Tiles of bank rows with their classes and notes on each."""
    return [
        Tile(reference.picture(row), reference.classes(row), tuple(own), row=row)
        for row, own in notes.items()
    ]
