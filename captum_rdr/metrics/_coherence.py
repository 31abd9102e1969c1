"""How much the members of a region have in common, beyond chance."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region

Floats = npt.NDArray[np.float64]

_BLOCK_BYTES = 1 << 26  # of states held at a time
_BESIDE = 64  # rows next to a member that say what alike rows have in common, at most
_JUDGED = 32  # members of a region whose own neighbors are looked at, at most


class Activity(NamedTuple):
    """How states go with the number of active neurons.

    Attributes:
        frequency: float64 ``(D',)``, share of rows in which each neuron is active.
        slope: float64 ``(D',)``, how much more often for one more active neuron.
        above: float64 ``(N,)``, active neurons of each row beyond the mean.
    """

    frequency: Floats
    slope: Floats
    above: Floats

    @classmethod
    def of(cls, bank: ConfigurationBank) -> "Activity":
        """Regress every neuron's state on the overall activity."""
        step = max(1, _BLOCK_BYTES // bank.n_neurons)
        blocks = torch.split(torch.arange(len(bank)), step)
        active = np.concatenate([bank.states(rows).sum(1).numpy() for rows in blocks])
        above = active - active.mean()
        together = np.zeros(bank.n_neurons)
        for rows in blocks:
            weights = torch.from_numpy(above[rows]).float()
            together += (weights @ bank.states(rows).float()).double().numpy()
        spread = float(above @ above)
        slope = together / spread if spread else together
        return cls(bank.active_counts.double().numpy() / len(bank), slope, above)

    def beyond(self, states: Tensor, rows: Tensor, votes: Tensor) -> Floats:
        """Agreement of rows with votes beyond what frequencies and activity explain.

        Args:
            states: bool ``(m, D')``, those of the rows.
            rows: int64 ``(m,)``.
            votes: ``(m, D')`` or ``(D',)``; positive for active, negative for inactive.
        """
        explained = self.frequency + self.above[rows.numpy(), None] * self.slope
        away = (states.numpy() - explained) * np.sign(votes.numpy())
        agreement: Floats = away.mean(1)
        return agreement


def coherences(
    regions: Sequence[Region],
    own: Tensor,
    finding: ConfigurationBank,
    judging: ConfigurationBank,
) -> list[float | None]:
    """How much members have in common with S, of what alike instances have in common.

    Beyond frequencies and overall activity, on the judging neurons: the agreement of
    members outside S with the consensus of S, over the larger of two others. One is that of
    each instance of S with the consensus of the others of S, which tells strays that
    joined a concept. The other is that of each member with the consensus of the rows next
    to it on the finding half, as many as S has, which tells an S that is itself mixed.

    Returns:
        for each region the ratio, or None where it has no member outside S, or where
        alike instances have nothing in common.
    """
    activity = Activity.of(judging)
    found: list[float | None] = []
    for region, state in zip(regions, own, strict=True):
        rows = _sample_outside(region)
        size = min(len(region.neighbors), len(judging) - 1)
        if not len(rows) or not size:
            found.append(None)
            continue
        inside = 2 * judging.states(region.neighbors).long() - 1
        votes = inside.sum(0)
        if region.query is None:
            votes = votes + 2 * state.long() - 1
        near = finding.nearest(finding.rows[rows.to(finding.device)], size + 1).rows
        beside = [
            judging.states(around[around != row][:size]).sum(0)
            for row, around in zip(rows, near, strict=True)
        ]
        asked = judging.states(rows)
        shared = activity.beyond(asked, rows, votes)
        alike = activity.beyond(asked, rows, 2 * torch.stack(beside) - size)
        within = activity.beyond(inside > 0, region.neighbors, votes - inside)
        largest = max(float(within.mean()), float(alike.mean()))
        found.append(float(shared.mean()) / largest if largest > 0 else None)
    return found


def _sample_outside(region: Region) -> Tensor:
    """Members outside S, some of them where they are many."""
    outside = region.members[~torch.isin(region.members, region.neighbors)]
    count = min(len(outside), _JUDGED)
    return outside[torch.linspace(0, len(outside) - 1, count).long()]
