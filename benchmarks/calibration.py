"""Calibration: whether tests and intervals keep what they promise.

On noise of many kinds the share of regions significant at 5 % must be about 5 %, in every
layout; on clusters nearly all must be; mixtures must be told from concepts; and 95 %
intervals must cover in 95 % of simulated cases. Run with ``make calibration``.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import ttest_rel
from torch import Tensor, nn

from captum_rdr import ConfigurationBank, Region, RelaxedDecisionRegion
from captum_rdr.method.region import COHERENT
from captum_rdr.metrics import PairedEffect, Significance, significance
from captum_rdr.metrics._coherence import Activity, coherence

LEVEL = 0.05
EVIDENCE: dict[str, Any] = {"weighting": "evidence"}
RULES: dict[str, dict[str, Any]] = {"paper's rule": {}, "evidence": EVIDENCE}
Draw = Callable[[torch.Generator], Tensor]


class Null(NamedTuple):
    """Noise in which there is nothing to find.

    Attributes:
        draw: gives the features of one bank.
        channel_axis: what `significance` is told.
        rule: choices beside the rule's.
    """

    draw: Draw
    channel_axis: int | None = None
    rule: dict[str, Any] = {}  # noqa: RUF012


def independent(n_rows: int, n_neurons: int) -> Draw:
    """Neurons active with a frequency each, from 0 to 1."""

    def draw(generator: torch.Generator) -> Tensor:
        frequency = torch.rand(n_neurons, generator=generator)
        return frequency - torch.rand(n_rows, n_neurons, generator=generator)

    return draw


def smooth(channels: int, lay: Callable[[Tensor], Tensor] = lambda x: x) -> Draw:
    """Independent channels of 8 x 8 places, smooth in space, in some layout."""

    def draw(generator: torch.Generator) -> Tensor:
        coarse = torch.randn(500, channels, 2, 2, generator=generator)
        return lay(nn.functional.interpolate(coarse, size=8, mode="bilinear"))

    return draw


def heavy_tails(generator: torch.Generator) -> Tensor:
    """Student's t with one degree of freedom, around each neuron's median."""
    normal = torch.randn(2, 500, 512, generator=generator)
    values = normal[0] / normal[1].abs().clamp(min=1e-4)
    return values - values.median(0).values


def activity(generator: torch.Generator) -> Tensor:
    """Independent neurons, in some instances many active and in some hardly one."""
    share = torch.rand(500, 1, generator=generator) ** 2 / 2
    return share - torch.rand(500, 512, generator=generator)


NULLS = {
    "independent": Null(independent(500, 512)),
    "smooth, channels first": Null(smooth(32), 0),
    "smooth, channels last": Null(smooth(32, lambda x: x.movedim(1, -1)), 2),
    "smooth, tokens": Null(smooth(32, lambda x: x.flatten(2).mT), 1),
    "heavy tails, S by cosine": Null(heavy_tails, rule={"neighbors": "cosine"}),
    "overall activity varies": Null(activity),
    "small N (40)": Null(independent(40, 512), rule={"n_neurons": 4}),
    "ties (8 neurons)": Null(independent(500, 8), rule={"n_neighbors": 4}),
    "smooth, first, axis not said": Null(smooth(32)),
}
UNTESTABLE = {  # noise whose neurons cannot be split
    "smooth, last, axis not said": Null(smooth(32, lambda x: x.movedim(1, -1))),
    "smooth, flattened": Null(smooth(32, lambda x: x.flatten(1))),
    "smooth, one channel": Null(smooth(1), 0),
    "smooth, one channel, not said": Null(smooth(1)),
}


def clusters(n_clusters: int, flip: float, n_neurons: int, n_rows: int) -> Draw:
    """Clusters of equal size, in which each state flips with a probability."""

    def draw(generator: torch.Generator) -> Tensor:
        centers = torch.rand(n_clusters, n_neurons, generator=generator) < 0.3
        states = centers[torch.arange(n_rows) % n_clusters]
        flipped = torch.rand(n_rows, n_neurons, generator=generator) < flip
        return (states ^ flipped).float() - 0.5

    return draw


def tested(
    null: Null, rule: dict[str, Any], n_banks: int, n_regions: int
) -> list[Significance]:
    """Tests of regions of random rows, as many in each of several banks.

    Regions of one bank share its chance structure: only many banks show the rate.
    """
    found: list[Significance] = []
    layer = nn.Identity()
    for seed in range(n_banks):
        features = null.draw(torch.Generator().manual_seed(seed))
        bank = ConfigurationBank(features.shape[1:])
        by_features = {"neighbors", "weighting"} & {*rule, *null.rule}
        bank.append(features > 0, features.flatten(1) if by_features else None)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(features), generator=generator)[:n_regions]
        rdr = RelaxedDecisionRegion(layer, layer, bank=bank)
        regions = rdr.attribute_members(rows, show_progress=False, **null.rule, **rule)
        regions = significance(
            regions,
            bank,
            channel_axis=null.channel_axis,
            n_permutations=199,
            generator=generator,
            show_progress=False,
        )
        found += [one.significance for one in regions if one.significance is not None]
    return found


def line(name: str, tests: list[Significance]) -> None:
    """Print one row of a table."""
    testable = [test for test in tests if test.testable]
    start = f"| {name} | {len(testable) / len(tests):.2f} |"
    if not testable:
        print(f"{start} {tests[0].untestable} | - | - | - |", flush=True)
        return
    p_values = np.array([test.p_value for test in testable])
    both = [
        replace(test, adjusted_p_value=None, level=LEVEL).passed for test in testable
    ]
    outside = np.median([test.n_outside for test in testable])
    print(
        f"{start} {np.mean(p_values <= LEVEL):.3f} | {np.mean(p_values <= 0.2):.3f} | "
        f"{np.mean(both):.3f} | {outside:.0f} |",
        flush=True,
    )


def header(title: str) -> None:
    """Print the head of a table of tests."""
    print(
        f"\n{title}\n\n| bank, rule | testable | p <= 0.05 | p <= 0.2 | p <= 0.05 and no "
        "mixture | median outside S |\n|---|---|---|---|---|---|",
        flush=True,
    )


def on_noise(n_banks: int) -> None:
    """The share of significant regions where there is nothing to find."""
    header("Noise: shares of testable regions")
    for name, null in (NULLS | UNTESTABLE).items():
        for rule, choices in RULES.items():
            some = 5 if name in UNTESTABLE else n_banks
            line(f"{name}, {rule}", tested(null, choices, some, 10))


def on_clusters(n_banks: int) -> None:
    """The share of significant regions where every row is one of a cluster."""
    header("Clusters: shares of testable regions (power)")
    rules = {**RULES, "tolerance 2": {"tolerance": 2}}
    for n_clusters, flip in ((50, 0.1), (50, 0.2), (20, 0.2), (100, 0.1)):
        bank = Null(clusters(n_clusters, flip, 512, 3000))
        for rule, choices in rules.items():
            tests = tested(bank, choices, n_banks, 40)
            line(f"{n_clusters} clusters, {flip:.0%} flipped, {rule}", tests)


def on_shares(n_banks: int) -> None:
    """What share of further instances of a query's cluster lies in its region."""
    print(
        "\nRegions by evidence of rows of clusters, 512 neurons: held-out instances inside\n\n"
        "| clusters of 3,000 rows, flipped | of the same cluster | of others |\n"
        "|---|---|---|"
    )
    layer = nn.Identity()
    for n_clusters, flip in ((100, 0.1), (50, 0.1), (50, 0.2), (20, 0.2), (20, 0.3)):
        own, others = [], []
        for seed in range(n_banks):
            draw = clusters(n_clusters, flip, 512, 3000 + 100 * n_clusters)
            features = draw(torch.Generator().manual_seed(seed))
            kept, held = features[:3000], features[3000:]
            rdr = RelaxedDecisionRegion(layer, layer)
            rdr.fit(kept, keep_features=True, show_progress=False)
            regions = rdr.attribute_members(range(40), show_progress=False, **EVIDENCE)
            for row, region in enumerate(regions):
                inside = region.contains(held > 0).float()
                same = (torch.arange(3000, len(features)) - row) % n_clusters == 0
                own.append(float(inside[same].mean()))
                others.append(float(inside[~same].mean()))
        print(
            f"| {n_clusters}, {flip:.0%} | {np.mean(own):.2f} | {np.mean(others):.4f} |",
            flush=True,
        )


MIXTURES = {  # clusters of S, and of members outside S, in turn; -1 for any row
    "one cluster": ([0], [0]),
    "four in five of the cluster": ([0], [0, 0, 0, 0, -1]),
    "two clusters": ([0], [0, 1]),
    "S and members of two clusters": ([0, 1], [0, 1]),
    "one in four of the cluster": ([0], [0, -1, -1, -1]),
    "S of three clusters, members of six": ([0, 1, 2], [0, 1, 2, 3, 4, 5]),
}
SETTINGS = {  # share that flips, neurons, size of S, members outside S
    "10 or 20 % flipped": [(0.1, 512, 8, 30), (0.2, 512, 8, 30)],
    "others": [(0.3, 512, 8, 30), (0.2, 256, 16, 60), (0.05, 1000, 8, 20)],
}


def planted(
    kind: tuple[list[int], list[int]], setting: tuple[float, int, int, int], seed: int
) -> float:
    """Coherence of a region whose S and members are drawn as planned."""
    flip, n_neurons, size, n_outside = setting
    generator = torch.Generator().manual_seed(seed)
    states = clusters(20, flip, n_neurons, 2000)(generator) > 0
    taken: set[int] = set()

    def pick(of: list[int], count: int) -> Tensor:
        rows: list[int] = []
        for place in range(count):
            number = of[place % len(of)]
            while True:
                row = int(torch.randint(2000, (), generator=generator))
                if row not in taken and number in (-1, row % 20):
                    break
            taken.add(row)
            rows.append(row)
        return torch.tensor(rows)

    inside, outside = pick(kind[0], size), pick(kind[1], n_outside)
    half = torch.randperm(n_neurons, generator=generator) < n_neurons // 2
    banks = []
    for part in (half, ~half):
        banks.append(ConfigurationBank((int(part.sum()),)))
        banks[-1].append(states[:, part])
    none = torch.empty(0)
    region = Region(
        neurons=none.long(),
        states=none.bool(),
        scores=none,
        weights=none,
        offset=0.0,
        tolerance=0,
        evidence_cut=None,
        members=torch.cat([inside, outside]).sort().values,
        neighbors=inside,
        distances=none,
        layer_shape=banks[0].layer_shape,
        query=int(inside[0]),
    )
    own = states[inside[:1]][:, ~half]
    finding, judging = banks
    found = coherence(region, own[0], finding, judging, Activity.of(judging))
    return float("nan") if found is None else found


def on_mixtures(n_regions: int) -> None:
    """How often planted mixtures and concepts are told by their coherence."""
    print(
        f"\nMixtures: share of coherence below {COHERENT}\n\n| S, members | settings | "
        "called a mixture | coherence, 5 % to 95 % |\n|---|---|---|---|"
    )
    for name, kind in MIXTURES.items():
        for part, settings in SETTINGS.items():
            found = np.array(
                [
                    planted(kind, setting, seed)
                    for setting in settings
                    for seed in range(n_regions)
                ]
            )
            low, high = np.nanquantile(found, [0.05, 0.95])
            print(
                f"| {name} | {part} | {np.mean(found < COHERENT):.3f} | {low:.2f} to "
                f"{high:.2f} |",
                flush=True,
            )


SPREADS = {  # standard deviations of inputs, of sets, and of what is left over
    "inputs and sets alike": (1.0, 1.0, 1.0),
    "sets vary, inputs hardly": (0.1, 1.0, 0.5),
    "inputs vary, sets hardly": (1.0, 0.1, 0.5),
    "neither but for noise": (0.1, 0.1, 1.0),
}


def on_intervals(n_cases: int) -> None:
    """How often 95 % intervals of `PairedEffect` cover the difference in the mean."""
    print(
        "\nIntervals of `ablation`, 39 random sets: share of cases in which they cover\n\n"
        "| what varies | inputs | normal | exponential | over inputs alone | p <= 0.05 |\n"
        "|---|---|---|---|---|---|"
    )
    for name, (of_inputs, of_sets, rest) in SPREADS.items():
        for n_inputs in (10, 50):
            shares = []
            for shape in ("normal", "exponential"):
                drawing = np.random.default_rng(0)

                def noise(*size: int, spread: float, shape: str = shape) -> Any:
                    normal = shape == "normal"
                    drawn = drawing.normal if normal else drawing.exponential  # noqa: B023
                    return spread * (drawn(size=size) - (not normal))

                covered, alone, small = [], [], []
                for _ in range(n_cases):
                    own = noise(n_inputs, spread=of_inputs)
                    # The principal set is one of the random ones: no difference.
                    sets = noise(40, 1, spread=of_sets)
                    each = own + sets + noise(40, n_inputs, spread=rest)
                    target = float(sets[0, 0])
                    away = noise(n_inputs, spread=of_inputs)
                    effects = torch.tensor(each[0] + away)
                    controls = torch.tensor(each[1:])
                    found = PairedEffect.of(effects, controls)
                    covered.append(found.interval[0] <= target <= found.interval[1])
                    paired = ttest_rel(effects, controls.mean(0))
                    low, high = paired.confidence_interval()
                    alone.append(low <= target <= high)
                    found = PairedEffect.of(torch.tensor(each[0]), controls)
                    small.append(found.p_value <= LEVEL)
                shares.append((np.mean(covered), np.mean(alone), np.mean(small)))
            print(
                f"| {name} | {n_inputs} | {shares[0][0]:.3f} | {shares[1][0]:.3f} | "
                f"{shares[0][1]:.3f} | {shares[0][2]:.3f} |",
                flush=True,
            )


def cost(n_rows: int) -> None:
    """Time of finding and testing the region of every row of a bank."""
    states = clusters(100, 0.15, 4096, n_rows)(torch.Generator().manual_seed(0)) > 0
    bank = ConfigurationBank((64, 8, 8))
    bank.append(states.reshape(-1, 64, 8, 8))
    layer, started = nn.Identity(), time.perf_counter()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank)
    regions = rdr.attribute_members(range(n_rows))
    found = time.perf_counter() - started
    tests = significance(regions, bank, channel_axis=0)
    passed = sum(
        one.significance is not None and one.significance.passed for one in tests
    )
    print(
        f"\n{n_rows} regions of a {n_rows} x {4096} bank, "
        f"{torch.get_num_threads()} threads: found in {found:.0f} s, tested in "
        f"{time.perf_counter() - started - found:.0f} s, {passed} significant"
    )


PARTS: dict[str, tuple[Callable[[int], None], int]] = {
    "noise": (on_noise, 80),
    "clusters": (on_clusters, 4),
    "shares": (on_shares, 4),
    "mixtures": (on_mixtures, 30),
    "intervals": (on_intervals, 1000),
    "cost": (cost, 3000),
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=PARTS, nargs="*", default=list(PARTS))
    given = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # few neurons are unanimous in noise
    for name in given.part:
        part, size = PARTS[name]
        part(size)


if __name__ == "__main__":
    main()
