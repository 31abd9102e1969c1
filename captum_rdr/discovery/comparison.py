"""The same data through two models: which regions survive, which are new."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_rdr._arguments import checked_rows
from captum_rdr.bank import ConfigurationBank
from captum_rdr.discovery.overlap import Matches, best_matches
from captum_rdr.discovery.regions import bank_regions, recipe
from captum_rdr.discovery.table import table
from captum_rdr.method.region import Region
from captum_rdr.metrics import benjamini_hochberg

LEAST_JACCARD = 1 / 3
"""Two regions of one size with this Jaccard index share half of their members."""


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Regions of the same instances in two banks, matched by their members.

    A region *survives* in the other bank if it shares at least `LEAST_JACCARD` of all
    members with a region there, and more than chance at these sizes.

    Attributes:
        rows: int64 ``(Q,)``, bank rows whose regions were compared.
        regions_a: their regions in the first bank.
        regions_b: their regions in the second bank.
        forward: for each region of the first bank its best match among those of the
            second, p-values corrected for the number of regions (Benjamini-Hochberg).
        backward: for each region of the second bank its best match among those of the
            first.
        level: corrected p-values up to this are more than chance.
    """

    rows: Tensor
    regions_a: tuple[Region, ...]
    regions_b: tuple[Region, ...]
    forward: Matches
    backward: Matches
    level: float

    @property
    def survived(self) -> Tensor:
        """Rows whose region in the first bank has a match in the second, int64."""
        return self.rows[self._matched(self.forward)]

    @property
    def lost(self) -> Tensor:
        """Rows whose region in the first bank has none, int64."""
        return self.rows[~self._matched(self.forward)]

    @property
    def new(self) -> Tensor:
        """Rows whose region in the second bank has none in the first, int64."""
        return self.rows[~self._matched(self.backward)]

    def _matched(self, matches: Matches) -> Tensor:
        enough = matches.jaccard >= LEAST_JACCARD - 1e-12
        return torch.from_numpy(enough & (matches.p_value <= self.level))

    def __repr__(self) -> str:
        rows = []
        for name, matches, regions in (
            ("a in b", self.forward, self.regions_a),
            ("b in a", self.backward, self.regions_b),
        ):
            beyond = matches.p_value <= self.level
            rows.append(
                (
                    name,
                    len(regions),
                    f"{np.median([len(one.members) for one in regions]):.0f}",
                    f"{np.median(matches.jaccard):.3f}",
                    f"{np.median(matches.chance):.3f}",
                    int(beyond.sum()),
                    int(self._matched(matches).sum()),
                )
            )
        header = ("", "regions", "members", "jaccard", "chance", "p passed", "matched")
        title = (
            f"Comparison: {len(self.survived)} regions survived, {len(self.lost)} were lost, "
            f"{len(self.new)} are new (medians of members, jaccard and chance)"
        )
        return table(title, header, rows)


def compare(
    bank_a: ConfigurationBank,
    bank_b: ConfigurationBank,
    rows: Sequence[int] | Tensor | None = None,
    *,
    level: float = 0.05,
    show_progress: bool = True,
    **choices: Any,
) -> Comparison:
    """Match the regions of the same data in two models, checkpoints or layers.

    Row i of both banks must be the same instance. Neurons need not correspond: regions
    are compared by their members.

    Args:
        bank_a: the first bank, say of the earlier checkpoint.
        bank_b: the second, of as many instances in the same order.
        rows: bank rows whose regions are compared, each once; None for all. A region is
            matched only with regions of these rows.
        level: share of false matches beyond chance that is put up with.
        show_progress: draw progress bars when it takes more than a second.
        **choices: how regions are made in either bank, as in
            `captum_rdr.discovery.subclasses`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: the banks differ in length, or an argument is out of range.

    Source: this package; the test of an overlap is the hypergeometric one.

    >>> drawing = torch.Generator().manual_seed(0)
    >>> centers = torch.randn(5, 32, generator=drawing).repeat_interleave(20, 0)
    >>> data = centers + torch.randn(100, 32, generator=drawing) / 2
    >>> model = torch.nn.Identity()
    >>> changed = torch.cat([torch.randn(20, 32, generator=drawing), data[20:]])
    >>> bank_a, bank_b = ConfigurationBank((32,)), ConfigurationBank((32,))
    >>> bank_a.append(data > 0)
    >>> bank_b.append(changed > 0)
    >>> compare(bank_a, bank_b, n_neighbors=8)
    Comparison: 81 regions survived, 19 were lost, 4 are new (medians of members,
    jaccard and chance)
              regions  members  jaccard  chance  p passed  matched
      a in b      100       10    0.900   0.053        81       81
      b in a      100       10    0.900   0.055        98       96
    """
    _check_banks(bank_a, bank_b)
    if not 0 < level < 1:
        raise ValueError(f"level={level} is no probability; use e.g. 0.05")
    every = range(len(bank_a)) if rows is None else rows
    picked = checked_rows(every, len(bank_a))
    if not len(picked) or len(set(picked.tolist())) < len(picked):
        raise ValueError(
            f"rows holds {len(picked)} rows, {len(set(picked.tolist()))} different; give "
            "one row or more, each once"
        )
    found = [
        bank_regions(
            bank,
            picked,
            recipe(bank, len(bank), choices),
            show_progress=show_progress,
        )
        for bank in (bank_a, bank_b)
    ]
    own = picked.numpy()
    members = [[region.members for region in regions] for regions in found]
    forward = best_matches(members[0], members[1], own, own, len(bank_a))
    backward = best_matches(members[1], members[0], own, own, len(bank_a))
    return Comparison(
        picked,
        tuple(found[0]),
        tuple(found[1]),
        _corrected(forward),
        _corrected(backward),
        level,
    )


def _corrected(matches: Matches) -> Matches:
    adjusted = benjamini_hochberg(matches.p_value.tolist())
    return matches._replace(p_value=adjusted)


def _check_banks(bank_a: ConfigurationBank, bank_b: ConfigurationBank) -> None:
    for name, bank in (("bank_a", bank_a), ("bank_b", bank_b)):
        if not isinstance(bank, ConfigurationBank):
            raise TypeError(
                f"{name} is a {type(bank).__name__}; give a ConfigurationBank, e.g. "
                "rdr.bank"
            )
    if len(bank_a) != len(bank_b):
        raise ValueError(
            f"bank_a has {len(bank_a)} instances, bank_b {len(bank_b)}; fit both on the "
            "same data in the same order"
        )
