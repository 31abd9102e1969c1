"""S: a query and the instances nearest to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_rdr.bank import ConfigurationBank, bits
from captum_rdr.bank.queries import Nearest, equal_rows
from captum_rdr.method.rule import Rule
from captum_rdr.model.states import same_instance, sketch

Floats = npt.NDArray[np.float64]

_BLOCK_VALUES = 1 << 22  # features looked at at a time
_CACHED = 1 << 17  # features looked at at a time in doubles
_STRETCH = 1024  # terms of a product that are summed up in the features' dtype


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


def recognized(
    bank: ConfigurationBank,
    packed: Tensor,
    features: Tensor | None,
    sketches: Sequence[Tensor | None] | Tensor,
) -> Queries:
    """Inputs as queries, those that the bank holds as their rows.

    An input is the lowest row whose activations are its own but for rounding; what only
    looks the same, of equal configuration, is another instance. In a bank without
    sketches, which was not made by `fit`, it is the lowest row of its configuration.

    Args:
        bank: the reference bank.
        packed: configurations of the inputs, as they lie in the bank.
        features: their float activations ``(Q, D)``, where the metric needs them.
        sketches: one an input, see `captum_rdr.model.states.sketch`; None if unknown.
    """
    packed, rows = packed.clone(), []
    features = None if features is None else features.clone()
    for index, own in enumerate(sketches):
        if bank.sketches is None or own is None:
            same = equal_rows(packed[index], bank.packed)
            if features is not None and len(same):
                held = sketch(bank.features_of(same)).float()
                own = sketch(features[index : index + 1])[0]
                same = same[same_instance(held, own).cpu()]
        else:
            same = same_instance(bank.sketches, own).nonzero().flatten().cpu()
        row = int(same[0]) if len(same) else None
        rows.append(row)
        if row is not None:  # as the bank has it: a state may be rounded otherwise
            packed[index] = bank.packed[row]
            if features is not None:
                features[index] = bank.features_of(same[:1])[0].to(features)
    return Queries(packed, rows, features)


def bank_queries(bank: ConfigurationBank, rows: Tensor, rule: Rule) -> Queries:
    """Bank rows, int64 ``(Q,)``, as queries."""
    features = bank.features_of(rows) if rule.needs_features else None
    return Queries(bank.packed[rows.to(bank.device)], rows.tolist(), features)


def neighborhoods(
    bank: ConfigurationBank, queries: Queries, rule: Rule
) -> list[Nearest]:
    """S of each query: the query itself and its nearest others.

    A query that the bank holds is one of the k, at distance 0; one that it does not hold
    belongs to S, but has no row.

    Args:
        bank: the reference bank.
        queries: the instances to explain.
        rule: which metric or rows, and how many.

    Returns:
        the bank rows in S, nearest first, and their distances, int64 or float64.
    """
    if isinstance(rule.neighbors, Tensor):
        return _given(bank, queries, rule.neighbors)
    if rule.needs_features:
        if bank.features is None or queries.features is None:
            raise ValueError("neighbors by features need features; keep them in fit")
        metric = str(rule.neighbors)
        center = bank._of_features(metric, partial(center_of, metric=metric))
        nearest = nearest_features(
            bank.features, queries.features, rule.size, metric, center
        )
    else:
        nearest = list(zip(*bank.nearest(queries.packed, rule.size), strict=True))
    return [
        _with_own(rows, distances, own, rule.size)
        for own, (rows, distances) in zip(queries.rows, nearest, strict=True)
    ]


def _given(bank: ConfigurationBank, queries: Queries, given: Tensor) -> list[Nearest]:
    found = []
    for index, own in enumerate(queries.rows):
        rows = (given[index] if given.dim() == 2 else given).cpu()
        if own is not None and own not in rows:
            rows = torch.cat([torch.tensor([own]), rows])
        found.append(at_rows(bank, queries.packed[index], rows))
    return found


def at_rows(bank: ConfigurationBank, packed: Tensor, rows: Tensor) -> Nearest:
    """S made of given bank rows, nearest by configuration first."""
    rows = rows.sort().values
    held = bank.packed[rows.to(bank.device)]
    distances = bits.hamming(packed[None], held)[0].cpu().long()
    distances, ranks = distances.sort(stable=True)
    return Nearest(rows[ranks], distances)


def _with_own(rows: Tensor, distances: Tensor, own: int | None, k: int) -> Nearest:
    """The query and its k - 1 nearest others; the query has a row if the bank holds it."""
    others = (
        (rows != own).nonzero().flatten()[: k - 1] if own is not None else slice(k - 1)
    )
    rows, distances = rows[others], distances[others]
    if own is not None:
        rows = torch.cat([torch.tensor([own]), rows])
        distances = torch.cat([distances.new_zeros(1), distances])
    return Nearest(rows, distances)


class Center(NamedTuple):
    """What distances to rows need of all of them, whatever the query.

    Attributes:
        mean: float64 ``(D,)``.
        scales: float64 ``(N,)``, how often it is taken off of each row.
        lengths: float64 ``(N,)``, of the rows then.
    """

    mean: Tensor
    scales: Tensor
    lengths: Tensor


def center_of(features: Tensor, metric: str) -> Center:
    """What a metric of `nearest_features` needs of all rows.

    Rows of unit length less their mean have the directions of the rows less their own
    length times that mean.

    >>> center_of(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), "direction").scales
    tensor([5., 1.], dtype=torch.float64)
    """
    mean = features.new_zeros(features.shape[1], dtype=torch.float64)
    scales, lengths = features.new_ones(2, len(features), dtype=torch.float64)
    if metric in ("centered_cosine", "direction"):
        for rows in _blocks(features):
            block = features[rows].double()
            if metric == "direction":
                scales[rows] = _lengths(block)
                block = block / scales[rows, None].clamp_min(1e-300)
            mean += block.sum(0)
    mean /= len(features)
    for rows in _blocks(features):
        lengths[rows] = _lengths(features[rows].double() - scales[rows, None] * mean)
    return Center(mean, scales, lengths)


def nearest_features(
    features: Tensor,
    queries: Tensor,
    count: int,
    metric: str,
    center: Center | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Nearest rows of ``features`` for each query, ties to the lower row.

    Matrix products, in the features' own dtype and where they lie, bound each distance;
    those of the rows that can be among the nearest are then computed row by row in
    double precision on the CPU, so that neither the number of queries nor device or
    threads change a result.

    Args:
        features: shape ``(N, D)``, floating point.
        queries: shape ``(Q, D)``, floating point.
        count: number of rows wanted, at most N.
        metric: ``"cosine"`` (one minus the cosine similarity, 1 for a zero vector),
            ``"centered_cosine"`` (the same after the mean of ``features`` was taken
            off), ``"direction"`` (the same, of rows that are scaled to unit length
            first) or ``"euclidean"``.
        center: what `center_of` made of the features, where that is known.

    Returns:
        for each query int64 rows, nearest first, and their float64 distances.

    >>> features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    >>> nearest_features(features, features[1:2], 2, "cosine")[0][0]
    tensor([1, 2])
    """
    mean, scales, lengths = center or center_of(features, metric)
    targets = queries.detach().to(features.device).double()
    own = _lengths(targets) if metric == "direction" else scales.new_ones(len(targets))
    targets = targets - own[:, None] * mean
    wanted, own_lengths = targets.cpu().numpy(), lengths.cpu().numpy()
    reached, directions = _scaled(wanted)
    # Of unit length, so that products are neither too small nor too large for floats.
    unit = torch.from_numpy(directions).to(targets)
    target_lengths = torch.from_numpy(reached).to(targets)[:, None]
    # Half floats are multiplied as float32.
    dtype = torch.promote_types(features.dtype, torch.float32)
    # What rounding can change in a product of a stretch of so many terms, at most.
    rounding = 4 * _STRETCH * torch.finfo(dtype).eps
    error = rounding * (lengths + scales * mean.norm())
    products = _products(features, unit.to(dtype))
    away = products.addr_((unit @ mean).neg_(), scales).neg_()
    # What of a distance differs between rows.
    if metric == "euclidean":
        square = lengths.square()
        away = away.mul_(2 * target_lengths).add_(square)
        error = 2 * error * target_lengths + rounding * square
    else:
        away, error = away.div_(lengths), error / lengths
    asked, near = _candidates(away, error, count)
    places, numbers, parts = near.cpu().numpy(), asked.cpu().numpy(), [np.empty(0)]
    wanted = wanted if metric == "euclidean" else directions
    for start in range(0, len(near), step := max(1, _CACHED // features.shape[1])):
        part = slice(start, start + step)
        held = features[near[part]].double()
        held.addcmul_(scales[near[part], None], mean, value=-1)
        of = held.cpu().numpy(), own_lengths[places[part]]
        parts.append(_exact(wanted[numbers[part]], *of, metric))
    exact = np.concatenate(parts)
    order = np.lexsort((places, exact, numbers))
    first = np.searchsorted(numbers, np.arange(len(targets)))
    kept = order[first[:, None] + np.arange(count)]
    found = torch.from_numpy(places[kept]), torch.from_numpy(exact[kept])
    return list(zip(*found, strict=True))


def _lengths(rows: Tensor) -> Tensor:
    """Lengths of rows, also where squares alone would overflow."""
    largest = rows.abs().amax(1).clamp_min(1e-300)
    scaled: Tensor = torch.linalg.vector_norm(rows / largest[:, None], dim=1)
    return largest * scaled


def _products(features: Tensor, targets: Tensor) -> Tensor:
    """Inner products ``(Q, N)`` of targets and rows, summed up in short stretches."""
    shape = len(targets), len(features)
    products = targets.new_zeros(shape, dtype=torch.float64)
    for rows in _blocks(features):
        for start in range(0, features.shape[1], _STRETCH):
            part = slice(start, start + _STRETCH)
            block = features[rows, part].to(targets.dtype)
            products[:, rows] += (targets[:, part] @ block.T).double()
    return products


def _blocks(features: Tensor) -> list[slice]:
    step = max(1, _BLOCK_VALUES // max(1, features.shape[1]))
    return [slice(start, start + step) for start in range(0, len(features), step)]


def _candidates(away: Tensor, bound: Tensor, count: int) -> tuple[Tensor, ...]:
    """Queries and rows whose distance, but for so much, is among the ``count`` smallest."""
    highest = (away + bound).nan_to_num_(torch.inf, torch.inf, torch.inf)
    kth = highest.kthvalue(count, dim=1, keepdim=True).values
    # A row of which nothing is known, as of length zero or infinite, is looked at.
    return (~(away.sub_(bound) > kth)).nonzero(as_tuple=True)


def _exact(queries: Floats, rows: Floats, lengths: Floats, metric: str) -> Floats:
    """Distances of rows from a query each, of unit length for cosines, in doubles."""
    if metric == "euclidean":
        return _scaled(rows - queries)[0]
    products = np.multiply(rows, queries, out=rows).sum(1)
    cosines = np.divide(
        products, lengths, out=np.zeros_like(lengths), where=lengths > 0
    )
    # To twelve decimals, so that equal directions tie whatever their lengths.
    distances: Floats = np.round(np.maximum(1.0 - cosines, 0.0), 12)
    return distances


def _scaled(rows: Floats) -> tuple[Floats, Floats]:
    """Lengths of rows and rows of unit length, where squares alone would overflow."""
    largest = np.abs(rows).max(1, keepdims=True)
    parts = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
    lengths = np.sqrt(np.square(parts).sum(1, keepdims=True))
    unit = np.divide(parts, lengths, out=np.zeros_like(parts), where=lengths > 0)
    return (largest * lengths)[:, 0], unit
