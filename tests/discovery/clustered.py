"""Data in clusters, which discoveries must find again."""

import torch


def clusters(n_clusters=4, size=25, n_neurons=32, noise=0.7, seed=0):
    """Data ``(n_clusters * size, n_neurons)``, one cluster behind the other."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(n_clusters, n_neurons, generator=generator)
    drawn = torch.randn(n_clusters * size, n_neurons, generator=generator)
    return centers.repeat_interleave(size, 0) + noise * drawn
