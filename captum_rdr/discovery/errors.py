"""What is found about errors."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_rdr.discovery.table import table
from captum_rdr.method.region import Region


@dataclass(frozen=True, eq=False)
class Misclassified:
    """One error.

    Attributes:
        index: its position among the inputs.
        target: its class.
        predicted: the class that the model takes it for.
        region: its region in the reference bank.
        by_class: how many reference members of that have which class.
        by_prediction: how many of them are taken for which class; None if that is not
            known.
        nearest: the nearest region of its class, see
            `captum_rdr.discovery.repair.nearest_region`.
        neurons: int64 ``(m,)``, principal neurons of that in which the error departs
            from it, the weightiest first.
        states: bool ``(m,)``, the states that it asks for.
        n_repairing: how many of these neurons must be clamped to those states for the
            right prediction, of 1, 2, 4, ... and all; None if none of these numbers
            does, or if that was not tried.
        by_chance: share of random sets of as many other neurons whose flip makes the
            prediction right too; None without a repair.
        cause: number of its cause; -1 for an error that shares no region with others
            that make up a cause.
    """

    index: int
    target: int
    predicted: int
    region: Region
    by_class: Counter[int]
    by_prediction: Counter[int] | None
    nearest: Region
    neurons: Tensor
    states: Tensor
    n_repairing: int | None
    by_chance: float | None
    cause: int


@dataclass(frozen=True, eq=False)
class Cause:
    """Errors that share regions.

    Attributes:
        errors: the errors, in the order of the inputs.
        region: the region that stands for them, among the inputs: its rows are positions
            of inputs. S are an error and the errors nearest to it.
    """

    errors: tuple[Misclassified, ...]
    region: Region

    @property
    def indices(self) -> Tensor:
        """Positions of the errors among the inputs, int64."""
        return torch.tensor([error.index for error in self.errors])

    @property
    def targets(self) -> Counter[int]:
        """How many of the errors have which class."""
        return Counter(error.target for error in self.errors)

    @property
    def predictions(self) -> Counter[int]:
        """How many of the errors are taken for which class."""
        return Counter(error.predicted for error in self.errors)

    @property
    def n_repaired(self) -> int:
        """How many of the errors a clamp repairs."""
        return sum(error.n_repairing is not None for error in self.errors)


@dataclass(frozen=True, eq=False, repr=False)
class Misclassification:
    """All errors of a set of inputs, and their causes, the largest cause first.

    Attributes:
        errors: the errors, in the order of the inputs.
        causes: the causes.
        n_inputs: number of inputs.
        repaired: whether repairs were tried.
    """

    errors: tuple[Misclassified, ...]
    causes: tuple[Cause, ...]
    n_inputs: int
    repaired: bool

    def __repr__(self) -> str:
        rows = []
        for number, cause in enumerate(self.causes):
            counts = [e.n_repairing for e in cause.errors if e.n_repairing is not None]
            chances = [e.by_chance for e in cause.errors if e.by_chance is not None]
            median = f"{torch.tensor(counts).median()}" if counts else "-"
            chance = f"{sum(chances) / len(chances):.2f}" if chances else "-"
            rows.append(
                (
                    number,
                    len(cause.errors),
                    _counted(cause.targets),
                    _counted(cause.predictions),
                    cause.n_repaired if self.repaired else "-",
                    median,
                    chance,
                    " ".join(map(str, cause.indices[:5].tolist())),
                )
            )
        alone = sum(error.cause < 0 for error in self.errors)
        title = (
            f"Misclassification: {len(self.errors)} errors of {self.n_inputs} inputs, "
            f"{len(self.causes)} cause{'s' * (len(self.causes) != 1)}, {alone} errors in none"
        )
        header = (
            *("cause", "errors", "class x errors", "taken for x errors", "repaired"),
            *("by neurons", "by chance", "inputs"),
        )
        return table(title, header, rows)


def _counted(counts: Counter[int]) -> str:
    common = [f"{label} x {count}" for label, count in counts.most_common(3)]
    return ", ".join(common) + (", ..." if len(counts) > 3 else "")
