"""What clamping principal neurons does to the predicted class's logit.

On CIFAR-10 images and a public ResNet-20, layer3: principal neurons beside random ones of
like activation frequency. Needs the folder that ``benchmarks/purity.py`` needs; run with
``make ablation``.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar_resnet import CifarResNet, normalize
from safetensors.torch import load_file
from scipy.stats import ttest_rel
from torch import Tensor

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.metrics import ablation

N_QUERIES, N_INPUTS = 20, 10  # inputs inside, and as many outside
EVIDENCE = {
    "weighting": "evidence",
    "neighbors": "centered_cosine",
    "n_neighbors": 16,
    "n_neurons": 50,
}
RULES: dict[str, dict[str, Any]] = {
    "paper's rule, t=10": {},
    "evidence, t=50": EVIDENCE,
}


def inputs_of(rdr: RelaxedDecisionRegion, region: Any, images: Tensor) -> Tensor:
    """Some images in the region and some outside."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(images), generator=generator)
    inside = torch.isin(order, region.members)
    return images[torch.cat([order[inside][:N_INPUTS], order[~inside][:N_INPUTS]])]


def main() -> None:
    """Clamp and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    folder: Path = parser.parse_args().data
    data = np.load(folder / "cifar10_subset.npz")
    model = CifarResNet()
    model.load_state_dict(load_file(folder / "resnet20_cifar10.safetensors"))
    images = normalize(torch.from_numpy(data["images"]))
    generator = torch.Generator().manual_seed(0)
    queries = torch.randperm(len(images), generator=generator)[:N_QUERIES]
    print(f"{N_QUERIES} regions, {N_INPUTS} members and {N_INPUTS} others of each\n")
    print(
        "| threshold, rule | members: principal | random | ratio | difference, 95 % | "
        "others: principal | random |\n"
        "|---|---|---|---|---|---|---|"
    )
    for threshold in (0.0, "median"):
        rdr = RelaxedDecisionRegion(model, model.layer3, threshold=threshold)
        rdr.fit(images, keep_features=True, show_progress=False)
        for name, rule in RULES.items():
            regions = rdr.attribute_members(queries, show_progress=False, **rule)
            rows = []
            for region in regions:
                found = ablation(
                    rdr,
                    region,
                    inputs_of(rdr, region, images),
                    n_random=3,
                    show_progress=False,
                )
                inside, outside = found.members["logit"], found.others["logit"]
                rows.append(
                    [inside.effect, inside.control, outside.effect, outside.control]
                )
            table = torch.tensor(rows, dtype=torch.float64)
            own, other = table[:, 0], table[:, 1]
            low, high = ttest_rel(own, other).confidence_interval()
            means = table.mean(0).tolist()
            print(
                f"| {threshold}, {name} | {own.mean():.2f} | {other.mean():.2f} | "
                f"{own.mean() / other.mean():.1f} | {low:.2f} to {high:.2f} | "
                f"{means[2]:.2f} | {means[3]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
