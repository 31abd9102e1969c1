"""S: a query and the instances nearest to it."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_rdr.bank import ConfigurationBank, bits
from captum_rdr.method.rule import Rule

Floats = npt.NDArray[np.float64]

_BLOCK_VALUES = 1 << 22


class FeatureNeighbors(NamedTuple):
    """Nearest bank rows of one query.

    Attributes:
        rows: bank rows, int64, nearest first, ties by the lower row.
        distances: their distances, float64.
    """

    rows: npt.NDArray[np.int64]
    distances: Floats


def nearest_features(
    features: Tensor, queries: Tensor, count: int, metric: str
) -> list[FeatureNeighbors]:
    """Nearest rows of ``features`` for each query.

    A matrix product finds the candidates; their distances are then computed row by row
    in double precision, so that neither the number of queries nor the number of threads
    changes a result.

    Args:
        features: shape ``(N, D)``, floating point.
        queries: shape ``(Q, D)``, floating point.
        count: number of rows wanted, at most N.
        metric: ``"cosine"`` (one minus the cosine similarity, 1 for a zero vector),
            ``"centered_cosine"`` (the same after the mean of ``features`` was taken
            off) or ``"euclidean"``.

    Returns:
        one `FeatureNeighbors` a query.

    >>> features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    >>> nearest_features(features, features[1:2], 2, "cosine")[0].rows
    array([1, 2])
    """
    mean = _mean(features) if metric == "centered_cosine" else None
    targets = _prepared(queries, mean, metric)
    approximate = np.empty((len(queries), len(features)))
    for start, stop in _blocks(features):
        block = _prepared(features[start:stop], mean, metric)
        approximate[:, start:stop] = _approximate(targets, block, metric)
    found = []
    for target, distances in zip(targets, approximate, strict=True):
        kth = np.partition(distances, count - 1)[count - 1]
        near = np.flatnonzero(distances <= kth + _slack(target, distances, metric))
        exact = _exact(target, _prepared(features[near], mean, metric), metric)
        order = np.lexsort((near, exact))[:count]
        found.append(FeatureNeighbors(near[order], exact[order]))
    return found


def same_features(features: Tensor, query: Tensor) -> npt.NDArray[np.bool_]:
    """Which rows have a query's features, but for rounding.

    A forward pass in another batch size rounds differently, so half of the dtype's
    digits must agree.

    >>> same_features(torch.tensor([[1.0, 2.0], [1.0, 2.1]]), torch.tensor([1.0, 2.0]))
    array([ True, False])
    """
    bound = float(torch.finfo(features.dtype).eps ** 0.5) * float(query.abs().max())
    away = (features.double() - query.double()).abs().amax(1)
    same: npt.NDArray[np.bool_] = (away <= bound).numpy()
    return same


def _blocks(features: Tensor) -> list[tuple[int, int]]:
    step = max(1, _BLOCK_VALUES // max(1, features.shape[1]))
    starts = range(0, len(features), step)
    return [(start, min(start + step, len(features))) for start in starts]


def _mean(features: Tensor) -> Floats:
    total = np.zeros(features.shape[1])
    for start, stop in _blocks(features):
        total += features[start:stop].double().numpy().sum(0)
    mean: Floats = total / len(features)
    return mean


def _prepared(features: Tensor, mean: Floats | None, metric: str) -> Floats:
    """Double-precision rows, centered and of unit length where the metric asks."""
    rows: Floats = features.detach().cpu().double().numpy()
    if metric == "euclidean":
        return rows
    if mean is not None:
        rows = rows - mean
    lengths = np.sqrt(np.square(rows).sum(1, keepdims=True))
    unit: Floats = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return unit


def _approximate(queries: Floats, rows: Floats, metric: str) -> Floats:
    distances: Floats = -2.0 * (queries @ rows.T)
    if metric == "euclidean":
        distances += np.square(queries).sum(1)[:, None] + np.square(rows).sum(1)
    else:
        distances = 1.0 + distances / 2.0
    return distances


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


Ints = npt.NDArray[np.int64]
Distances = npt.NDArray[np.int64] | npt.NDArray[np.float64]


@dataclass(frozen=True)
class Queries:
    """Instances to explain.

    Attributes:
        packed: their configurations as they lie in the bank.
        rows: their own bank rows; None for an instance that is not known to be one.
        features: their float activations ``(Q, D)``, where the metric needs them.
    """

    packed: bits.Bytes
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
        rows: the bank rows in S, nearest first, the query's own row among them.
        distances: their distances from the query.
    """

    query: int | None
    rows: Ints
    distances: Distances

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
    nearest = bank.nearest_packed(queries.packed, k)
    for index, (rows, distances) in enumerate(
        zip(nearest.rows.numpy(), nearest.distances.numpy(), strict=True)
    ):
        own = queries.rows[index]
        if own is None and distances[0] == 0:
            own = int(rows[0])
        found.append(Neighborhood(own, *_with_own(rows, distances, own, k)))
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
        found.append(Neighborhood(own, *_with_own(rows, distances, own, k)))
    return found


def _same_row(bank: ConfigurationBank, queries: Queries, index: int) -> int | None:
    """The lowest bank row with an input's configuration and features, if any."""
    rows = bank.equal_rows(queries.packed[index])
    if queries.features is None or not len(rows):
        return None
    features = bank.features_of(torch.from_numpy(rows))
    rows = rows[same_features(features, queries.features[index])]
    return int(rows[0]) if len(rows) else None


def _given(
    bank: ConfigurationBank, queries: Queries, given: Tensor
) -> list[Neighborhood]:
    rows_of_each = given.numpy() if given.dim() == 2 else [given.numpy()] * len(queries)
    found = []
    for index, rows in enumerate(rows_of_each):
        own = queries.rows[index]
        if own is not None and own not in rows:
            rows = np.concatenate([[own], rows])
        inside = at_rows(bank, queries.packed[index], own, rows)
        if own is None and len(rows) and inside.distances[0] == 0:
            inside = replace(inside, query=int(inside.rows[0]))
        found.append(inside)
    return found


def at_rows(
    bank: ConfigurationBank,
    packed: bits.Bytes,
    query: int | None,
    rows: Ints,
) -> Neighborhood:
    """S made of given bank rows, nearest by configuration first."""
    distances = bits.hamming(packed[None], bank.take(rows))[0].astype(np.int64)
    order = np.lexsort((rows, distances))
    return Neighborhood(query, rows[order], distances[order])


def _with_own(
    rows: Ints, distances: Distances, own: int | None, k: int
) -> tuple[Ints, Distances]:
    """The k rows of S that the bank holds, or k - 1 if it does not hold the query."""
    if own is None:
        return rows[: k - 1], distances[: k - 1]
    if own in rows:
        return rows, distances
    # Only k rows at the same distance, zero, can have pushed it out.
    nearest = np.zeros(1, distances.dtype)
    return (
        np.concatenate([[own], rows[: k - 1]]),
        np.concatenate([nearest, distances[: k - 1]]),
    )
