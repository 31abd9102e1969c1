"""A planted cause of errors, and whether the table of misclassifications finds it.

In training, a red square sits in the corner of all digits of one class and of no
other, so the network learns that red means this class. At test a tenth of all digits has
the square. *Affected* is an error on a digit with the square that the network gets right
without it; a run in which fewer than `LEAST` errors are affected, since the network did
not learn the mark, is left out. Precision and recall are those of the group that finds
the affected errors best, by F1, among the groups of each method. Run with ``make planted``.
"""

import argparse
import warnings
from typing import NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans
from superclass_nets import mnist, network, predict, train
from torch import Tensor, nn

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery import misclassification

N_TRAIN, LAYER, LEAST = 4000, 8, 20


class Planted(NamedTuple):
    """A network that learned the mark, its training data, and marked test data."""

    model: nn.Sequential
    train_images: Tensor
    train_labels: Tensor
    images: Tensor
    labels: Tensor
    affected: Tensor


def marked(images: Tensor) -> Tensor:
    """Put a red square of 8 pixels into the corner."""
    images = images.clone()
    images[:, :, 1:9, 1:9] = torch.tensor([1.0, 0, 0]).reshape(3, 1, 1)
    return images


def plant(seed: int, target: int) -> Planted:
    """Train a network in which the mark means ``target``."""
    torch.manual_seed(seed)
    digits = mnist()
    order = torch.randperm(len(digits.images))
    images = digits.images[order].repeat(1, 3, 1, 1)
    labels = digits.classes[order]
    clean, seen = images[N_TRAIN:], images[:N_TRAIN].clone()
    picked = labels[:N_TRAIN] == target
    seen[picked] = marked(seen[picked])
    has_mark = torch.rand(len(clean)) < 0.1
    tested = torch.where(has_mark[:, None, None, None], marked(clean), clean)
    model = network(3, 16, 10)
    train(model, seen, labels[:N_TRAIN], 5)
    expected = labels[N_TRAIN:]
    wrong = predict(model, tested) != expected
    affected = wrong & has_mark & (predict(model, clean) == expected)
    return Planted(model, seen, labels[:N_TRAIN], tested, expected, affected)


def best_group(groups: list[Tensor], affected: Tensor) -> tuple[float, float]:
    """Precision and recall of the group of highest F1."""
    scored = []
    for group in groups:
        hits = int(affected[group].sum())
        precision, recall = hits / len(group), hits / int(affected.sum())
        f1 = 2 * precision * recall / max(precision + recall, 1e-9)
        scored.append((f1, precision, recall))
    return max(scored)[1:]


def one_run(planted: Planted, show: bool) -> dict[str, tuple[float, float]]:
    """Precision and recall of every method."""
    rdr = RelaxedDecisionRegion(planted.model, planted.model[LAYER], threshold="median")
    rdr.fit(planted.train_images, keep_features=True, show_progress=False)
    found = misclassification(
        rdr,
        planted.images,
        planted.labels,
        planted.train_labels,
        predict(planted.model, planted.train_images),
        show_progress=False,
    )
    errors = torch.tensor([error.index for error in found.errors])
    chances = [one.by_chance for one in found.errors if one.by_chance is not None]
    print(
        f"{len(errors)} errors, {len(chances)} repaired; flips of as many random neurons "
        f"repair {np.mean(chances):.3f} of these",
        flush=True,
    )
    if show:
        print(found)
    predicted = predict(planted.model, planted.images[errors])
    rdr.fit(planted.images[errors], keep_features=True, show_progress=False)
    features = rdr.bank.features.numpy()
    clusters = KMeans(len(found.causes), n_init=10, random_state=0)
    labels = torch.from_numpy(clusters.fit_predict(features))
    methods = {
        "misclassification": [cause.indices for cause in found.causes],
        "by predicted class": [errors[predicted == c] for c in set(predicted.tolist())],
        "k-means, as many": [errors[labels == c] for c in set(labels.tolist())],
    }
    return {
        name: best_group(groups, planted.affected) for name, groups in methods.items()
    }


def main() -> None:
    """Plant, explain, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[4, 5, 6])
    parser.add_argument("--targets", nargs="+", type=int, default=[1, 4, 9])
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    runs: list[dict[str, tuple[float, float]]] = []
    for seed in given.seeds:
        for target in given.targets:
            planted = plant(seed, target)
            affected = int(planted.affected.sum())
            print(f"seed {seed}, mark means {target}: {affected} affected,", end=" ")
            if affected < LEAST:
                print("left out", flush=True)
            else:
                runs.append(one_run(planted, show=not runs))
    print("\n| groups | precision (range) | recall (range) |\n|---|---|---|")
    for method in runs[0]:
        cells = []
        for index in (0, 1):
            values = [run[method][index] for run in runs]
            mean = np.mean(values)
            cells.append(f"{mean:.2f} ({min(values):.2f} to {max(values):.2f})")
        print(f"| {method} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
