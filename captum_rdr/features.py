"""Neighbors by cosine and Euclidean distance between float features."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]
METRICS = ("cosine", "centered_cosine", "euclidean")

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
