"""Which features of a region's members differ from the bank."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np
from torch import Tensor

from captum_rdr._arguments import check_whole
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.visualization import sheet, subjects, tiles
from captum_rdr.visualization.reference import Array

_ROW = 0.19
_KINDS = (
    "Standardized mean difference, members less others (Cohen's d)",
    "Difference of shares, members less others (percentage points)",
)


def visualize_tabular_region(
    region: Region,
    rdr: RelaxedDecisionRegion,
    dataset: Any,
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
        dataset: the reference set's features, row i being row i of the bank: an array or
            tensor ``(N, F)``, or a mapping from names to columns, as a pandas DataFrame
            is. Numbers are compared by means; truth values and texts by shares.
        n_features: effects of each kind to show at most, the largest first.
        **figure: see `FigureOptions`.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: the data set is of another kind.
        ValueError: a column has not one row for each of the bank's.

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
    subject = subjects.of(region, rdr)
    found = effects(columns_of(dataset), region, len(subject.bank))
    parts: list[tiles.Part] = [*subject.headed(f"{len(region.members)} members.")]
    for is_share, name in enumerate(_KINDS):
        of_kind = [one for one in found if one.is_share == is_share]
        if of_kind:
            shown = of_kind[:n_features]
            text = f"{name}: {len(shown)} of {len(of_kind)} shown"
            parts += [tiles.Row(text), _effects_block(shown)]
    if not found:
        parts.append(tiles.Row("No feature can be compared."))
    return tiles.draw(parts, **figure)


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

    >>> columns_of(np.array([[1, 2], [3, 4]]))["feature 1"]
    array([2, 4])
    """
    if isinstance(table, Tensor):
        table = table.detach().cpu().numpy()
    if isinstance(table, np.ndarray) and table.ndim == 2:
        return {f"feature {i}": column for i, column in enumerate(table.T)}
    if isinstance(table, Mapping) or hasattr(table, "columns"):
        return {str(name): np.asarray(table[name]) for name in table}
    raise TypeError(
        f"dataset is a {type(table).__name__}; give an array or tensor (N, F), or a "
        "mapping from names to columns, e.g. a pandas DataFrame"
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
        ValueError: a column has more or fewer rows than the bank.
    """
    inside = np.isin(np.arange(n_rows), region.members.numpy())
    found = []
    for name, column in columns.items():
        if len(column) != n_rows:
            raise ValueError(
                f"dataset has {len(column)} rows in {name!r}, but the region's bank "
                f"{n_rows}; give the rows that fit read, in their order"
            )
        if column.dtype.kind in "uif":
            found.append(_effect(name, column.astype(np.float64), inside, False))
            continue
        texts = np.array([str(value) for value in column.tolist()])
        values = ["True"] if column.dtype.kind == "b" else np.unique(texts)
        for value in values:
            has = (texts == value).astype(np.float64)
            found.append(_effect(f"{name} = {value}", has, inside, True))
    known = [one for one in found if one is not None and not np.isnan(one.size)]
    return sorted(known, key=lambda one: -abs(one.size))


def _effect(name: str, column: Array, inside: Array, is_share: bool) -> Effect | None:
    """The effect in a column of numbers; None where there are too few, NaN of equal ones."""
    known = np.isfinite(column)
    sides = column[known & inside], column[known & ~inside]
    counts = [len(side) for side in sides]
    if min(counts) < (1 if is_share else 2):
        return None
    means = [float(side.mean()) for side in sides]
    size = means[0] - means[1]
    if not is_share:
        squares = sum(len(side) * side.var() for side in sides)
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.divide(size, np.sqrt(squares / (sum(counts) - 2)))
    return Effect(name, float(size), is_share, *means)


def _effects_block(shown: Sequence[Effect]) -> sheet.Block:
    """One bar an effect, with its name before it and both sides behind it."""
    height = _ROW * len(shown)
    width, before, behind = sheet.WIDTH, 0.3 * sheet.WIDTH, 1.35
    is_share = shown[0].is_share
    form = "{:.0%} against {:.0%}" if is_share else "{:.4g} against {:.4g}"

    def draw(canvas: sheet.Canvas, x: float, y: float) -> None:
        ax = canvas.plot(x + before, y, width - before - behind - 0.1, height)
        sizes = np.array([one.size for one in shown]) * (100 if is_share else 1)
        limit = 1.1 * max(abs(sizes[np.isfinite(sizes)]), default=0) or 1.0
        colors = [sheet.BLUE if size > 0 else sheet.ORANGE for size in sizes]
        ax.barh(range(len(shown)), sizes.clip(-limit, limit), 0.7, color=colors)
        ax.set(xlim=(-limit, limit), ylim=(len(shown) - 0.5, -0.5), yticks=[])
        ax.axvline(0, color=sheet.GRAY, linewidth=0.6)
        ax.spines["left"].set_visible(False)
        for row, one in enumerate(shown):
            middle = y + (row + 0.5) * _ROW
            name = sheet.shortened(one.name, before - 0.1)
            canvas.text(x + before - 0.06, middle, name, ha="right", va="center")
            text = sheet.shortened(form.format(one.inside, one.outside), behind)
            at = x + width - behind
            canvas.text(at, middle, text, va="center", color=sheet.GRAY)

    return sheet.Block(height + 0.3, draw)
