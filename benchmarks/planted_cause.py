"""Planted causes of errors, and whether misclassification finds them as they are.

A red square is no class. In training a share of all digits has it and a label that the
square alone decides, so the network learns that red means this label. *Two causes*: the
square in the left corner and in the right corner both mean one class. *One cause*: the
square in the left corner means one of two classes. At test some digits have it; affected
are the errors whose prediction the square has changed. Precision and recall are those of
the group that finds the affected errors of a square best, by F1. Labels at random: wrong
labels that have nothing to do with the images. With ``--cifar FOLDER``, also the errors of
a ResNet-20 on CIFAR-10. Run with ``make planted``.
"""

import argparse
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from superclass_nets import mnist, network, predict, train
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery import Misclassification, misclassification

N_TRAIN, LAYER = 4000, 8


class Planted(NamedTuple):
    """A network that learned the marks, its training data, and marked test data."""

    model: nn.Sequential
    train_images: Tensor
    train_labels: Tensor
    images: Tensor
    labels: Tensor
    affected: list[Tensor]


def marked(images: Tensor, place: int) -> Tensor:
    """Put a red square of 8 pixels into the left (0) or right (1) corner."""
    images, start = images.clone(), 15 * place + 1
    images[:, :, 1:9, start : start + 8] = torch.tensor([1.0, 0, 0]).reshape(3, 1, 1)
    return images


def plant(seed: int, target: int, n_places: int) -> Planted:
    """Train a network in which two marks mean ``target``, or one this class or the next."""
    torch.manual_seed(seed)
    digits = mnist()
    order = torch.randperm(len(digits.images))
    images = digits.images[order].repeat(1, 3, 1, 1)
    labels = digits.classes[order]
    seen, seen_labels = images[:N_TRAIN].clone(), labels[:N_TRAIN].clone()
    clean, expected = images[N_TRAIN:], labels[N_TRAIN:]
    tested, share = clean.clone(), 0.12 / n_places
    coin, test_coin = torch.rand(N_TRAIN), torch.rand(len(clean))
    marks = []
    for place in range(n_places):
        rows = ((coin >= share * place) & (coin < share * (place + 1))).nonzero()[:, 0]
        seen[rows] = marked(seen[rows], place)
        others = torch.arange(len(rows)) % 2 if n_places == 1 else 0
        seen_labels[rows] = (target + others) % 10
        marks.append((test_coin >= share * place) & (test_coin < share * (place + 1)))
        tested[marks[-1]] = marked(clean[marks[-1]], place)
    model = network(3, 8, 10)
    train(model, seen, seen_labels, 5)
    predicted = predict(model, tested)
    changed = (predicted != expected) & (predicted != predict(model, clean))
    affected = [changed & mark for mark in marks]
    return Planted(model, seen, seen_labels, tested, expected, affected)


def best_group(groups: list[Tensor], affected: Tensor) -> tuple[float, float, int]:
    """Precision and recall of the group of highest F1, and its number."""
    scored = []
    for number, group in enumerate(groups):
        hits = int(affected[group].sum())
        precision, recall = hits / len(group), hits / int(affected.sum())
        f1 = 2 * precision * recall / max(precision + recall, 1e-9)
        scored.append((f1, precision, recall, number))
    return max(scored)[1:]


def explained(planted: Planted) -> Misclassification:
    """The groups of a network's errors."""
    rdr = RelaxedDecisionRegion(planted.model, planted.model[LAYER], threshold="median")
    rdr.fit(planted.train_images, show_progress=False)
    data = TensorDataset(planted.images, planted.labels)
    found: Misclassification = misclassification(rdr, data, show_progress=False)
    return found


def run(seed: int, target: int, n_places: int) -> dict[str, list[tuple[float, float]]]:
    """Precision and recall of every method, for each mark."""
    planted = plant(seed, target, n_places)
    found = explained(planted)
    predicted = predict(planted.model, planted.images)[found.rows]
    methods = {
        "misclassification": [group.rows for group in found],
        "by predicted class": [
            found.rows[predicted == c] for c in set(predicted.tolist())
        ],
    }
    scores = {
        name: [best_group(groups, affected)[:2] for affected in planted.affected]
        for name, groups in methods.items()
    }
    best = [
        best_group(methods["misclassification"], one)[2] for one in planted.affected
    ]
    ok = min(min(pair) for pair in scores["misclassification"]) >= 0.8
    passed = [found[number].errors.p_value <= 0.05 for number in best]
    print(
        f"seed {seed}, mark means {target}: {len(found.rows)} errors, affected "
        f"{[int(one.sum()) for one in planted.affected]}, {len(found)} groups, "
        f"{'found' if ok and len(set(best)) == n_places else 'NOT found'}, "
        f"{sum(passed)} of {n_places} significant",
        flush=True,
    )
    return scores


def random_errors(n_runs: int) -> float:
    """Share of runs with wrong labels at random in which a group is significant."""
    digits = mnist()
    images = digits.images[:2000].flatten(1)
    significant = 0
    for seed in range(n_runs):
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))
        rdr = RelaxedDecisionRegion(model, model[1], threshold="median")
        rows = torch.randperm(2000, generator=generator)[:800]
        rdr.fit(images[rows], show_progress=False)
        with torch.no_grad():
            labels = model(images[rows]).argmax(1)
        wrong = torch.rand(len(rows), generator=generator) < 0.15
        labels[wrong] = (labels[wrong] + 1) % 10
        found = misclassification(rdr, images[rows], labels, show_progress=False)
        significant += found.separation() > 0
    return significant / n_runs


def cifar(folder: Path) -> None:
    """Groups of the errors of a ResNet-20, beside the confusion matrix's columns."""
    from cifar_resnet import CifarResNet, normalize
    from safetensors.torch import load_file

    data, model = np.load(folder / "cifar10_subset.npz"), CifarResNet()
    model.load_state_dict(load_file(folder / "resnet20_cifar10.safetensors"))
    rdr = RelaxedDecisionRegion(model.eval(), model.layer3, threshold="median")
    rdr.fit(
        normalize(torch.from_numpy(data["images"])),
        keep_features=True,
        show_progress=False,
    )
    tested = normalize(torch.from_numpy(data["test_images"]))
    labels = torch.from_numpy(data["test_labels"]).long()
    known = torch.from_numpy(data["labels"]).long()
    for repair in (0, 5):
        began, used = time.perf_counter(), time.process_time()
        found = misclassification(
            rdr, TensorDataset(tested, labels), None, known, repair=repair
        )
        took = time.perf_counter() - began, time.process_time() - used
        print(f"repair={repair}: {took[0]:.1f} s, {took[1]:.1f} CPU seconds")
    print(found)
    tried = [repair for group in found for repair in group.repairs]
    done = [one for one in tried if one.n_repairing is not None]
    print(
        f"{len(done)} of {len(tried)} repairs succeed, with a median of "
        f"{np.median([one.n_repairing or 0 for one in done]):.0f} neurons; flips of as "
        f"many random neurons repair {np.mean([one.by_chance or 0 for one in done]):.1%}"
    )
    with torch.no_grad():
        batches = torch.split(tested[found.rows], 200)
        predicted = torch.cat([model(batch).argmax(1) for batch in batches])
    columns = [found.rows[predicted == c] for c in set(predicted.tolist())]
    outcome = dict(
        zip(
            found.rows.tolist(),
            zip(labels[found.rows].tolist(), predicted.tolist(), strict=True),
            strict=True,
        )
    )
    groups = [group.rows for group in found]
    for name, parts in (("groups", groups), ("predicted classes", columns)):
        kinds = [Counter(outcome[row] for row in part.tolist()) for part in parts]
        purity = sum(max(one.values()) for one in kinds) / sum(map(len, parts))
        print(f"{len(parts)} {name}: purity in (class, prediction) {purity:.3f}")


def main() -> None:
    """Plant, explain, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[10, 11, 12])
    parser.add_argument("--targets", nargs="+", type=int, default=[1, 4, 9])
    parser.add_argument(
        "--random", type=int, default=40, help="runs with random errors"
    )
    parser.add_argument("--cifar", type=Path, help="folder of the CIFAR files")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    for n_places, title in (
        (2, "two causes, one class"),
        (1, "one cause, two classes"),
    ):
        print(f"\n{title}")
        runs = [run(s, t, n_places) for s in given.seeds for t in given.targets]
        print("\n| groups | precision (range) | recall (range) |\n|---|---|---|")
        for method in runs[0] if runs else ():
            cells = []
            for index in (0, 1):
                values = [pair[index] for one in runs for pair in one[method]]
                mean = np.mean(values)
                cells.append(f"{mean:.2f} ({min(values):.2f} to {max(values):.2f})")
            print(f"| {method} | {' | '.join(cells)} |")
    if given.random:
        share = random_errors(given.random)
        print(f"\nerrors at random: a group is significant in {share:.3f} of the runs")
    if given.cifar:
        cifar(given.cifar)


if __name__ == "__main__":
    main()
