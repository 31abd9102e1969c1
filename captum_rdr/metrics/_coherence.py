"""How much the members of a region have in common, beyond chance."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region

Floats = npt.NDArray[np.float64]

_BLOCK_BYTES = 1 << 26  # of states held at a time
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
        active = bank.distances(torch.zeros(bank.n_neurons, dtype=torch.bool)).numpy()
        above = active - active.mean()
        together = np.zeros(bank.n_neurons)
        for rows in torch.split(torch.arange(len(bank)), step):
            weights = torch.from_numpy(above[rows]).float()
            together += (weights @ bank.states(rows).float()).double().numpy()
        spread = float(above @ above)
        slope = together / spread if spread else together
        return cls(bank.active_counts.double().numpy() / len(bank), slope, above)

    def beyond(self, states: Tensor, rows: Tensor, votes: Tensor) -> float:
        """Mean agreement with votes beyond what frequencies and activity explain.

        Args:
            states: bool ``(m, D')``, those of the rows.
            rows: int64 ``(m,)``.
            votes: ``(m, D')`` or ``(D',)``; positive for active, negative for inactive.
        """
        explained = self.frequency + self.above[rows.numpy(), None] * self.slope
        away = (states.numpy() - explained) * np.sign(votes.numpy())
        return float(away.mean(1).mean())


def votes_of(bank: ConfigurationBank, region: Region, own: Tensor) -> Tensor:
    """How many more of S are active than inactive in each neuron, int64 ``(D',)``.

    Args:
        bank: a bank of the same rows, of all neurons or some.
        region: the region.
        own: bool ``(D',)``, states of its query, which belongs to S.
    """
    inside = bank.states(region.neighbors)
    if region.query is None:
        inside = torch.cat([inside, own[None]])
    return 2 * inside.sum(0) - len(inside)


def coherence(
    region: Region,
    own: Tensor,
    finding: ConfigurationBank,
    judging: ConfigurationBank,
    activity: Activity,
) -> float | None:
    """How much members have in common with S, of what alike instances have in common.

    Beyond frequencies and overall activity, on the judging neurons: the agreement of
    members outside S with the consensus of S, over the larger of two others. One is that of
    each instance of S with the consensus of the others of S, which tells strays that
    joined a concept. The other is that of each member with the consensus of the rows next
    to it on the finding half, as many as S has, which tells an S that is itself mixed.

    Args:
        region: what the finding half found.
        own: bool ``(D',)``, states of its query in the judging half.
        finding: bank of the neurons that found it.
        judging: bank of the neurons that judge.
        activity: how their states go with overall activity.

    Returns:
        the ratio, or None where there is no member outside S, or where alike instances
        have nothing in common.
    """
    outside = region.members[~torch.isin(region.members, region.neighbors)]
    size = min(len(region.neighbors), len(judging) - 1)
    if not len(outside) or not size:
        return None
    count = min(len(outside), _JUDGED)
    rows = outside[torch.linspace(0, len(outside) - 1, count).long()]
    near = finding.nearest(finding.rows[rows.to(finding.device)], size + 1).rows
    beside = [
        judging.states(around[around != row][:size]).sum(0)
        for row, around in zip(rows, near, strict=True)
    ]
    votes, asked = votes_of(judging, region, own), judging.states(rows)
    inside = judging.states(region.neighbors)
    shared = activity.beyond(asked, rows, votes)
    alike = activity.beyond(asked, rows, 2 * torch.stack(beside) - size)
    within = activity.beyond(inside, region.neighbors, votes - (2 * inside.long() - 1))
    largest = max(within, alike)
    return shared / largest if largest > 0 else None
