"""Errors that share regions: likely one cause."""

from typing import Any

import torch
from scipy.sparse import csr_array
from torch import Tensor

from captum_rdr.bank import ConfigurationBank
from captum_rdr.discovery.cover import Cover, cover
from captum_rdr.discovery.links import links, reach
from captum_rdr.discovery.regions import bank_regions
from captum_rdr.method.neighbors import nearest_features
from captum_rdr.method.region import Region

NEIGHBORS = 8
"""Size of S of an error among the errors."""

WALK_LENGTH = 16
AT_MOST = 50
LEAST_GAIN = 0.01


def grouped(
    bank: ConfigurationBank,
    errors: Tensor,
    predicted: Tensor,
    choices: dict[str, Any],
    *,
    show_progress: bool,
) -> tuple[list[Region], Cover]:
    """Group errors by the regions that they share.

    The region of an error among the evaluated inputs has the error and its nearest other
    errors for S, so it tells what these errors have in common and the other inputs have
    not. Two errors are linked when one lies in the other's region and both are taken for
    the same class: one cause has one outcome. Groups then form as subclasses do: by what
    walks along the links reach, and a cover.

    Args:
        bank: the evaluated inputs, right and wrong.
        errors: int64 ``(E,)``, rows of the errors.
        predicted: int64 ``(E,)``, the class that each is taken for.
        choices: all that `captum_rdr.discovery.regions.recipe` gives.
        show_progress: draw a progress bar when it takes more than a second.

    Returns:
        the region of each error among the inputs, and the cover.
    """
    neighbors = errors[_nearest_errors(bank, errors, min(NEIGHBORS, len(errors)))]
    made = {**choices, "neighbors": neighbors}
    regions = bank_regions(bank, errors, made, show_progress=show_progress)
    linked = links(regions, errors, bank, len(errors)).tocoo()
    heads, tails = linked.coords
    alike = (predicted[heads] == predicted[tails]).numpy()
    kept = csr_array((linked.data[alike], (heads[alike], tails[alike])), linked.shape)
    return regions, cover(reach(kept, WALK_LENGTH), AT_MOST, LEAST_GAIN)


def _nearest_errors(bank: ConfigurationBank, errors: Tensor, count: int) -> Tensor:
    """For each error the positions ``(E, count)`` of the nearest errors."""
    if bank.features is None:
        distances = bank.distances(bank.rows[errors])[:, errors]
        return distances.argsort(dim=1, stable=True)[:, :count]
    features = bank.features_of(errors)
    found = nearest_features(features, features, count, "cosine")
    return torch.stack([torch.from_numpy(one.rows) for one in found])
