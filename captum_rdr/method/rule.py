"""The choices that make a region of a query, checked against a bank."""

from dataclasses import asdict, dataclass, replace
from numbers import Real
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from captum_rdr._arguments import check_choice, check_range, check_whole
from captum_rdr.bank import ConfigurationBank

METRICS = ("cosine", "centered_cosine", "direction", "euclidean")
Weighting = Literal["uniform", "evidence"]
Metric = Literal["configuration", "cosine", "centered_cosine", "direction", "euclidean"]


@dataclass(frozen=True)
class Rule:
    """How S, the principal neurons and the members are chosen.

    See `captum_rdr.RelaxedDecisionRegion.attribute` for what the choices mean.

    Attributes:
        n_neighbors: size k of S, the query included; None for what suits the weighting:
            8 by the paper's rule, 16 by evidence, or as many as there are.
        n_neurons: number t of principal neurons; None for 10 by the paper's rule, and
            for all by evidence.
        tolerance: neurons that may disagree, or nats of evidence.
        weighting: ``"uniform"`` (the paper's rule) or ``"evidence"``.
        neighbors: the metric that chooses S, or int64 bank rows ``(m,)`` or ``(Q, m)``;
            None for ``"direction"`` by evidence where the bank has features, else
            configuration distance.
        rounds: how often S is chosen; from the second time on by evidence.
    """

    n_neighbors: int | None = None
    n_neurons: int | None = None
    tolerance: float = 0
    weighting: Weighting = "uniform"
    neighbors: Metric | Tensor | None = None
    rounds: int = 1

    @property
    def is_evidence(self) -> bool:
        """Whether members are told by their evidence."""
        return self.weighting == "evidence"

    @property
    def size(self) -> int:
        """Size of S that was asked for, of a rule that `settled` gave."""
        return self.n_neighbors or 0

    def count(self, n_neurons: int) -> int:
        """Number of principal neurons that were asked for, of so many.

        >>> Rule().count(4), Rule(weighting="evidence").count(64)
        (4, 64)
        """
        if self.n_neurons is None:
            return n_neurons if self.is_evidence else min(10, n_neurons)
        return self.n_neurons

    def settled(self, bank: ConfigurationBank, n_queries: int) -> "Rule":
        """The rule for a bank: size and metric of S that were not given are chosen.

        Args:
            bank: the bank.
            n_queries: number of queries.

        Raises:
            TypeError: a choice is of the wrong type.
            ValueError: a choice is out of range.

        >>> bank = ConfigurationBank((2,))
        >>> bank.append(torch.zeros(20, 2) > 0)
        >>> Rule(weighting="evidence").settled(bank, 1)
        Rule(n_neighbors=16, n_neurons=None, tolerance=0, weighting='evidence',
             neighbors='configuration', rounds=1)
        """
        by_features = self.is_evidence and bank.features is not None
        size = min(16 if self.is_evidence else 8, len(bank))
        metric: Metric = "direction" if by_features else "configuration"
        settled = replace(
            self,
            n_neighbors=size if self.n_neighbors is None else self.n_neighbors,
            neighbors=metric if self.neighbors is None else self.neighbors,
        )
        settled._check(bank, n_queries)
        return settled

    @property
    def needs_features(self) -> bool:
        """Whether S is chosen by distances between float features."""
        return isinstance(self.neighbors, str) and self.neighbors in METRICS

    def as_fields(self) -> dict[str, Any]:
        """The rule as JSON-serializable values.

        >>> Rule.from_fields(Rule(neighbors=torch.tensor([3, 5])).as_fields()).neighbors
        tensor([3, 5])
        """
        return {
            name: value.tolist() if isinstance(value, (np.generic, Tensor)) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Self:
        """The rule of which `as_fields` made ``fields``."""
        neighbors = fields["neighbors"]
        if isinstance(neighbors, list):
            neighbors = torch.tensor(neighbors, dtype=torch.int64)
        return cls(**{**fields, "neighbors": neighbors})

    def _check(self, bank: ConfigurationBank, n_queries: int) -> None:
        """Refuse choices that do not fit each other, the bank or the queries."""
        most = None if isinstance(self.neighbors, Tensor) else len(bank)
        held = f"the bank's {most} instances"
        check_whole("n_neighbors", self.n_neighbors, most=most, of=held)
        n_neurons, n_layer = self.count(bank.n_neurons), bank.n_neurons
        held = f"the layer's {n_layer} neurons"
        check_whole("n_neurons", n_neurons, most=n_layer, of=held)
        check_whole("rounds", self.rounds)
        check_choice("weighting", self.weighting, ("uniform", "evidence"))
        if self.rounds > 1 and not self.is_evidence:
            raise ValueError(
                f"rounds={self.rounds} chooses S anew by evidence; use "
                'weighting="evidence" or rounds=1'
            )
        if self.is_evidence:
            number = isinstance(self.tolerance, (Real, np.number))
            if not number or not 0 <= self.tolerance < float("inf"):
                raise ValueError(
                    f"tolerance={self.tolerance!r} is no finite number of nats; use 0 or "
                    "more"
                )
        elif check_whole("tolerance", self.tolerance, least=0) >= n_neurons:
            raise ValueError(
                f"tolerance={self.tolerance} lets all of n_neurons={n_neurons} "
                "disagree, so every instance would be a member; lower it"
            )
        _check_neighbors(self.neighbors, bank, n_queries)


def _check_neighbors(rows: object, bank: ConfigurationBank, n_queries: int) -> None:
    """Refuse a metric or rows that the bank does not have."""
    if isinstance(rows, str):
        check_choice("neighbors", rows, ("configuration", *METRICS))
        if rows in METRICS and bank.features is None:
            raise ValueError(
                f"neighbors={rows!r} needs the layer's features, which the bank does not "
                'hold; fit with keep_features=True or use neighbors="configuration"'
            )
        return
    if not isinstance(rows, Tensor) or rows.dtype != torch.int64:
        kind = rows.dtype if isinstance(rows, Tensor) else type(rows).__name__
        raise TypeError(
            f"neighbors is a {kind}; give a metric's name, or bank rows as a torch.int64 "
            "tensor, e.g. torch.as_tensor(rows)"
        )
    if rows.dim() not in (1, 2) or (rows.dim() == 2 and len(rows) != n_queries):
        raise ValueError(
            f"neighbors has shape {tuple(rows.shape)}; give bank rows (m,) for all "
            f"queries or ({n_queries}, m) for each"
        )
    check_range("neighbors", rows, len(bank), "the bank's rows")
    ordered = rows.sort(-1).values
    if bool((ordered[..., 1:] == ordered[..., :-1]).any()):
        raise ValueError("neighbors holds a bank row twice; give each row once")
