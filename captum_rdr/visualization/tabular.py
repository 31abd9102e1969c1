"""Which features of a region's members differ from the bank."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np
import numpy.typing as npt
from torch import Tensor

from captum_rdr._arguments import check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.visualization import sheet, tiles

_ROW = 0.19

Array = npt.NDArray[Any]


def visualize_tabular_region(
    region: Region,
    rdr: RelaxedDecisionRegion,
    table: Any,
    *,
    n_features: int = 10,
    **figure: Unpack[sheet.FigureOptions],
) -> sheet.FigureAxes:
    """Draw in which features a region's members differ from all other rows.

    Numbers are compared by the standardized mean difference (Cohen's d), anything else
    by the difference of each value's share. Missing numbers are left out.

    Args:
        region: the region.
        rdr: fitted; the region is one of its own.
        table: the reference set's features, row i being row i of the bank: an array or
            tensor ``(N, F)``, or a mapping from names to columns, as a pandas DataFrame
            is. Numbers are compared by means; truth values and texts by shares.
        n_features: effects of each kind to show at most, the largest first.
        **figure: see `FigureOptions`.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: the table is of another kind.
        ValueError: the table has not one row for each of the bank's, or its columns
            differ in length.

    >>> import torch
    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model = torch.nn.Identity()
    >>> data = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> region = rdr.attribute_members([3], 4, 2, weighting="evidence")[0]
    >>> fig, ax = visualize_tabular_region(region, rdr, data, use_pyplot=False)
    >>> len(ax.child_axes[0].patches)
    3
    """
    check_whole("n_features", n_features)
    _, bank = tiles.layer_of(region, rdr)
    found = effects(columns_of(table), region, len(bank))
    kinds = {
        "Standardized mean difference, members less others (Cohen's d)": False,
        "Difference of shares, members less others (percentage points)": True,
    }

    def content(width: float) -> list[sheet.Block]:
        blocks = tiles.headed(region, f"{len(region.members)} members.", width)
        for name, is_share in kinds.items():
            of_kind = [one for one in found if one.is_share == is_share]
            if of_kind:
                count = f"{min(n_features, len(of_kind))} of {len(of_kind)} shown"
                blocks.append(sheet.paragraph(f"{name}: {count}", width))
                blocks.append(_effects_block(of_kind[:n_features], width))
        if not found:
            blocks.append(sheet.paragraph("No feature can be compared.", width))
        return blocks

    return sheet.draw(content, **figure)


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


def columns_of(table: Any) -> dict[str, Array]:
    """A table's columns by name.

    Args:
        table: a mapping from names to columns, as a pandas DataFrame is; or an array or
            tensor ``(N, F)``.

    Raises:
        TypeError: the table is of another kind.
        ValueError: columns differ in length.

    >>> columns_of(np.array([[1, 2], [3, 4]]))["feature 1"]
    array([2, 4])
    """
    if isinstance(table, Tensor):
        table = table.detach().cpu().numpy()
    if isinstance(table, np.ndarray) and table.ndim == 2:
        return {f"feature {i}": column for i, column in enumerate(table.T)}
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


def effects(columns: Mapping[str, Array], region: Region, n_rows: int) -> list[Effect]:
    """How members differ from all other rows, largest differences first.

    Numbers are compared by the standardized mean difference ``(m1 - m0) / s`` with the
    pooled standard deviation (Cohen, *Statistical Power Analysis for the Behavioral
    Sciences*, 1988, Chapter 2), anything else, truth values and texts, by the share of
    each value. Missing numbers are left out; a feature without two numbers on each side
    has no effect size and is left out as well.

    Args:
        columns: one array ``(N,)`` a feature, row i of each being row i of the bank.
        region: its members are compared with the others.
        n_rows: the bank's.

    Raises:
        ValueError: there are more or fewer rows than in the bank.
    """
    found_rows = len(next(iter(columns.values()), ()))
    if found_rows != n_rows:
        raise ValueError(
            f"table has {found_rows} rows, but the region's bank {n_rows}; give the rows "
            "that fit read, in their order"
        )
    inside = np.isin(np.arange(n_rows), region.members.numpy())
    found = []
    for name, column in columns.items():
        if column.dtype.kind in "uif":
            found.append(_effect(name, column.astype(np.float64), inside, False))
            continue
        texts = np.array([str(value) for value in column.tolist()])
        values = ["True"] if column.dtype.kind == "b" else np.unique(texts)
        for value in values:
            has = (texts == value).astype(np.float64)
            found.append(_effect(f"{name} = {value}", has, inside, True))
    known = [effect for effect in found if effect is not None]
    return sorted(known, key=lambda effect: -abs(effect.size))


def _effect(name: str, column: Array, inside: Array, is_share: bool) -> Effect | None:
    """The effect in a column of numbers; None where there are too few, or all equal."""
    known = np.isfinite(column)
    members, others = column[known & inside], column[known & ~inside]
    if min(len(members), len(others)) < (1 if is_share else 2):
        return None
    means = float(members.mean()), float(others.mean())
    size = means[0] - means[1]
    if not is_share:
        squares = len(members) * members.var() + len(others) * others.var()
        spread = math.sqrt(squares / (len(members) + len(others) - 2))
        if size == 0 == spread:
            return None
        size = size / spread if spread else math.copysign(math.inf, size)
    return Effect(name, size, is_share, *means)


def _effects_block(shown: Sequence[Effect], width: float) -> sheet.Block:
    """One bar an effect, with its name before it and both sides behind it."""
    height = _ROW * len(shown)
    names, numbers = 0.3 * width, 1.35

    def draw(canvas: sheet.Canvas, x: float, y: float) -> None:
        ax = canvas.plot(x + names, y, width - names - numbers - 0.1, height)
        factor = 100 if shown[0].is_share else 1
        finite = [abs(one.size) for one in shown if np.isfinite(one.size)]
        limit = 1.1 * factor * max(finite, default=1.0) or 1.0
        sizes = np.clip([factor * one.size for one in shown], -limit, limit)
        colors = [sheet.BLUE if size > 0 else sheet.ORANGE for size in sizes]
        ax.barh(range(len(shown)), sizes, 0.7, color=colors)
        ax.set(xlim=(-limit, limit), ylim=(len(shown) - 0.5, -0.5), yticks=[])
        ax.axvline(0, color=sheet.GRAY, linewidth=0.6)
        ax.spines["left"].set_visible(False)
        for row, one in enumerate(shown):
            middle = y + (row + 0.5) * _ROW
            name = sheet.shortened(one.name, names - 0.1, 8)
            canvas.text(x + names - 0.06, middle, name, 8, ha="right", va="center")
            text = sheet.shortened(_both_sides(one), numbers, 8)
            canvas.text(
                x + width - numbers, middle, text, 8, va="center", color=sheet.GRAY
            )

    return sheet.Block(height + 0.3, draw)


def _both_sides(effect: Effect) -> str:
    if effect.is_share:
        return f"{effect.inside:.0%} against {effect.outside:.0%}"
    return f"{effect.inside:.4g} against {effect.outside:.4g}"
