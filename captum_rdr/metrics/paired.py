"""Two treatments of the same instances, compared instance by instance."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedEffect:
    """Mean effect of a treatment beside that of its control.

    Attributes:
        n: number of instances.
        effect: mean effect of the treatment; NaN without an instance.
        control: mean effect of the control.
        interval: 95 % confidence interval of their mean difference; NaN below two
            instances.
    """

    n: int
    effect: float
    control: float
    interval: tuple[float, float]

    @property
    def difference(self) -> float:
        """How much more the treatment does."""
        return self.effect - self.control

    @property
    def ratio(self) -> float:
        """How many times as much the treatment does."""
        return self.effect / self.control if self.control else float("nan")

    def __repr__(self) -> str:
        low, high = self.interval
        return (
            f"PairedEffect({self.effect:.3g} against {self.control:.3g} at random, "
            f"difference {self.difference:.3g} [{low:.3g}, {high:.3g}], n={self.n})"
        )


def paired_effect(effects: Tensor, controls: Tensor) -> PairedEffect:
    """Compare two treatments of the same instances.

    Args:
        effects: float ``(n,)``, what the treatment did to each instance.
        controls: float ``(n,)``, what the control did to it.

    Source: Student's paired t interval; Student, *The probable error of a mean*, 1908.

    >>> import torch
    >>> paired_effect(torch.tensor([2.0, 3.0, 4.0]), torch.tensor([1.0, 1.0, 1.0]))
    PairedEffect(3 against 1 at random, difference 2 [-0.484, 4.48], n=3)
    """
    from scipy.stats import t as student

    n = len(effects)
    if n == 0:
        return PairedEffect(0, np.nan, np.nan, (np.nan, np.nan))
    effects, controls = effects.double(), controls.double()
    away, reach = float((effects - controls).mean()), float("nan")
    if n > 1:
        error = float((effects - controls).std()) / n**0.5
        reach = float(student.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return PairedEffect(
        n, float(effects.mean()), float(controls.mean()), (away - reach, away + reach)
    )
