"""Tests of many regions, corrected for their number."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm

from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region, Significance
from captum_rdr.metrics.chance import permuted_columns, random_neighbors, random_neurons
from captum_rdr.metrics.finding import findings
from captum_rdr.metrics.halves import Trial, trial
from captum_rdr.metrics.permutation import (
    checked_count,
    has_members_outside,
    permutation_p_values,
)

Against = Literal["members", "neighbors", "neurons", "columns"]

_CHANCES = {
    "neighbors": random_neighbors,
    "neurons": random_neurons,
    "columns": permuted_columns,
}


def significance(
    regions: Sequence[Region],
    bank: ConfigurationBank,
    against: Against = "members",
    *,
    n_permutations: int = 999,
    level: float = 0.05,
    generator: torch.Generator | None = None,
    show_progress: bool = True,
) -> list[Significance]:
    """Test whether regions are more than chance finds.

    Each region is found anew by its own rule on a random half of the neurons, and judged
    by how far its members outside S agree with S on the other half; see
    `captum_rdr.metrics.coherence`. A result does not depend on what other regions are
    tested with it.

    Args:
        regions: regions of ``bank``, of its rows or of inputs.
        bank: the bank they were found in.
        against: what chance is: ``"members"``, random rows in place of the members
            (exact, and fast enough for every row of a bank); ``"neighbors"``, regions
            that the same rule makes of random sets S; ``"neurons"``, random unanimous
            neurons, matched on state and activation frequency, in place of the
            principal ones; ``"columns"``, a bank in which each neuron's column is
            shuffled (slow: a new bank for every permutation).
        n_permutations: how often chance is drawn; the smallest p-value is
            ``1 / (1 + n_permutations)``, except against ``"members"``, where it may be
            smaller, see `captum_rdr.metrics.permutation.permutation_p_values`.
        level: p-values up to this count as significant.
        generator: splits the neurons and draws chance; None for one seeded with 0.
        show_progress: draw progress bars when it takes more than a second.

    Returns:
        one result a region, its p-value not corrected; see `with_significance`. A region
        without a member outside S has p = 1.

    Raises:
        TypeError: something is no region.
        ValueError: a region is that of another bank or lacks its rule; ``against``,
            ``level`` or ``n_permutations`` is out of range.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> drawing = torch.Generator().manual_seed(0)
    >>> centers = torch.randn(6, 64, generator=drawing).repeat_interleave(30, 0)
    >>> data = centers + torch.randn(180, 64, generator=drawing) / 2
    >>> data[-1] = torch.randn(64, generator=drawing)  # like nothing else
    >>> model = torch.nn.Identity()
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> regions = rdr.attribute_members([0, 179], n_neurons=5)
    >>> for test in significance(regions, rdr.bank, show_progress=False):
    ...     print(test)
    p=2.5e-16
    not significant: p=0.23
    """
    if against not in ("members", *_CHANCES):
        raise ValueError(
            f"against={against!r} is unknown; use "
            f"{', '.join(repr(name) for name in ('members', *_CHANCES))}"
        )
    if not 0 < level < 1:
        raise ValueError(f"level={level} is no probability; use e.g. 0.05")
    count = checked_count(n_permutations)
    if not regions:
        return []
    judged = trial(regions, bank, generator, show_progress=show_progress)
    if against == "members":
        p_values = permutation_p_values(judged, count, show_progress=show_progress)
    else:
        p_values = list(_p_values(judged, against, count, show_progress))
    return [
        Significance(
            p_value=p_value,
            effect=found.effect,
            n_outside=len(found.picked),
            level=level,
        )
        for found, p_value in zip(findings(judged), p_values, strict=True)
    ]


def _p_values(
    judged: Trial, against: str, count: int, show_progress: bool
) -> Iterator[float]:
    chance = tqdm(
        _CHANCES[against](judged, count),
        total=len(judged.found),
        desc="Testing",
        unit="region",
        disable=not show_progress,
        delay=1,
    )
    for region, found, effects in zip(
        judged.queries, findings(judged), chance, strict=True
    ):
        reached = int((effects >= found.effect).sum())
        is_tested = len(found.picked) and has_members_outside(region)
        yield (1 + reached) / (1 + count) if is_tested else 1.0


def with_significance(
    regions: Sequence[Region],
    bank: ConfigurationBank,
    against: Against = "members",
    *,
    n_permutations: int = 999,
    level: float = 0.05,
    generator: torch.Generator | None = None,
    show_progress: bool = True,
) -> list[Region]:
    """The same regions, each with its test, corrected for the number of regions.

    The p-values are adjusted by the method of Benjamini and Hochberg (*Controlling the
    false discovery rate*, J. R. Stat. Soc. B 1995): of the regions that pass, at most a
    share of ``level`` are chance finds, on average.

    Args:
        regions: as in `significance`.
        bank: as in `significance`.
        against: as in `significance`.
        n_permutations: as in `significance`.
        level: the share of chance finds among the regions that pass.
        generator: as in `significance`.
        show_progress: as in `significance`.

    Returns:
        the regions with ``region.significance`` set.

    Raises:
        TypeError: as `significance`.
        ValueError: as `significance`.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> drawing = torch.Generator().manual_seed(0)
    >>> centers = torch.randn(6, 64, generator=drawing).repeat_interleave(30, 0)
    >>> data = centers + torch.randn(180, 64, generator=drawing) / 2
    >>> model = torch.nn.Identity()
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> regions = rdr.attribute_members(range(180), n_neurons=5)
    >>> regions = with_significance(regions, rdr.bank, show_progress=False)
    >>> sum(region.significance.passed for region in regions)
    177
    """
    tests = significance(
        regions,
        bank,
        against,
        n_permutations=n_permutations,
        level=level,
        generator=generator,
        show_progress=show_progress,
    )
    adjusted = benjamini_hochberg([test.p_value for test in tests])
    return [
        replace(region, significance=replace(test, adjusted_p_value=float(value)))
        for region, test, value in zip(regions, tests, adjusted, strict=True)
    ]


def benjamini_hochberg(p_values: Sequence[float]) -> npt.NDArray[np.float64]:
    """Adjusted p-values: the smallest false discovery rate at which each one passes.

    Args:
        p_values: one a test.

    Returns:
        float64 array, as long, in the same order.

    Source: Benjamini and Hochberg, J. R. Stat. Soc. B 57 (1995).

    >>> benjamini_hochberg([0.01, 0.04, 0.03, 1.0])
    array([0.04      , 0.05333333, 0.05333333, 1.        ])
    """
    from scipy.stats import false_discovery_control

    if not len(p_values):
        return np.empty(0)
    adjusted: npt.NDArray[np.float64] = false_discovery_control(p_values)
    return adjusted
