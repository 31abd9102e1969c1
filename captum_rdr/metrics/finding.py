"""How a region's members outside S agree with S where nothing was selected."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from captum_rdr.bank import bits
from captum_rdr.bank.bits import packed_rows
from captum_rdr.method.region import Region
from captum_rdr.metrics.halves import Trial
from captum_rdr.metrics.requery import query_states

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Finding:
    """What the judging neurons say of one region.

    Attributes:
        agreements: int64 ``(N',)``, for each bank row outside S the number of judging
            neurons in which it agrees with S's consensus.
        picked: int64, positions in it of the region's members.
        n_judging: number of judging neurons.
    """

    agreements: Ints
    picked: Ints
    n_judging: int

    @property
    def total(self) -> int:
        """Agreements of all members outside S together."""
        return int(self.agreements[self.picked].sum())

    @property
    def agreement(self) -> float:
        """Mean share of judging neurons in which members outside S agree with S."""
        if not len(self.picked):
            return float("nan")
        return self.total / (len(self.picked) * self.n_judging)

    @property
    def expected(self) -> float:
        """That share for all rows outside S."""
        if not len(self.agreements):
            return float("nan")
        return float(self.agreements.mean()) / self.n_judging

    @property
    def effect(self) -> float:
        """How far the agreement lies above chance, in standard deviations.

        The deviation is that of the mean of a set of the same size, drawn without
        replacement from the rows outside S; 0 where nothing can vary.
        """
        size, everyone = len(self.picked), len(self.agreements)
        if not 0 < size < everyone:
            return 0.0
        variance = float(self.agreements.var()) / size * (everyone - size)
        deviation = (variance / (everyone - 1)) ** 0.5
        away = self.total / size - float(self.agreements.mean())
        return away / deviation if deviation > 0 else 0.0


def findings(trial: Trial, judged_in: bits.Bytes | None = None) -> Iterator[Finding]:
    """Judge the regions of a trial.

    Args:
        trial: the regions.
        judged_in: packed rows of the judging half to use in place of the trial's own.
    """
    halves = trial.halves
    rows = halves.judged_in if judged_in is None else judged_in
    states = query_states(halves.bank, trial.queries)[:, ~halves.finding]
    owns = packed_rows(states, states.shape[1:])
    for region, own in zip(trial.found, owns, strict=True):
        yield finding(rows, halves.n_judging, region, own)


def finding(
    judged_in: bits.Bytes, n_judging: int, found: Region, own: bits.Bytes
) -> Finding:
    """Judge one region.

    Args:
        judged_in: packed rows of the judging neurons, as a bank holds them.
        n_judging: number of those neurons.
        found: the region, for its S and its members.
        own: the query's packed states in the judging neurons.
    """
    target = consensus(judged_in, n_judging, found, own)
    distances = bits.hamming(target[None], judged_in)[0].astype(np.int64)
    inside = np.zeros(len(judged_in), bool)
    inside[found.neighbors.numpy()] = True
    members = np.zeros(len(judged_in), bool)
    members[found.members.numpy()] = True
    return Finding(
        n_judging - distances[~inside], np.flatnonzero(members[~inside]), n_judging
    )


def consensus(
    judged_in: bits.Bytes, n_judging: int, found: Region, own: bits.Bytes
) -> bits.Bytes:
    """The state that most of S have in each judging neuron; ties go to the query.

    Args:
        judged_in: packed rows of the judging neurons.
        n_judging: number of those neurons.
        found: the region, for its S.
        own: the query's packed states in them.

    Returns:
        packed states, one row.
    """
    rows = judged_in[found.neighbors.numpy()]
    if found.query is None:
        rows = np.concatenate([rows, own[None]])
    active = bits.unpack(rows, n_judging).sum(0, dtype=np.int64)
    of_query = bits.unpack(own, n_judging)
    states = np.where(2 * active == len(rows), of_query, 2 * active > len(rows))
    packed = np.zeros_like(own)
    filled = np.packbits(states, bitorder="little")
    packed[: len(filled)] = filled
    return packed
