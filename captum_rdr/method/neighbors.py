"""S: a query and the instances nearest to it."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_rdr.bank import ConfigurationBank, bits
from captum_rdr.bank.queries import equal_rows
from captum_rdr.method.rule import Rule

Floats = npt.NDArray[np.float64]

_BLOCK_VALUES = 1 << 22


@dataclass(frozen=True)
class Queries:
    """Instances to explain.

    Attributes:
        packed: their configurations as they lie in the bank.
        rows: their own bank rows; None for an instance that is not known to be one.
        features: their float activations ``(Q, D)``, where the metric needs them.
    """

    packed: Tensor
    rows: list[int | None]
    features: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> "Queries":
        features = None if self.features is None else self.features[part]
        return Queries(self.packed[part], self.rows[part], features)


@dataclass(frozen=True)
class Neighborhood:
    """S of one query.

    Attributes:
        query: the query's own bank row, or None if the bank does not hold it.
        rows: int64, the bank rows in S, nearest first, the query's own row among them.
        distances: their distances from the query, int64 or float64.
    """

    query: int | None
    rows: Tensor
    distances: Tensor

    @property
    def size(self) -> int:
        """Number of instances in S, the query included."""
        return len(self.rows) + (self.query is None)


def neighborhoods(
    bank: ConfigurationBank, queries: Queries, rule: Rule
) -> list[Neighborhood]:
    """S of each query: the query itself and its nearest others.

    A query that the bank holds is one of the k, at distance 0. An input is taken to be
    the lowest row (of those given, if rows are given) that has its configuration; for
    cosine and Euclidean neighbors also its features, but for rounding.

    Args:
        bank: the reference bank.
        queries: the instances to explain.
        rule: which metric or rows, and how many.
    """
    if isinstance(rule.neighbors, Tensor):
        return _given(bank, queries, rule.neighbors)
    if rule.neighbors == "configuration":
        return _by_configuration(bank, queries, rule.n_neighbors)
    return _by_features(bank, queries, rule.n_neighbors, rule.neighbors)


def _by_configuration(
    bank: ConfigurationBank, queries: Queries, k: int
) -> list[Neighborhood]:
    found = []
    nearest = bank.nearest(queries.packed, k)
    for own, rows, distances in zip(queries.rows, *nearest, strict=True):
        is_row = own is None and distances[0] == 0
        query = int(rows[0]) if is_row else own
        found.append(_with_own(rows, distances, query, k))
    return found


def _by_features(
    bank: ConfigurationBank, queries: Queries, k: int, metric: str
) -> list[Neighborhood]:
    if bank.features is None or queries.features is None:
        raise ValueError("neighbors by features need features; keep them when fitting")
    found = []
    nearest = nearest_features(bank.features, queries.features, k, metric)
    for index, (rows, distances) in enumerate(nearest):
        own = queries.rows[index]
        if own is None:
            own = _same_row(bank, queries, index)
        found.append(_with_own(rows, distances, own, k))
    return found


def _same_row(bank: ConfigurationBank, queries: Queries, index: int) -> int | None:
    """The lowest bank row with an input's configuration and features, if any."""
    rows = equal_rows(queries.packed[index], bank.packed)
    if queries.features is None or not len(rows):
        return None
    same = same_features(bank.features_of(rows), queries.features[index])
    rows = rows[same.cpu()]
    return int(rows[0]) if len(rows) else None


def _given(
    bank: ConfigurationBank, queries: Queries, given: Tensor
) -> list[Neighborhood]:
    rows_of_each = given if given.dim() == 2 else given.expand(len(queries), -1)
    found = []
    for index, rows in enumerate(rows_of_each.cpu()):
        own = queries.rows[index]
        if own is not None and own not in rows:
            rows = torch.cat([torch.tensor([own]), rows])
        inside = at_rows(bank, queries.packed[index], own, rows)
        if own is None and len(rows) and inside.distances[0] == 0:
            inside = replace(inside, query=int(inside.rows[0]))
        found.append(inside)
    return found


def at_rows(
    bank: ConfigurationBank, packed: Tensor, query: int | None, rows: Tensor
) -> Neighborhood:
    """S made of given bank rows, nearest by configuration first."""
    held = bank.packed[rows.to(bank.device)]
    distances = bits.hamming(packed[None], held)[0].cpu().long()
    rows, order = rows.sort()
    distances, ranks = distances[order].sort(stable=True)
    return Neighborhood(query, rows[ranks], distances)


def _with_own(rows: Tensor, distances: Tensor, own: int | None, k: int) -> Neighborhood:
    """The k rows of S that the bank holds, or k - 1 if it does not hold the query."""
    if own is None:
        return Neighborhood(None, rows[: k - 1].clone(), distances[: k - 1].clone())
    if own in rows:
        return Neighborhood(own, rows, distances)
    # Only k rows at the same distance, zero, can have pushed it out.
    nearest = distances.new_zeros(1)
    return Neighborhood(
        own,
        torch.cat([torch.tensor([own]), rows[: k - 1]]),
        torch.cat([nearest, distances[: k - 1]]),
    )


def nearest_features(
    features: Tensor, queries: Tensor, count: int, metric: str
) -> list[tuple[Tensor, Tensor]]:
    """Nearest rows of ``features`` for each query, ties to the lower row.

    A matrix product, where the features lie, finds the candidates; their distances are
    then computed row by row in double precision on the CPU, so that neither the number
    of queries nor device or threads change a result.

    Args:
        features: shape ``(N, D)``, floating point.
        queries: shape ``(Q, D)``, floating point.
        count: number of rows wanted, at most N.
        metric: ``"cosine"`` (one minus the cosine similarity, 1 for a zero vector),
            ``"centered_cosine"`` (the same after the mean of ``features`` was taken
            off) or ``"euclidean"``.

    Returns:
        for each query int64 rows, nearest first, and their float64 distances.

    >>> features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    >>> nearest_features(features, features[1:2], 2, "cosine")[0][0]
    tensor([1, 2])
    """
    mean = _mean(features) if metric == "centered_cosine" else None
    targets = _prepared(queries.to(features.device), mean, metric)
    approximate = torch.empty(len(queries), len(features), dtype=torch.float64)
    for start, stop in _blocks(features):
        block = _prepared(features[start:stop], mean, metric)
        approximate[:, start:stop] = _approximate(targets, block, metric).cpu()
    found = []
    for index, distances in enumerate(approximate.numpy()):
        target = targets[index].cpu().numpy()
        kth = np.partition(distances, count - 1)[count - 1]
        near = np.flatnonzero(distances <= kth + _slack(target, distances, metric))
        held = features[torch.from_numpy(near).to(features.device)]
        exact = _exact(target, _prepared(held, mean, metric).cpu().numpy(), metric)
        order = np.lexsort((near, exact))[:count]
        found.append((torch.from_numpy(near[order]), torch.from_numpy(exact[order])))
    return found


def same_features(features: Tensor, query: Tensor) -> Tensor:
    """Which rows have a query's features, but for rounding; bool ``(N,)``.

    A forward pass in another batch size rounds differently, so half of the dtype's
    digits must agree.

    >>> same_features(torch.tensor([[1.0, 2.0], [1.0, 2.1]]), torch.tensor([1.0, 2.0]))
    tensor([ True, False])
    """
    bound = float(torch.finfo(features.dtype).eps ** 0.5) * float(query.abs().max())
    away = features.double() - query.to(features.device).double()
    return away.abs().amax(1) <= bound


def _blocks(features: Tensor) -> list[tuple[int, int]]:
    step = max(1, _BLOCK_VALUES // max(1, features.shape[1]))
    starts = range(0, len(features), step)
    return [(start, min(start + step, len(features))) for start in starts]


def _mean(features: Tensor) -> Tensor:
    total = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    for start, stop in _blocks(features):
        total += features[start:stop].double().sum(0)
    return total / len(features)


def _prepared(features: Tensor, mean: Tensor | None, metric: str) -> Tensor:
    """Double-precision rows, centered and of unit length where the metric asks."""
    rows = features.detach().double()
    if metric == "euclidean":
        return rows
    if mean is not None:
        rows = rows - mean
    lengths = rows.square().sum(1, keepdim=True).sqrt()
    return torch.where(lengths > 0, rows / lengths, 0.0)


def _approximate(queries: Tensor, rows: Tensor, metric: str) -> Tensor:
    if metric == "euclidean":
        lengths = queries.square().sum(1)[:, None] + rows.square().sum(1)
        return lengths - 2 * (queries @ rows.T)
    return 1 - queries @ rows.T


def _slack(query: Floats, distances: Floats, metric: str) -> float:
    """How far rounding can put two approximate distances out of order, at most."""
    rounding = 8.0 * len(query) * float(np.finfo(np.float64).eps)
    if metric != "euclidean":
        return rounding
    # A row is at most as long as the query plus its distance.
    scale = np.square(query).sum() + np.abs(distances).max()
    return rounding * 4.0 * float(scale)


def _exact(query: Floats, rows: Floats, metric: str) -> Floats:
    distances: Floats
    if metric == "euclidean":
        distances = np.sqrt(np.square(rows - query).sum(1))
    else:
        # To twelve decimals, so that equal directions tie whatever their lengths.
        distances = np.round(np.maximum(1.0 - (rows * query).sum(1), 0.0), 12)
    return distances
