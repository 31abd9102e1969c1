"""How likely a region is to be a chance find."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Significance:
    """What a test of a region found.

    Attributes:
        p_value: chance of a find at least as coherent where there is no concept; 1 for
            a region without a member outside S.
        effect: how far the region lies above chance, in standard deviations.
        n_outside: members outside S, on which the test rests.
        adjusted_p_value: the p-value after correction for the number of regions that
            were tested together; None if it was not corrected.
        level: p-values up to this count as significant.

    >>> Significance(p_value=0.004, effect=5.1, n_outside=42)
    Significance(p=0.004, effect=5.1, 42 members outside S)
    >>> Significance(p_value=0.03, effect=1.9, n_outside=4, adjusted_p_value=0.2)
    Significance(not significant: adjusted p=0.2, effect=1.9, 4 members outside S)
    """

    p_value: float
    effect: float
    n_outside: int
    adjusted_p_value: float | None = None
    level: float = 0.05

    @property
    def passed(self) -> bool:
        """Whether the p-value, the adjusted one where there is one, is low enough."""
        return self._decisive <= self.level

    @property
    def _decisive(self) -> float:
        return self.p_value if self.adjusted_p_value is None else self.adjusted_p_value

    def __str__(self) -> str:
        verdict = "" if self.passed else "not significant: "
        adjusted = "" if self.adjusted_p_value is None else "adjusted "
        return f"{verdict}{adjusted}p={self._decisive:.2g}"

    def __repr__(self) -> str:
        return (
            f"Significance({self}, effect={self.effect:.3g}, "
            f"{self.n_outside} members outside S)"
        )
