"""Which errors are one thing: by the regions that they share."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_rdr.bank import ConfigurationBank
from captum_rdr.discovery._links import cover, links, reach
from captum_rdr.discovery._recipe import bank_regions
from captum_rdr.method.neighbors import nearest_features
from captum_rdr.method.region import Region

Ints = npt.NDArray[np.int64]

_NEIGHBORS = 8  # size of S of an error among the errors
_LINKED = 16  # errors that the region of one links to it
_WALKS = 512, 256, 128, 64, 32, 16  # steps of walks that tell causes, coarse ones first
_AT_MOST = 50  # groups that errors fall into at a time
_LEAST_GAIN = 0.01  # share of the errors that a further group must newly cover
_SAME = 20.0  # how much more a link counts for each of class and prediction that agree


class Wrong(NamedTuple):
    """Some errors among the inputs that were evaluated.

    Attributes:
        bank: the inputs, right and wrong.
        rows: int64 ``(E,)``, the errors.
        outcomes: int64 ``(E, 2)``, their classes, and what they are taken for.
        features: float ``(E, D)``, their activations.
    """

    bank: ConfigurationBank
    rows: Tensor
    outcomes: Ints
    features: Tensor

    def among(self, inputs: Tensor) -> "Wrong":
        """Those that some of the inputs hold."""
        held = torch.isin(self.rows, inputs)
        return Wrong(
            self.bank, self.rows[held], self.outcomes[held.numpy()], self.features[held]
        )

    def region_of(self, positions: Ints, linked: Any) -> Region:
        """What errors have in common and the inputs have not; S are the errors."""
        (center,) = cover(reach(_part(linked, positions), _WALKS[-1]), 1, 0.0).chosen
        of = self.rows[positions]
        (region,) = bank_regions(self.bank, [int(of[center])], {"neighbors": of})
        return region


def grouped(
    wrong: Wrong, inputs: Tensor, *, show_progress: bool = False
) -> list[Region]:
    """Groups of errors, as the regions that tell them; the largest first.

    Args:
        wrong: the errors.
        inputs: int64, the evaluated inputs that hold them: no others are looked at but for
            how often neurons are active.
        show_progress: draw a progress bar when it takes more than a second.

    Returns:
        regions of ``wrong.bank``; each error is in S of one at most, and S are two or more.

    >>> states = torch.rand(90, 40, generator=torch.Generator().manual_seed(0)) > 0.5
    >>> states[:20, :20], states[20:40, 20:] = True, True
    >>> bank = ConfigurationBank((40,))
    >>> bank.append(states)
    >>> outcomes = np.zeros((40, 2), int)
    >>> wrong = Wrong(bank, torch.arange(40), outcomes, states[:40].float())
    >>> [len(one.neighbors) for one in grouped(wrong, torch.arange(90))]
    [20, 20]
    """
    count = len(wrong.rows)
    if count < 2:
        return []
    alone = wrong.bank.take(wrong.rows)
    near = nearest_features(
        wrong.features, wrong.features, min(_NEIGHBORS, count), "centered_cosine"
    )
    neighbors = torch.stack([rows for rows, _ in near])
    near_ones = {"neighbors": neighbors}
    linked = links(alone, near_ones, _LINKED, show_progress=show_progress)
    found, left = [], np.arange(count)
    for walk_length in _WALKS:
        causes = []
        for part in _parts(_part(linked, left), walk_length):
            region = wrong.region_of(left[part], linked)
            inside = region.members[torch.isin(region.members, inputs)]
            if 2 * int(torch.isin(inside, wrong.rows).sum()) > len(inside):
                found.append(region)
                causes.append(left[part])
        left = left[~np.isin(left, np.concatenate([*causes, []]))]
    found += [
        wrong.region_of(part, linked)
        for part in _by_outcome(linked, left, wrong.outcomes)
    ]
    return sorted(found, key=lambda region: -len(region.neighbors))


def _part(linked: Any, positions: Ints) -> Any:
    return linked[positions][:, positions]


def _parts(linked: Any, walk_length: int) -> list[Ints]:
    """Rows that walks lead to the same one, two or more each."""
    if linked.shape[0] < 2:
        return []
    # Links that count twenty times leave fast modes unseen that tell little.
    vectors = reach(linked, walk_length)
    labels = cover(vectors, _AT_MOST, max(_LEAST_GAIN, 1.5 / len(vectors))).labels
    parts = [np.flatnonzero(labels == number) for number in range(labels.max() + 1)]
    return [part for part in parts if len(part) > 1]


def _by_outcome(linked: Any, positions: Ints, outcomes: Ints) -> list[Ints]:
    """Parts between which walks seldom go if they favor errors of the same outcome."""
    steps = _part(linked, positions).tocoo()
    heads, tails = (positions[at] for at in steps.coords)
    steps.data *= _SAME ** (outcomes[heads] == outcomes[tails]).sum(1)
    return [positions[part] for part in _parts(steps.tocsr(), _WALKS[-1])]
