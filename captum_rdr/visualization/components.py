"""Principal components of packed states, without unpacking the whole bank at once."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_rdr.bank import ConfigurationBank

Floats = npt.NDArray[np.float64]

_BLOCK = 1 << 24  # states unpacked at a time
_EXTRA = 8  # directions iterated beside those wanted
_ROUNDS, _CLOSE = 50, 1e-4


def principal_components(
    bank: ConfigurationBank, rows: Tensor, count: int = 2
) -> tuple[Floats, Floats]:
    """Coordinates of bank rows along the principal components of their states.

    Subspace iteration on the covariance with a few more directions than wanted, from a
    seeded start (Halko, Martinsson and Tropp, *Finding structure with randomness*, SIAM
    Review 2011, Algorithm 4.4). The largest coordinate along each component is positive.

    Args:
        bank: has the states.
        rows: bank rows, int64 ``(R,)``.
        count: number of components.

    Returns:
        coordinates, float64 ``(R, count)``, zero along components that the states do not
        have; and each component's share of the variance, ``(count,)``.

    >>> bank = ConfigurationBank((3,))
    >>> bank.append(torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]]) > 0)
    >>> points, shares = principal_components(bank, torch.arange(4))
    >>> points.round(2)[:, 0], shares.round(2)
    (array([ 0.71,  0.71, -0.71, -0.71]), array([1., 0.]))
    """
    totals = torch.stack([block.sum(0) for block in _blocks(bank, rows)])
    mean = totals.sum(0) / len(rows)
    size = min(count + _EXTRA, bank.n_neurons, len(rows))
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(bank.n_neurons, size, generator=generator)
    basis, values = torch.linalg.qr(basis).Q, torch.zeros(count)
    for _ in range(_ROUNDS):
        product = torch.zeros(bank.n_neurons, size)
        for block in _blocks(bank, rows):
            along = block @ basis - mean @ basis
            product += block.T @ along - torch.outer(mean, along.sum(0))
        # The covariance within the subspace has its components as eigenvectors.
        previous, values = values, torch.linalg.svdvals(product)[:count]
        basis = torch.linalg.qr(product).Q
        if torch.allclose(values, previous, rtol=_CLOSE, atol=1e-6):
            break
    scores = torch.cat([block @ basis - mean @ basis for block in _blocks(bank, rows)])
    _, lengths, turned = np.linalg.svd(scores.double().numpy(), full_matrices=False)
    points = _padded(scores.double().numpy() @ turned.T, count)
    largest = np.abs(points).argmax(0)
    signs = np.where(np.take_along_axis(points, largest[None], 0)[0] < 0, -1.0, 1.0)
    total = float((mean * (1 - mean)).sum()) * len(rows)
    shares = _padded(np.square(lengths)[None], count)[0] / (total or 1.0)
    return points * signs, shares


def _blocks(bank: ConfigurationBank, rows: Tensor) -> Iterator[Tensor]:
    """States as floats, a block of rows at a time."""
    for block in torch.split(rows, max(1, _BLOCK // bank.n_neurons)):
        yield bank.states(block).float()


def _padded(columns: Floats, count: int) -> Floats:
    """The first ``count`` columns, zeros where there are fewer."""
    missing = max(0, count - columns.shape[1])
    return np.pad(columns, ((0, 0), (0, missing)))[:, :count]
