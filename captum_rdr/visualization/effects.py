"""How far members of a region differ from the bank, feature by feature."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from captum_rdr.method.region import Region

Array = npt.NDArray[Any]


class Effect(NamedTuple):
    """How members differ in one feature, or in one value of a categorical feature.

    Attributes:
        name: the feature, for a categorical one followed by ``= value``.
        size: standardized mean difference (Cohen's d), or difference of shares.
        is_share: whether it is a difference of shares, from -1 to 1.
        inside: mean, or share, among the members.
        outside: the same among all other rows.
    """

    name: str
    size: float
    is_share: bool
    inside: float
    outside: float


def columns_of(table: Any, feature_names: Sequence[str] | None) -> dict[str, Array]:
    """A table's columns by name.

    Args:
        table: a mapping from names to columns, as a pandas DataFrame is; or an array or
            tensor ``(N, F)``.
        feature_names: names of an array's columns.

    Raises:
        TypeError: the table is of another kind.
        ValueError: names and columns differ in number, or columns in length.

    >>> columns_of(np.array([[1, 2], [3, 4]]), ["a", "b"])["b"]
    array([2, 4])
    """
    if isinstance(table, Tensor):
        table = table.detach().cpu().numpy()
    if isinstance(table, np.ndarray) and table.ndim == 2:
        names = feature_names or [f"feature {i}" for i in range(table.shape[1])]
        if len(names) != table.shape[1]:
            raise ValueError(
                f"feature_names has {len(names)} items for {table.shape[1]} columns; give "
                "one each"
            )
        return {str(name): table[:, i] for i, name in enumerate(names)}
    if isinstance(table, Mapping) or hasattr(table, "columns"):
        columns = {str(name): np.asarray(table[name]) for name in table}
        if len({len(column) for column in columns.values()}) != 1:
            raise ValueError(
                "table's columns differ in length; give one row an instance"
            )
        return columns
    raise TypeError(
        f"table is a {type(table).__name__}; give an array or tensor (N, F), or a mapping "
        "from names to columns, e.g. a pandas DataFrame"
    )


def effects(columns: Mapping[str, Array], region: Region) -> list[Effect]:
    """How members differ from all other rows, largest differences first.

    Numbers are compared by the standardized mean difference ``(m1 - m0) / s`` with the
    pooled standard deviation (Cohen, *Statistical Power Analysis for the Behavioral
    Sciences*, 1988, Chapter 2), anything else, truth values and texts, by the share of
    each value. Missing numbers are left out; a feature without two numbers on each side
    has no effect size and is left out as well.

    Args:
        columns: one array ``(N,)`` a feature, row i of each being row i of the bank.
        region: its members are compared with the others.

    Raises:
        ValueError: a column is shorter than the members need.
    """
    found: list[Effect] = []
    for name, column in columns.items():
        if len(region.members) and int(region.members[-1]) >= len(column):
            raise ValueError(
                f"table has {len(column)} rows, but the region has member "
                f"{int(region.members[-1])}; give the table that fit read"
            )
        inside = np.zeros(len(column), bool)
        inside[region.members.numpy()] = True
        if column.dtype.kind in "uif":
            found += _mean_effect(name, column.astype(np.float64), inside)
        else:
            found += _share_effects(name, column, inside)
    return sorted(found, key=lambda effect: -abs(effect.size))


def _mean_effect(
    name: str, column: Array, inside: npt.NDArray[np.bool_]
) -> list[Effect]:
    known = np.isfinite(column)
    members, others = column[known & inside], column[known & ~inside]
    if len(members) < 2 or len(others) < 2:
        return []
    squares = np.square(members - members.mean()).sum()
    squares += np.square(others - others.mean()).sum()
    spread = float(np.sqrt(squares / (len(members) + len(others) - 2)))
    means = float(members.mean()), float(others.mean())
    if spread == 0:
        # Constant on either side: equal, or infinitely far apart.
        return (
            []
            if means[0] == means[1]
            else [Effect(name, np.copysign(np.inf, means[0] - means[1]), False, *means)]
        )
    return [Effect(name, (means[0] - means[1]) / spread, False, *means)]


def _share_effects(
    name: str, column: Array, inside: npt.NDArray[np.bool_]
) -> list[Effect]:
    if not inside.any() or inside.all():
        return []
    texts = np.array([str(value) for value in column.tolist()])
    values = ["True"] if column.dtype.kind == "b" else np.unique(texts).tolist()
    found = []
    for value in values:
        shares = [float((texts[side] == value).mean()) for side in (inside, ~inside)]
        found.append(Effect(f"{name} = {value}", shares[0] - shares[1], True, *shares))
    return found
