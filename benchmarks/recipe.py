"""The recipe of purest regions: how it was chosen, and what it gives on other queries.

On CIFAR-10 images and a public ResNet-20, layer3, labels never shown to the layer. A part of
the queries served to choose pool, thresholds, size of S and rounds; the report is on others.
Needs the folder that ``benchmarks/purity.py`` needs; run with ``make recipe``.
"""

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar_resnet import CifarResNet, normalize
from precision import by_distance, by_evidence, precision
from safetensors.torch import load_file
from torch import Tensor, nn

from captum_rdr import Region, RelaxedDecisionRegion
from captum_rdr.method.rule import Metric
from captum_rdr.metrics import PairedEffect, generalization, purity, significance
from captum_rdr.pooling import spatial_max, spatial_mean

AT, N_SELECT, N_TRIED, N_REPORT = 50, 1500, 500, 2000
METRICS: tuple[Metric, ...] = (
    "configuration",
    "euclidean",
    "cosine",
    "centered_cosine",
)
POOLS = {  # that of no pool is in the table of benchmarks/purity.py
    "quarters, mean": nn.AdaptiveAvgPool2d(2),
    "quarters, maximum": nn.AdaptiveMaxPool2d(2),
    "spatial_max": spatial_max,
    "spatial_mean": spatial_mean,
}
QUANTILE = 0.7
# The best that was tried, and the best of the simplest pool; each with its k.
REPORTED = (("quarters, maximum", 16), ("spatial_mean", 100))


def recipe(n_neurons: int, k: int, rounds: int = 3) -> dict[str, Any]:
    """Choices of the recipe: all neurons, S by centered cosine and then by evidence."""
    return {
        "n_neighbors": k,
        "n_neurons": n_neurons,
        "weighting": "evidence",
        "neighbors": "centered_cosine",
        "rounds": rounds,
    }


def activations(model: CifarResNet, images: Tensor) -> Tensor:
    """What layer3 gives for the images, read once for all pools and thresholds."""
    rdr = RelaxedDecisionRegion(model, model.layer3)
    bank = rdr.fit(images, keep_features=True, show_progress=False).bank
    features: Tensor = bank.features
    return features.reshape(-1, *bank.layer_shape)


def fitted(layer: Tensor, pool: Any, threshold: Any) -> RelaxedDecisionRegion:
    """Index the layer's activations."""
    same = nn.Identity()
    rdr = RelaxedDecisionRegion(same, same, threshold=threshold, pool=pool)
    return rdr.fit(layer, keep_features=True, show_progress=False)


def explained(
    rdr: RelaxedDecisionRegion, queries: Tensor, **choices: Any
) -> list[Region]:
    """Regions of bank rows by the recipe."""
    rule = recipe(rdr.bank.n_neurons, **choices)
    found: list[Region] = rdr.attribute_members(queries, show_progress=False, **rule)
    return found


def select(layer: Tensor, labels: Tensor, queries: Tensor) -> None:
    """Print what was tried, on the queries that served to choose."""
    print(f"Tried, on {len(queries)} queries: purity at {AT}\n")
    print(
        "| pool | threshold | k | 1 round | 2 rounds | 3 rounds |\n|---|---|---|---|---|---|"
    )
    for name, pool in POOLS.items():
        rdr = fitted(layer, pool, "median")
        quantile = rdr.bank.features.quantile(QUANTILE, 0)
        other = fitted(layer, pool, quantile.reshape(rdr.bank.layer_shape))
        for threshold, one in (("median", rdr), (f"{QUANTILE} quantile", other)):
            for k in (16, 50, 100):
                cells = []
                for rounds in (1, 2, 3):
                    found = explained(one, queries, k=k, rounds=rounds)
                    ranked = by_evidence(found, one.bank)
                    reached = precision(ranked, queries, labels, AT)
                    cells.append(f"{reached.mean():.3f}")
                print(
                    f"| {name} | {threshold} | {k} | {' | '.join(cells)} |", flush=True
                )


def neighbors(
    rdr: RelaxedDecisionRegion, labels: Tensor, queries: Tensor
) -> dict[str, Tensor]:
    """Purity of the nearest neighbors by every metric."""
    return {
        metric: precision(by_distance(rdr, queries, AT, metric), queries, labels, AT)
        for metric in METRICS
    }


def row(name: str, values: Tensor, size: float) -> None:
    """Print one row of the report."""
    print(f"| {name} | {values.nanmean():.3f} | {size:.0f} |", flush=True)


def report(layer: Tensor, labels: Tensor, queries: Tensor) -> None:
    """Print the recipe beside neighbors of the same number."""
    print(f"\nReport, on {len(queries)} other queries\n")
    print("| rule | purity | members |\n|---|---|---|")
    full = fitted(layer, None, 0.0)
    paper = full.attribute_members(queries, show_progress=False)
    sizes = [len(region.members) - 1 for region in paper]
    row("paper's rule, its own members", purity(paper, labels), float(np.median(sizes)))
    unpooled = neighbors(full, labels, queries)
    for metric in METRICS:
        row(f"nearest by {metric}", unpooled[metric], AT)
    for name, k in REPORTED:
        median = fitted(layer, POOLS[name], "median")
        quantile = median.bank.features.quantile(QUANTILE, 0)
        threshold = quantile.reshape(median.bank.layer_shape)
        above = fitted(layer, POOLS[name], threshold)
        for which, rdr in (("median", median), (f"{QUANTILE} quantile", above)):
            regions = explained(rdr, queries, k=k)
            reached = precision(by_evidence(regions, rdr.bank), queries, labels, AT)
            at = neighbors(rdr, labels, queries)
            if rdr is median:
                for metric in METRICS[1:]:
                    row(f"nearest by {metric}, {name}", at[metric], AT)
            row(f"recipe, {name}, {which}", reached, AT)
            sizes = [len(region.members) - 1 for region in regions]
            own = purity(regions, labels)
            label = f"recipe, {name}, {which}, its own members"
            row(label, own, float(np.median(sizes)))
            others = {"": unpooled, ", pooled": at}
            details(regions, rdr, labels, reached, others)


def details(
    regions: list[Region],
    rdr: RelaxedDecisionRegion,
    labels: Tensor,
    reached: Tensor,
    others: dict[str, dict[str, Tensor]],
) -> None:
    """Print gains over neighbors, held-out purity, and the share that is significant."""
    for metric in ("cosine", "centered_cosine"):
        for features, theirs in others.items():
            gain = PairedEffect.of(reached, theirs[metric])
            low, high = gain.interval
            print(
                f"  ahead of {metric}{features}: {gain.difference:.3f} "
                f"(95 %: {low:.3f} to {high:.3f})"
            )
    held_out = generalization(regions, rdr.bank, labels, show_progress=False)
    tests = significance(regions, rdr.bank, show_progress=False)
    passed = [r.significance is not None and r.significance.passed for r in tests]
    print(f"  {held_out}\n  significant after correction: {np.mean(passed):.3f}")


def main() -> None:
    """Index, explain and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--part", choices=("select", "report"), nargs="*")
    given = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    data = np.load(given.data / "cifar10_subset.npz")
    model = CifarResNet()
    model.load_state_dict(load_file(given.data / "resnet20_cifar10.safetensors"))
    layer = activations(model, normalize(torch.from_numpy(data["images"])))
    labels = torch.from_numpy(data["labels"]).long()
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(len(layer), generator=generator)
    parts = given.part or ["select", "report"]
    if "select" in parts:
        select(layer, labels, order[:N_TRIED])
    if "report" in parts:
        report(layer, labels, order[N_SELECT : N_SELECT + N_REPORT])


if __name__ == "__main__":
    main()
