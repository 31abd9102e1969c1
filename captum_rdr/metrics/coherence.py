"""Whether a region's members are alike where nothing was selected."""

from dataclasses import dataclass

import torch

from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.metrics.finding import findings
from captum_rdr.metrics.halves import trial
from captum_rdr.metrics.permutation import checked_count, permutation_p_values


@dataclass(frozen=True)
class Coherence:
    """How far members outside S agree with S where nothing was selected.

    Attributes:
        agreement: their mean share of judging neurons in the state of S's consensus; NaN
            without a member outside S.
        expected: the same share for all rows outside S.
        effect: how far the agreement lies above that, in standard deviations of the mean
            of a random set of the same size.
        p_value: chance of a random set that agrees as much; 1 without a member.
        n_outside: members outside S that the finding half found.
        n_judging: neurons that judged.
    """

    agreement: float
    expected: float
    effect: float
    p_value: float
    n_outside: int
    n_judging: int

    def __repr__(self) -> str:
        return (
            f"Coherence({self.agreement:.3f} against {self.expected:.3f} by chance on "
            f"{self.n_judging} neurons, effect={self.effect:.3g}, p={self.p_value:.2g}, "
            f"{self.n_outside} members outside S)"
        )


def coherence(
    region: Region,
    bank: ConfigurationBank,
    *,
    n_permutations: int = 999,
    generator: torch.Generator | None = None,
) -> Coherence:
    """How much more the members agree with S than chance, on neurons not used to find them.

    The layer's neurons are split in two halves at random (whole channels, see
    `captum_rdr.metrics.halves.split_neurons`). The region is found anew from its query,
    by its own rule, on the first half: neighbors S, principal neurons and members. In the
    other half, S's consensus is the state of most of S, and each member outside S agrees
    with it in some share of the neurons. The test compares their mean with that of random
    sets of as many rows outside S. If neurons are independent, the members are such a
    random set, and the p-value is exact.

    Args:
        region: region of a bank row or of an input.
        bank: the bank it was found in.
        n_permutations: number of random sets.
        generator: splits the neurons and draws the sets; None for one seeded with 0.

    Raises:
        ValueError: the region is that of another bank or lacks its rule, or
            ``n_permutations`` is not positive.

    Source: sample splitting for valid tests after selection, Cox, *A note on data-splitting
    for the evaluation of significance levels*, Biometrika 1975.

    >>> from captum_rdr import RelaxedDecisionRegion
    >>> drawing = torch.Generator().manual_seed(0)
    >>> centers = torch.randn(6, 64, generator=drawing).repeat_interleave(30, 0)
    >>> data = centers + torch.randn(180, 64, generator=drawing) / 2
    >>> model = torch.nn.Identity()
    >>> rdr = RelaxedDecisionRegion(model, model).fit(data, show_progress=False)
    >>> (region,) = rdr.attribute_members([0], n_neurons=5)
    >>> coherence(region, rdr.bank)
    Coherence(0.860 against 0.552 by chance on 32 neurons, effect=10.4, p=2.7e-16,
     21 members outside S)
    """
    judged = trial([region], bank, generator, show_progress=False)
    (p_value,) = permutation_p_values(judged, checked_count(n_permutations))
    (found,) = findings(judged)
    return Coherence(
        found.agreement,
        found.expected,
        found.effect,
        p_value,
        len(found.picked),
        found.n_judging,
    )
