"""How the region of one instance changes over depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from captum_rdr._arguments import checked_labels, coded_labels
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.discovery._comparison import incidence
from captum_rdr.discovery._recipe import Choices, bank_regions, recipe, table
from captum_rdr.method.region import Region
from captum_rdr.metrics._explainers import fitted_banks
from captum_rdr.metrics._labels import without_query
from captum_rdr.metrics._regions import jaccard
from captum_rdr.model.inputs import input_arguments


@dataclass(frozen=True, eq=False)
class Stage:
    """The region of the query at one layer.

    Attributes:
        layer: the layer's name.
        region: the region.
        purity: share of its members, the query left out, that have the query's label
            (for a new input the most frequent one); None without labels, NaN without
            another member.
        jaccard: members shared with the layer before over all members of both; None at
            the first layer.
        left: int64, members of the layer before that are none here.
        joined: int64, members that were none at the layer before.
        pieces: the members of the layer before in groups that this layer tells apart,
            largest first: two members are of one group when one lies in the other's
            region here, or both are so linked to a third. Empty at the first layer.
    """

    layer: str
    region: Region
    purity: float | None
    jaccard: float | None
    left: Tensor
    joined: Tensor
    pieces: tuple[Tensor, ...]


class Layerwise(tuple[Stage, ...]):
    """The regions of one query at several layers, a `Stage` each, in their order."""

    __slots__ = ()

    @property
    def splits(self) -> list[str]:
        """Layers where the members of the layer before come apart.

        Those that tell them apart into two groups or more of at least two members.
        """
        return [stage.layer for stage in self if len(_groups(stage)) > 1]

    def __repr__(self) -> str:
        groups = [" ".join(map(str, _groups(stage))) for stage in self]
        columns: dict[str, Sequence[Any]] = {
            "layer": [stage.layer for stage in self],
            "members": [len(stage.region.members) for stage in self],
            "purity": [stage.purity for stage in self],
            "jaccard": [stage.jaccard for stage in self],
            "left": [len(stage.left) for stage in self],
            "joined": [len(stage.joined) for stage in self],
            "groups of the layer before": groups,
        }
        splits = self.splits or "none"
        title = f"Layerwise: a region over {len(self)} layers; splits at {splits}"
        return table(title, columns)


def _groups(stage: Stage) -> list[int]:
    """Sizes of the pieces of two members or more."""
    return [len(piece) for piece in stage.pieces if len(piece) > 1]


def layerwise(
    rdr: RelaxedDecisionRegion,
    query: Any,
    labels: Any = None,
    *,
    show_progress: bool = True,
    **choices: Any,
) -> Layerwise:
    """Follow the region of one instance through the layers.

    Args:
        rdr: fitted explainer of a list of layers, in the order of the model.
        query: a bank row, or one input with its batch dimension, as
            `captum_rdr.RelaxedDecisionRegion.attribute` takes it.
        labels: whole numbers or names ``(N,)``, labels of the bank rows for the purity.
        show_progress: draw progress bars when it takes more than a second.
        **choices: how regions are made at every layer, as in
            `captum_rdr.discovery.subclasses`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: ``rdr`` explains no list of layers or is not fitted, the query is
            not one instance, or there are not as many labels as bank rows.

    >>> drawing = torch.Generator().manual_seed(0)
    >>> labels = torch.arange(4).repeat_interleave(25)
    >>> sizes = torch.tensor([3.0, 1, -1, -3]).repeat_interleave(25)
    >>> data = sizes[:, None] + torch.randn(100, 12, generator=drawing) / 2
    >>> first, last = torch.nn.Identity(), torch.nn.Linear(12, 12)
    >>> with torch.no_grad():  # only the last layer tells 3 and 1 apart
    ...     _ = last.weight.copy_(torch.eye(12)), last.bias.fill_(-2)
    >>> model = torch.nn.Sequential(first, last)
    >>> rdr = RelaxedDecisionRegion(model, [first, last]).fit(data, show_progress=False)
    >>> layerwise(rdr, 0, labels)
    Layerwise: a region over 2 layers; splits at ['1']
      layer  members  purity  jaccard  left  joined  groups of the layer before
          0       42   0.585        -     0      42
          1       22   1.000    0.524    20       0  25 17
    """
    banks = fitted_banks(rdr, several=True)
    if labels is not None:
        (codes,) = coded_labels(labels=labels)
        labels = checked_labels(codes, "labels", len(banks[0]))
    stages: list[Stage] = []
    before = torch.empty(0, dtype=torch.int64)
    regions = _query_regions(rdr, banks[0], query, recipe(choices))
    for name, bank, region in zip(rdr.reader.names, banks, regions, strict=True):
        here = region.members
        stage = Stage(
            layer=name,
            region=region,
            purity=None if labels is None else _purity(region, labels),
            jaccard=jaccard(before, here) if stages else None,
            left=before[~torch.isin(before, here)],
            joined=here[~torch.isin(here, before)],
            pieces=_pieces(bank, before, choices, show_progress),
        )
        stages.append(stage)
        before = here
    return Layerwise(stages)


def _query_regions(
    rdr: RelaxedDecisionRegion, first: ConfigurationBank, query: Any, made: Choices
) -> list[Region]:
    """The query's region at every layer."""
    if hasattr(query, "__index__") and not isinstance(query, (bool, Tensor)):
        found = rdr.attribute_members([query], show_progress=False, **made)
        return [region for (region,) in found]
    size = input_arguments(query, None).batch_size
    if size != 1:
        raise ValueError(f"query holds {size} instances; give one, e.g. inputs[:1]")
    made = {"attribute_to_layer_input": first.attribute_to_layer_input, **made}
    _, found = rdr.attribute(query, **made)
    return [region for (region,) in found]


def _purity(region: Region, labels: Tensor) -> float:
    of_members = labels[without_query(region.members, region)]
    if not len(of_members):
        return float("nan")
    own = of_members.mode().values if region.query is None else labels[region.query]
    return float((of_members == own).double().mean())


def _pieces(
    bank: ConfigurationBank, rows: Tensor, choices: Choices, show_progress: bool
) -> tuple[Tensor, ...]:
    """Groups of rows that are linked by their regions in a bank, largest first."""
    if not len(rows):
        return ()
    regions = bank_regions(bank, rows, choices, show_progress=show_progress)
    linked = incidence([region.members for region in regions], len(bank))
    linked = linked[:, rows.numpy()]
    count, group = connected_components(linked, directed=False)
    pieces = [rows[torch.from_numpy(group == number)] for number in range(count)]
    return tuple(sorted(pieces, key=lambda piece: (-len(piece), int(piece[0]))))
