"""Hidden classes that a network trained on superclasses alone may know.

Trains a small network on even and odd MNIST digits, or on CIFAR-10's vehicles and
animals, and looks for the classes within each superclass: by regions, and by k-means,
NMF and agglomerative clustering of the same features into as many clusters. CIFAR-10
needs a folder with ``cifar10_subset.npz``. Run with ``make subclasses``.
"""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.decomposition import NMF
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from superclass_nets import Hidden, cifar, mnist, network, predict, train
from torch import Tensor

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery import subclasses

Labels = npt.NDArray[np.int64]
LAYER = {"mnist": 7, "cifar": 9}


def by_regions(rdr: RelaxedDecisionRegion, rows: Tensor, count: int) -> Labels:
    """The partition of `captum_rdr.discovery.subclasses`, with its defaults."""
    found = subclasses(rdr, rows, count, test=False, show_progress=False)
    labels: Labels = found.labels.numpy()
    return labels


def by_clustering(make: Callable[[int], Any]) -> Callable[..., Labels]:
    """A method of scikit-learn on the float features."""

    def cluster(rdr: RelaxedDecisionRegion, rows: Tensor, count: int) -> Labels:
        found: Labels = make(count).fit_predict(rdr.bank.features[rows].numpy())
        return found

    return cluster


def by_nmf(rdr: RelaxedDecisionRegion, rows: Tensor, count: int) -> Labels:
    """The component of largest weight in a non-negative factorization."""
    model = NMF(count, init="nndsvda", random_state=0, max_iter=100)
    found: Labels = model.fit_transform(rdr.bank.features[rows].numpy()).argmax(1)
    return found


METHODS: dict[str, Callable[[RelaxedDecisionRegion, Tensor, int], Labels]] = {
    "subclasses": by_regions,
    "k-means": by_clustering(lambda k: KMeans(k, n_init=10, random_state=0)),
    "NMF": by_nmf,
    "agglomerative (Ward)": by_clustering(AgglomerativeClustering),
}


def one_seed(name: str, hidden: Hidden, seed: int) -> dict[str, tuple[float, float]]:
    """NMI and ARI of every method, mean over the two superclasses."""
    torch.manual_seed(seed)
    small = name == "mnist"
    model = network(hidden.images.shape[1], 16 if small else 32)
    train(model, hidden.images, hidden.superclasses, 6 if small else 8)
    right = predict(model, hidden.images) == hidden.superclasses
    rdr = RelaxedDecisionRegion(model, model[LAYER[name]])
    rdr.fit(hidden.images, keep_features=True, show_progress=False)
    results = {}
    numbers = []
    for method, function in METHODS.items():
        scores = []
        for superclass in (0, 1):
            rows = (hidden.superclasses == superclass).nonzero().flatten()
            classes = hidden.classes[rows].numpy()
            labels = function(rdr, rows, len(set(classes.tolist())))
            nmi = normalized_mutual_info_score(classes, labels)
            scores.append((nmi, adjusted_rand_score(classes, labels)))
        results[method] = tuple(np.mean(scores, 0).tolist())
    for superclass in (0, 1):
        rows = (hidden.superclasses == superclass).nonzero().flatten()
        numbers.append(len(subclasses(rdr, rows, test=False, show_progress=False)))
    accuracy = float(right.float().mean())
    print(f"{name}, seed {seed}: superclass accuracy {accuracy:.3f},", end=" ")
    print(f"number of subclasses by the rule {numbers}", flush=True)
    return results


def main() -> None:
    """Train, find, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--sets", nargs="+", default=["mnist", "cifar"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in given.sets:
        hidden = mnist() if name == "mnist" else cifar(given.data)
        runs = [one_seed(name, hidden, seed) for seed in given.seeds]
        print("\n| method | NMI (range) | ARI (range) |\n|---|---|---|")
        for method in METHODS:
            cells = []
            for index in (0, 1):
                values = [run[method][index] for run in runs]
                mean = np.mean(values)
                cells.append(f"{mean:.3f} ({min(values):.3f} to {max(values):.3f})")
            print(f"| {method} | {' | '.join(cells)} |")
        print(flush=True)


if __name__ == "__main__":
    main()
