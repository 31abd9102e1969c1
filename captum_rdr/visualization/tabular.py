"""Which features of a region's members differ from the bank."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from captum_rdr._arguments import check_whole
from captum_rdr.method.region import Region
from captum_rdr.visualization.canvas import (
    BLUE,
    GRAY,
    ORANGE,
    Block,
    Canvas,
    FigureAxes,
    draw_sheet,
    paragraph,
    shortened,
)
from captum_rdr.visualization.effects import Effect, columns_of, effects
from captum_rdr.visualization.members import significance_rows
from captum_rdr.visualization.tiles import row_blocks

_ROW = 0.19


def visualize_tabular_region(
    region: Region,
    table: Any,
    *,
    feature_names: Sequence[str] | None = None,
    n_features: int = 10,
    plt_fig_axis: FigureAxes | None = None,
    use_pyplot: bool = True,
    fig_size: tuple[float, float] | None = None,
    title: str | None = None,
) -> FigureAxes:
    """Draw in which features a region's members differ from all other rows.

    Numbers are compared by the standardized mean difference (Cohen's d), anything else
    by the difference of each value's share, see `captum_rdr.visualization.effects`.

    Args:
        region: the region.
        table: the reference set's features, row i being row i of the bank: an array or
            tensor ``(N, F)``, or a mapping from names to columns, as a pandas DataFrame
            is. Numbers are compared by means; truth values and texts by shares.
        feature_names: names of an array's columns.
        n_features: effects of each kind to show at most, the largest first.
        plt_fig_axis: figure and Axes to draw in, as for Captum's visualizers.
        use_pyplot: make a new figure known to pyplot; it is never shown.
        fig_size: size of a new figure, in inches; None for 6 wide and as high as needed.
        title: a heading.

    Returns:
        the figure and the Axes that holds everything.

    Raises:
        TypeError: the table is of another kind.
        ValueError: the table does not fit the region or its names.

    >>> import torch
    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model = torch.nn.Identity()
    >>> data = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> region = rdr.attribute_members([3], 4, 2, weighting="evidence")[0]
    >>> fig, ax = visualize_tabular_region(region, data, use_pyplot=False)
    >>> len(ax.child_axes[0].patches)
    3
    """
    check_whole("n_features", n_features)
    found = effects(columns_of(table, feature_names), region)
    means = [one for one in found if not one.is_share]
    shares = [one for one in found if one.is_share]
    kinds = [
        (means, "Standardized mean difference, members less others (Cohen's d)"),
        (shares, "Difference of shares, members less others (percentage points)"),
    ]

    def content(width: float) -> list[Block]:
        blocks = [paragraph(f"{len(region.members)} members.", width)]
        blocks += row_blocks(significance_rows(region), width)
        for of_kind, name in kinds:
            if of_kind:
                count = f"{min(n_features, len(of_kind))} of {len(of_kind)} shown"
                blocks.append(paragraph(f"{name}: {count}", width))
                blocks.append(_effects_block(of_kind[:n_features], width))
        if not found:
            blocks.append(paragraph("No feature can be compared.", width))
        return blocks

    return draw_sheet(content, plt_fig_axis, use_pyplot, fig_size, title)


def _effects_block(shown: Sequence[Effect], width: float) -> Block:
    """One bar an effect, with its name before it and both sides behind it."""
    height = _ROW * len(shown)
    names, numbers = 0.3 * width, 1.35

    def draw(canvas: Canvas, x: float, y: float) -> None:
        ax = canvas.plot(x + names, y, width - names - numbers - 0.1, height)
        factor = 100 if shown[0].is_share else 1
        finite = [abs(one.size) for one in shown if np.isfinite(one.size)]
        limit = 1.1 * factor * max(finite, default=1.0) or 1.0
        sizes = np.clip([factor * one.size for one in shown], -limit, limit)
        colors = [BLUE if size > 0 else ORANGE for size in sizes]
        ax.barh(range(len(shown)), sizes, 0.7, color=colors)
        ax.set(xlim=(-limit, limit), ylim=(len(shown) - 0.5, -0.5), yticks=[])
        ax.axvline(0, color=GRAY, linewidth=0.6)
        ax.spines["left"].set_visible(False)
        for row, one in enumerate(shown):
            middle = y + (row + 0.5) * _ROW
            name = shortened(one.name, names - 0.1, 7)
            canvas.text(x + names - 0.06, middle, name, 7, ha="right", va="center")
            text = shortened(_both_sides(one), numbers, 7)
            canvas.text(x + width - numbers, middle, text, 7, va="center", color=GRAY)

    return Block(height + 0.3, draw)


def _both_sides(effect: Effect) -> str:
    if effect.is_share:
        return f"{effect.inside:.0%} against {effect.outside:.0%}"
    return f"{effect.inside:.4g} against {effect.outside:.4g}"
