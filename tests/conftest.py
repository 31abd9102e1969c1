"""What the tests share."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from captum_rdr import ConfigurationBank


def small_net() -> nn.Sequential:
    """A small convolutional network, always the same."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(4 * 6 * 6, 20),
        nn.ReLU(),
        nn.Linear(20, 3),
    )


@pytest.fixture
def net() -> nn.Sequential:
    """The network, its modules not all in one mode."""
    model = small_net()
    model.train()
    model[3].eval()
    return model


@pytest.fixture
def images() -> Tensor:
    """Images of shape ``(90, 1, 8, 8)`` in three loose clusters."""
    generator = torch.Generator().manual_seed(1)
    centers = torch.randn(3, 1, 8, 8, generator=generator)
    noise = torch.randn(90, 1, 8, 8, generator=generator)
    return centers.repeat_interleave(30, 0) + 0.6 * noise


def random_states(n: int, d: int, seed: int = 0) -> Tensor:
    """Boolean states ``(n, d)`` with a different frequency for each neuron."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.rand(d, generator=generator)
    return torch.rand(n, d, generator=generator) < frequency


def bank_of(states: Tensor, features: Tensor | None = None) -> ConfigurationBank:
    """A bank of boolean states ``(n, d)``."""
    bank = ConfigurationBank(states.shape[1:])
    bank.append(states, features)
    return bank


GOLDEN = sorted((Path(__file__).parent / "golden").glob("case*.npz"))

Layer = Callable[[nn.Sequential], nn.Module]
