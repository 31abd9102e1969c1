"""Instances linked by their regions, and what a walk over the links reaches."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh
from torch import Tensor

from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_DENSE = 300  # a component up to this size is decomposed whole
_MODES = 96  # of a larger one the slowest modes are enough: the others die out


class Reach(NamedTuple):
    """What walks from the instances of one connected component reach.

    Attributes:
        positions: int64 ``(n,)``, positions of the instances, ascending.
        vectors: float64 ``(n, q)`` of unit length; the product of two is how alike the
            reach of two instances is, from 0 to 1.
    """

    positions: Ints
    vectors: Floats


def links(
    regions: Sequence[Region], rows: Tensor, bank: ConfigurationBank, at_most: int
) -> Any:
    """Which instances lie in which regions, as a sparse matrix.

    Args:
        regions: one region for each of the rows.
        rows: int64 ``(n,)``, bank rows, each once.
        bank: the bank of the rows.
        at_most: of a region with more members among the rows, only so many count: those
            with the most evidence, ties to the lower row.

    Returns:
        float64 ``csr_array`` of shape ``(n, n)``: 1 where instance j lies in the region
        of instance i, and on the diagonal.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> model, data = torch.nn.Identity(), torch.tensor([[1.0, 1], [1, 1], [-1, 1]])
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> found = rdr.attribute_members([0, 2], n_neighbors=1, n_neurons=1)
    >>> links(found, torch.tensor([0, 2]), rdr.bank, 32).toarray()
    array([[1., 0.],
           [0., 1.]])
    """
    order = rows.argsort()
    ascending = rows[order]
    heads, tails = [], []
    for head, region in enumerate(regions):
        at = torch.searchsorted(ascending, region.members)
        at = at.clamp(max=len(rows) - 1)
        inside = order[at[ascending[at] == region.members]]
        if len(inside) > at_most:
            evidence = region.evidence(bank.states(rows[inside]))
            ranked = evidence.round(decimals=9).argsort(descending=True, stable=True)
            inside = inside[ranked[:at_most]]
        heads.append(np.full(len(inside) + 1, head))
        tails.append(np.append(inside.numpy(), head))
    pairs = np.concatenate(heads), np.concatenate(tails)
    counts = csr_array((np.ones(len(pairs[0])), pairs), shape=(len(rows), len(rows)))
    return (counts > 0).astype(np.float64)


def reach(linked: Any, length: int) -> list[Reach]:
    """How alike the instances are in what a random walk from each of them reaches.

    A step goes along a link in either direction, with a chance in proportion to its
    weight (1, or 2 where two instances lie in each other's regions). With ``P`` the
    steps' chances, two instances are as alike as the distributions ``P^length`` from
    them: the cosine between these, each entry over the square root of how often a long
    walk is there.

    Source: the diffusion maps of Coifman and Lafon, *Diffusion maps*, Applied and
    Computational Harmonic Analysis 2006, of which this is the cosine.

    Args:
        linked: sparse ``(n, n)``, see `links`.
        length: number of steps.

    Returns:
        one `Reach` for each connected component; instances of two components reach
        nothing in common.

    >>> linked = csr_array(np.array([[1.0, 1, 0], [0, 1, 0], [0, 0, 1]]))
    >>> [(part.positions, (part.vectors @ part.vectors.T).round(2))
    ...  for part in reach(linked, 1)]
    [(array([0, 1]), array([[1. , 0.8],
           [0.8, 1. ]])), (array([2]), array([[1.]]))]
    """
    both_ways = (linked + linked.T).tocsr()
    count, component = connected_components(both_ways, directed=False)
    order = np.argsort(component, kind="stable")
    ends = np.cumsum(np.bincount(component, minlength=count))
    return [
        Reach(positions, _vectors(both_ways[positions][:, positions], length))
        for positions in np.split(order, ends[:-1])
    ]


def _vectors(weights: Any, length: int) -> Floats:
    """Unit vectors of one component's instances."""
    scale = diags_array(1 / np.sqrt(weights.sum(1)))
    steps = scale @ weights @ scale
    if weights.shape[0] <= _DENSE:
        values, modes = np.linalg.eigh(steps.toarray())
    else:
        # A fixed start, so that the result is the same in every run.
        values, modes = eigsh(steps, _MODES, v0=np.ones(weights.shape[0]))
    vectors = modes * values**length
    unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
