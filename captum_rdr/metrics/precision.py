"""Regions beside nearest neighbors of the same number."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.neighbors import nearest_features
from captum_rdr.method.region import Region
from captum_rdr.method.rule import METRICS
from captum_rdr.metrics.labels import share_with
from captum_rdr.metrics.membership import likeness, targets_of, without_query


def precision_at_size(
    regions: Sequence[Region],
    bank: ConfigurationBank,
    labels: Tensor,
    size: int | None = None,
    targets: Tensor | None = None,
    *,
    metrics: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    """Purity of each region beside that of as many nearest neighbors of its query.

    Args:
        regions: regions of rows of ``bank``.
        bank: the bank they were found in.
        labels: int64 ``(N,)``, one for each row of the bank.
        size: rows to take, the query left out: those most like the region (of largest
            evidence, or fewest disagreeing principal neurons), ties to the lower row;
            None for the region's own members, however many.
        targets: as in `purity`.
        metrics: neighbors to compare with: ``"configuration"``, and where the bank holds
            features ``"cosine"``, ``"centered_cosine"`` and ``"euclidean"``; None for
            all that the bank allows.

    Returns:
        float64 tensors ``(Q,)``: ``"region"``, then one for each metric; NaN for a region
        without another member than the query.

    Raises:
        TypeError: as `purity`.
        ValueError: as `purity`; also for a region of a new input, a size that is not
            between 1 and the number of other rows, or a metric that needs features.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model = torch.nn.Identity()
    >>> data = torch.tensor([[1.0, 1, -1], [1, 1, 1], [1, -1, 1], [-1, 1, 1]])
    >>> rdr = RelaxedDecisionRegion(model, model)
    >>> rdr = rdr.fit(data, keep_features=True, show_progress=False)
    >>> regions = rdr.attribute_members([0], n_neighbors=2, n_neurons=1)
    >>> found = precision_at_size(regions, rdr.bank, torch.tensor([7, 7, 5, 7]), size=1)
    >>> found["region"], found["cosine"]
    (tensor([1.], dtype=torch.float64), tensor([1.], dtype=torch.float64))
    """
    wanted = targets_of(regions, labels, targets)
    if size is not None and not 1 <= size < len(bank):
        raise ValueError(
            f"size={size} is not between 1 and the {len(bank) - 1} rows beside the query"
        )
    own = [region.query for region in regions]
    queries = torch.tensor([-1 if row is None else row for row in own]).long()
    if bool((queries < 0).any()):
        raise ValueError(
            "a region is of a new input, whose neighbors are not ranked here; use regions "
            "of bank rows, from attribute_members"
        )
    every = ("configuration", *(METRICS if bank.features is not None else ()))
    taken = [_most_alike(region, bank, size) for region in regions]
    found = {"region": taken}
    for metric in every if metrics is None else metrics:
        longest = min(len(bank), 1 + max((len(rows) for rows in taken), default=0))
        ranked = _nearest(bank, queries, longest, metric)
        found[metric] = [
            without_query(rows, region)[: len(alike)]
            for rows, region, alike in zip(ranked, regions, taken, strict=True)
        ]
    return {
        name: torch.tensor(
            [
                share_with(labels, r, label)
                for r, label in zip(rows, wanted, strict=True)
            ],
            dtype=torch.float64,
        )
        for name, rows in found.items()
    }


def _most_alike(region: Region, bank: ConfigurationBank, size: int | None) -> Tensor:
    if size is None:
        return without_query(region.members, region)
    order = likeness(region, bank).argsort(descending=True, stable=True)
    return without_query(order, region)[:size]


def _nearest(
    bank: ConfigurationBank, queries: Tensor, count: int, metric: str
) -> list[Tensor]:
    if metric == "configuration":
        return list(bank.nearest(bank.rows[queries], count).rows)
    if metric not in METRICS:
        raise ValueError(
            f"metrics holds {metric!r}; use 'configuration', "
            f"{', '.join(repr(name) for name in METRICS)}"
        )
    features = bank.features_of(torch.arange(len(bank)))
    nearest = nearest_features(features, features[queries], count, metric)
    return [torch.from_numpy(one.rows) for one in nearest]
