"""Calibration of the test of regions: how often it finds something in pure noise.

On banks of independent neurons the share of regions that are significant at 5 % must be
about 5 %; on banks with known clusters nearly all regions must be. Run with
``make calibration``.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from captum_rdr import ConfigurationBank, Region, RelaxedDecisionRegion
from captum_rdr.metrics import Significance, significance

N_ROWS, LEVEL, ENOUGH = 3000, 0.05, 20


class Tested(NamedTuple):
    """Regions of one kind of bank, and what the test made of them."""

    regions: list[Region]
    tests: list[Significance]
    seconds: float

    @property
    def share(self) -> float:
        """Share of regions that are significant, not corrected for their number."""
        return float(np.mean([test.p_value <= LEVEL for test in self.tests]))

    @property
    def large(self) -> "Tested":
        """Those with enough members outside S."""
        kept = [i for i, test in enumerate(self.tests) if test.n_outside >= ENOUGH]
        return Tested(
            [self.regions[i] for i in kept], [self.tests[i] for i in kept], 0.0
        )


def noise(frequency: float | None, n_neurons: int) -> Callable[[int], Tensor]:
    """Make banks of independent neurons; None mixes frequencies from 0 to 1."""

    def draw(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        p = torch.rand(n_neurons, generator=generator)
        if frequency is not None:
            p = torch.full((n_neurons,), frequency)
        return torch.rand(N_ROWS, n_neurons, generator=generator) < p

    return draw


def clusters(n_clusters: int, flip: float, n_neurons: int) -> Callable[[int], Tensor]:
    """Make banks of clusters of equal size; each neuron flips with a probability."""

    def draw(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        centers = torch.rand(n_clusters, n_neurons, generator=generator) < 0.3
        states = centers[torch.arange(N_ROWS) % n_clusters]
        flipped = torch.rand(N_ROWS, n_neurons, generator=generator) < flip
        return states ^ flipped

    return draw


def tested(
    draw: Callable[[int], Tensor],
    n_regions: int,
    n_banks: int,
    rules: dict[str, dict[str, Any]],
) -> dict[str, Tested]:
    """Test regions of random rows, an equal share of them in each of several banks.

    Regions of one bank share its chance structure (where neurons are seldom active, they
    even share most of their members): only many banks show the rate.
    """
    results = {name: Tested([], [], 0.0) for name in rules}
    for seed in range(n_banks):
        states = draw(seed)
        bank = ConfigurationBank(states.shape[1:])
        bank.append(states)
        layer = nn.Identity()
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(states), generator=generator)[: n_regions // n_banks]
        rdr = RelaxedDecisionRegion(layer, layer, bank=bank)
        for name, rule in rules.items():
            started = time.perf_counter()
            found = rdr.attribute_members(rows, show_progress=False, **rule)
            splitting = torch.Generator().manual_seed(seed)
            found = significance(found, bank, generator=splitting, show_progress=False)
            tests = [one.significance for one in found if one.significance is not None]
            regions, before, seconds = results[name]
            seconds += time.perf_counter() - started
            results[name] = Tested(regions + found, before + tests, seconds)
    return results


def line(name: str, found: Tested) -> None:
    """Print one row of a table."""
    outside = np.median([test.n_outside for test in found.tests])
    none = np.mean([test.n_outside == 0 for test in found.tests])
    large = found.large
    of_large = f"{large.share:.3f}" if len(large.tests) else "-"
    print(
        f"| {name} | {found.share:.3f} | {of_large} ({len(large.tests)}) | "
        f"{outside:.0f} | {none:.2f} | {found.seconds:.0f} s |",
        flush=True,
    )


def header(title: str, what: str) -> None:
    """Print the head of a table."""
    print(f"\n{title}\n")
    print(
        f"| bank | {what} | of those with {ENOUGH} or more outside S (number) | median "
        "outside S | none | time |\n|---|---|---|---|---|---|",
        flush=True,
    )


def rules(n_neurons: int) -> dict[str, dict[str, Any]]:
    """The rules to test; in a wide layer evidence needs more slack to find anyone."""
    nats = 10.0 if n_neurons < 1000 else 24.0
    return {
        "k=8, t=10": {},
        "tolerance 2": {"tolerance": 2},
        f"evidence, t=50, {nats:.0f} nats": {
            "weighting": "evidence",
            "n_neurons": 50,
            "tolerance": nats,
        },
    }


CLUSTERS = ((50, 0.1), (50, 0.2), (20, 0.2), (100, 0.1))  # number, share that flips


def on_noise(given: argparse.Namespace) -> None:
    """The share of significant regions where there is nothing to find."""
    header("Noise: share of regions significant at 5 %", "significant")
    for n_neurons in given.neurons:
        for name, frequency in (("p=0.5", 0.5), ("p=0.1", 0.1), ("mixed p", None)):
            draw = noise(frequency, n_neurons)
            results = tested(draw, given.regions, given.banks, rules(n_neurons))
            for rule, found in results.items():
                line(f"{name}, D={n_neurons}, {rule}", found)


def on_clusters(given: argparse.Namespace) -> None:
    """The share of significant regions where every row is one of a cluster."""
    header("Clusters: share of regions significant at 5 % (power)", "significant")
    for n_neurons in given.neurons:
        for n_clusters, flip in CLUSTERS:
            draw = clusters(n_clusters, flip, n_neurons)
            results = tested(draw, given.regions // 4, 5, rules(n_neurons))
            for rule, found in results.items():
                line(f"{n_clusters} clusters, {flip:.0%}, D={n_neurons}, {rule}", found)


def cost(given: argparse.Namespace) -> None:
    """Time of finding and testing the region of every row of a bank."""
    generator = torch.Generator().manual_seed(0)
    n_rows, n_neurons = 10_000, 4096
    centers = torch.rand(100, n_neurons, generator=generator) < 0.3
    states = centers[torch.arange(n_rows) % 100]
    states ^= torch.rand(n_rows, n_neurons, generator=generator) < 0.15
    bank = ConfigurationBank((64, 8, 8))
    bank.append(states.reshape(-1, 64, 8, 8))
    layer, started = nn.Identity(), time.perf_counter()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank)
    regions = rdr.attribute_members(range(n_rows))
    found = time.perf_counter() - started
    tests = significance(regions, bank)
    passed = sum(
        one.significance is not None and one.significance.passed for one in tests
    )
    print(
        f"\n{n_rows} regions of a {n_rows} x {n_neurons} bank, "
        f"{torch.get_num_threads()} threads: found in {found:.0f} s, tested in "
        f"{time.perf_counter() - started - found:.0f} s, {passed} significant"
    )


PARTS = {
    "noise": on_noise,
    "clusters": on_clusters,
    "cost": cost,
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--regions", type=int, default=1000)
    parser.add_argument("--banks", type=int, default=200)
    parser.add_argument("--neurons", type=int, nargs="*", default=[512, 12_800])
    parser.add_argument("--part", choices=PARTS, nargs="*", default=list(PARTS))
    given = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # few neurons are unanimous in noise
    for part in given.part:
        PARTS[part](given)


if __name__ == "__main__":
    main()
