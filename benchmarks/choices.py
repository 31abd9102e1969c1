"""Print how k, t, tolerance and thresholds change regions, on scikit-learn's digits.

Purity is the share of a region's members outside S that have the query's label, members
the median number of all members, real the share of regions that a test finds more than
chance (see captum_rdr.metrics.significance).
"""

import warnings

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from captum_rdr import Region, RelaxedDecisionRegion
from captum_rdr.metrics import significance

QUERIES = range(0, 1797, 9)


def trained(x: Tensor, labels: Tensor) -> nn.Sequential:
    """A small network that reads the digits."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Linear(128, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model


def purity(regions: list[Region], labels: Tensor) -> float:
    """Mean purity of the members outside S."""
    shares = []
    for region in regions:
        outside = region.members[~torch.isin(region.members, region.neighbors)]
        if len(outside):
            same = labels[outside] == labels[region.query or 0]
            shares.append(float(same.float().mean()))
    return sum(shares) / len(shares)


def main() -> None:
    """Print one table."""
    digits = load_digits()
    x = torch.tensor(digits.data / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    model = trained(x, labels)
    fitted = {
        threshold: RelaxedDecisionRegion(model, model[3], threshold=threshold).fit(
            x, show_progress=False
        )
        for threshold in (0.0, "median")
    }
    choices: list[tuple[float | str, int, int, int]] = [
        *((0.0, k, 10, 0) for k in (4, 8, 16, 32)),
        *((0.0, 8, t, 0) for t in (3, 5, 20, 40)),
        *((0.0, 8, 20, tolerance) for tolerance in (2, 4)),
        *(("median", 8, t, 0) for t in (5, 10, 20)),
    ]
    print("| threshold | k | t | tolerance | purity | members | real |")
    print("|---|---|---|---|---|---|---|")
    for threshold, k, t, tolerance in choices:
        rdr = fitted[threshold]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fewer unanimous neurons than t
            found = rdr.attribute_members(
                QUERIES, k, t, tolerance=tolerance, show_progress=False
            )
        tested = significance(found, rdr.bank, show_progress=False)
        members = torch.tensor([len(region.members) for region in found]).median()
        real = [
            one.significance is not None and one.significance.passed for one in tested
        ]
        print(
            f"| {threshold} | {k} | {t} | {tolerance} | {purity(found, labels):.2f} | "
            f"{members} | {sum(real) / len(real):.2f} |"
        )


if __name__ == "__main__":
    main()
