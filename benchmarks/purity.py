"""Label purity: do members of a region share a label that the layer was never shown.

On CIFAR-10 images and a public ResNet-20, layer3: of the paper's rule, of
tolerance, and of evidence, beside nearest neighbors at the same sizes. Needs a folder with
``cifar10_subset.npz`` and ``resnet20_cifar10.safetensors``; run with ``make purity``.
"""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from cifar_resnet import CifarResNet, normalize
from precision import by_evidence as ranked_by_evidence
from safetensors.torch import load_file
from torch import Tensor

from captum_rdr import RelaxedDecisionRegion

N_QUERIES, AT = 300, 50
METRICS = ("configuration", "euclidean", "cosine", "centered_cosine")


class Indexed(NamedTuple):
    """A fitted explainer, the queries among its rows, and the labels of all rows."""

    rdr: RelaxedDecisionRegion
    queries: Tensor
    labels: Tensor


def purity(indexed: Indexed, members: Sequence[Tensor]) -> float:
    """Mean share of members, the query left out, that have the query's label.

    A query without another member says nothing and is left out.
    """
    shares = []
    for query, rows in zip(indexed.queries.tolist(), members, strict=True):
        others = rows[rows != query]
        if len(others):
            same = indexed.labels[others] == indexed.labels[query]
            shares.append(float(same.float().mean()))
    return float(np.mean(shares))


def without_query(indexed: Indexed, ranked: Tensor) -> list[Tensor]:
    """Take each query's own row out of its ranking."""
    return [
        row[row != query]
        for query, row in zip(indexed.queries.tolist(), ranked, strict=True)
    ]


def nearest(indexed: Indexed, metric: str) -> list[Tensor]:
    """Rank all rows but the query by distance."""
    bank, queries = indexed.rdr.bank, indexed.queries
    if metric == "configuration":
        distances = bank.distances(bank.rows[queries])
    elif metric == "euclidean":
        distances = torch.cdist(bank.features[queries], bank.features)
    else:
        mean = bank.features.mean(0) if metric == "centered_cosine" else 0
        unit = F.normalize(bank.features - mean)
        distances = -(unit[queries] @ unit.T)
    return without_query(indexed, distances.argsort(dim=1, stable=True))


def by_evidence(indexed: Indexed, **choices: Any) -> list[Tensor]:
    """Rank all rows but the query by the evidence of the query's region."""
    rdr = indexed.rdr
    found = rdr.attribute_members(
        indexed.queries, weighting="evidence", show_progress=False, **choices
    )
    return without_query(indexed, ranked_by_evidence(found, rdr.bank))


def report(name: str, indexed: Indexed, members: Sequence[Tensor]) -> None:
    """Print one row of the table."""
    sizes = [
        int((rows != query).sum())
        for query, rows in zip(indexed.queries.tolist(), members, strict=True)
    ]
    print(f"| {name} | {purity(indexed, members):.3f} | {np.median(sizes):.0f} |")


def paper(indexed: Indexed, order: dict[str, list[Tensor]]) -> None:
    """Print the paper's rule and tolerance, each beside neighbors at its own sizes."""
    for neurons, tolerance in ((10, 0), (10, 1), (10, 2), (160, 0), (160, 16)):
        found = indexed.rdr.attribute_members(
            indexed.queries, 8, neurons, tolerance=tolerance, show_progress=False
        )
        name = f"paper's rule, t={neurons}, tolerance {tolerance}"
        report(name, indexed, [region.members for region in found])
        if (neurons, tolerance) != (10, 0):
            continue
        for metric, ranked in order.items():
            same_size = [
                rows[: len(region.members) - 1]
                for rows, region in zip(ranked, found, strict=True)
            ]
            report(f"nearest by {metric}, the sizes of that", indexed, same_size)
    wide = indexed.rdr.attribute_members(indexed.queries, 8, 160, show_progress=False)
    ranked = [
        indexed.rdr.bank.disagreements(region.neurons, region.states).argsort(
            stable=True
        )
        for region in wide
    ]
    rows = without_query(indexed, torch.stack(ranked))
    report("paper's neurons, t=160, by disagreements", indexed, [r[:AT] for r in rows])


def main() -> None:
    """Index, explain and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    folder: Path = parser.parse_args().data
    warnings.simplefilter("ignore", UserWarning)
    data = np.load(folder / "cifar10_subset.npz")
    model = CifarResNet()
    model.load_state_dict(load_file(folder / "resnet20_cifar10.safetensors"))
    images = normalize(torch.from_numpy(data["images"]))
    labels = torch.from_numpy(data["labels"]).long()
    generator = torch.Generator().manual_seed(0)
    queries = torch.randperm(len(images), generator=generator)[:N_QUERIES]

    fitted = {}
    for threshold in (0.0, "median"):
        rdr = RelaxedDecisionRegion(model, model.layer3, threshold=threshold)
        rdr.fit(images, keep_features=True, show_progress=False)
        fitted[threshold] = Indexed(rdr, queries, labels)
    zero = fitted[0.0]
    print(f"ResNet-20, layer3, {zero.rdr.bank}")
    print(f"{N_QUERIES} queries; label purity of the members without the query\n")
    print("| rule | purity | median members |\n|---|---|---|", flush=True)
    order = {metric: nearest(zero, metric) for metric in METRICS}
    paper(zero, order)
    for metric, ranked in order.items():
        report(f"nearest by {metric}", zero, [rows[:AT] for rows in ranked])
    for threshold, indexed in fitted.items():
        for metric in METRICS:
            for k in (8, 16):
                every = {"n_neighbors": k, "n_neurons": 4096, "neighbors": metric}
                rows = [row[:AT] for row in by_evidence(indexed, **every)]
                report(
                    f"evidence, threshold {threshold}, S by {metric}, k={k}",
                    indexed,
                    rows,
                )
        again = {"n_neighbors": 16, "n_neurons": 4096, "neighbors": "centered_cosine"}
        rows = [row[:AT] for row in by_evidence(indexed, rounds=2, **again)]
        report(f"the last with rounds=2, threshold {threshold}", indexed, rows)


if __name__ == "__main__":
    main()
