"""Principal components of packed states, without unpacking the whole bank at once."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_rdr.bank import ConfigurationBank

Floats = npt.NDArray[np.float64]

_BLOCK = 1 << 24  # states unpacked at a time
_EXTRA = 8  # directions iterated beside those wanted
_ROUNDS, _CLOSE = 60, 1e-6


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
    blocks = torch.split(rows, max(1, _BLOCK // bank.n_neurons))
    active = torch.stack([bank.states(block).sum(0) for block in blocks]).sum(0)
    mean = active.double().numpy() / len(rows)
    size = min(count + _EXTRA, bank.n_neurons)
    start = np.random.default_rng(0).standard_normal((bank.n_neurons, size))
    basis, _ = np.linalg.qr(start)
    values = np.zeros(size)
    for _ in range(_ROUNDS):
        product = np.zeros((bank.n_neurons, size))
        for block in blocks:
            centered = bank.states(block).double().numpy() - mean
            product += centered.T @ (centered @ basis)
        previous, values = values, np.sort(np.abs(np.linalg.eigvals(basis.T @ product)))
        basis, _ = np.linalg.qr(product)
        if np.allclose(values, previous, rtol=_CLOSE, atol=1e-9):
            break
    scores = np.concatenate(
        [(bank.states(block).double().numpy() - mean) @ basis for block in blocks]
    )
    _, lengths, turned = np.linalg.svd(scores, full_matrices=False)
    points = _padded(scores @ turned.T, count)
    largest = np.abs(points).argmax(0)
    signs = np.where(np.take_along_axis(points, largest[None], 0)[0] < 0, -1.0, 1.0)
    total = float((mean * (1 - mean)).sum()) * len(rows)
    shares = _padded(np.square(lengths)[None], count)[0] / (total or 1.0)
    return points * signs, shares


def _padded(columns: Floats, count: int) -> Floats:
    """The first ``count`` columns, zeros where there are fewer."""
    missing = max(0, count - columns.shape[1])
    return np.pad(columns, ((0, 0), (0, missing)))[:, :count]
