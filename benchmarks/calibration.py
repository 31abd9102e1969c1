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
from captum_rdr.metrics import significance
from captum_rdr.significance import Significance

N_ROWS, LEVEL, ENOUGH = 3000, 0.05, 20


class Tested(NamedTuple):
    """Regions of one kind of bank, and what the test made of them."""

    regions: list[Region]
    tests: list[Significance]

    @property
    def share(self) -> float:
        """Share of regions that are significant."""
        return float(np.mean([test.passed for test in self.tests]))

    @property
    def large(self) -> "Tested":
        """Those with enough members outside S."""
        kept = [i for i, test in enumerate(self.tests) if test.n_outside >= ENOUGH]
        return Tested([self.regions[i] for i in kept], [self.tests[i] for i in kept])


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
    test: dict[str, Any],
    **rule: Any,
) -> Tested:
    """Test regions of random rows, an equal share of them in each of several banks.

    Regions of one bank share its chance structure; only several banks show the rate.
    """
    regions, tests = [], []
    for seed in range(n_banks):
        states = draw(seed)
        bank = ConfigurationBank(states.shape[1:])
        bank.append(states)
        layer = nn.Identity()
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(states), generator=generator)[: n_regions // n_banks]
        found = RelaxedDecisionRegion(layer, layer, bank=bank).attribute_members(
            rows, show_progress=False, **rule
        )
        regions += found
        tests += significance(
            found, bank, generator=generator, show_progress=False, level=LEVEL, **test
        )
    return Tested(regions, tests)


def line(name: str, found: Tested, started: float) -> None:
    """Print one row of a table."""
    outside = np.median([test.n_outside for test in found.tests])
    none = np.mean([test.n_outside == 0 for test in found.tests])
    large = found.large
    of_large = f"{large.share:.3f}" if len(large.tests) else "-"
    print(
        f"| {name} | {found.share:.3f} | {of_large} ({len(large.tests)}) | "
        f"{outside:.0f} | {none:.2f} | {time.perf_counter() - started:.0f} s |",
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


RULES: dict[str, dict[str, Any]] = {
    "k=8, t=10": {},
    "tolerance 2": {"tolerance": 2},
    "evidence, t=50, 10 nats": {
        "weighting": "evidence",
        "n_neurons": 50,
        "tolerance": 10.0,
    },
}


def main() -> None:
    """Print the share of significant regions on noise and on clusters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--regions", type=int, default=1000)
    parser.add_argument("--banks", type=int, default=50)
    given = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # few neurons are unanimous in noise
    header("Noise: share of regions significant at 5 %", "significant")
    for n_neurons in (512, 12_800):
        for name, frequency in (("p=0.5", 0.5), ("p=0.1", 0.1), ("mixed p", None)):
            for rule, choices in RULES.items():
                started = time.perf_counter()
                found = tested(
                    noise(frequency, n_neurons),
                    given.regions,
                    given.banks,
                    {},
                    **choices,
                )
                line(f"{name}, D={n_neurons}, {rule}", found, started)


if __name__ == "__main__":
    main()
