"""The atlas beside clusterings of the same features, on several networks and layers.

For each pair of network and layer the atlas, k-means, spherical k-means, NMF, Ward and a
sparse autoencoder make as many concepts of the same rows: 40, and as many as the atlas
finds by itself. Printed are, against labels that none of them saw, purity, NMI and ARI;
the share of rows in some concept; how many concepts are found again (the concept of all
rows, restricted to a half of them, has a Jaccard index of at least 1/2 with one that the
half gives by itself; mean of both halves of three splits); what the atlas's tests say;
and seconds. A last table holds the atlas against the best of the others in each measure,
with 95 % intervals from resampled rows, or the lowest and highest of the three splits.
Pairs on which a choice about the atlas was made are marked so; the others report. Beside
them: runs on noise, and a mark that was planted in 3 % of the photos. Run with
``make atlas``.
"""

import argparse
import resource
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from cifar_resnet import CifarResNet, normalize
from recipe import (
    Layer,
    cifar_layers,
    digit_layers,
    explainer,
    photo_layers,
    text_layers,
)
from safetensors.torch import load_file
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.decomposition import NMF
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor, nn

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery import Atlas, atlas
from captum_rdr.metrics import Significance

Labels = npt.NDArray[np.int64]
COUNT, SEED, SPLITS = 40, 0, 3
CHOSE = (
    *("ResNet-20 layer3", "EfficientNet-Lite0 block 5", "EfficientNet-Lite0 last"),
    *("digit transformer block 0", "digit transformer block 2"),
    *("digit MLP layer 1 (ReLU)", "docstring network layer 1"),
)
REPORT = (
    *("ResNet-20 layer3.0", "EfficientNet-Lite0 block 6", "digit transformer block 1"),
    *("digit MLP layer 2 (ReLU)", "digit CNN layer 2 (batch norm)"),
    "docstring network with GELU",
)
TIMED = ((2500, 2048), (10_000, 2048), (50_000, 2048), (10_000, 4096))


def by_atlas(features: Tensor, count: int) -> Labels:
    """Number of each row's concept."""
    found = atlas(
        explainer(features), n_concepts=count, test=False, show_progress=False
    )
    labels: Labels = found.labels.numpy()
    return labels


def by_clusters(features: Tensor, model: Any) -> Labels:
    """A clustering of scikit-learn's."""
    found: Labels = model.fit_predict(features.flatten(1).numpy())
    return found


def by_means(features: Tensor, count: int) -> Labels:
    """k-means."""
    return by_clusters(features, KMeans(count, n_init=3, random_state=0))


def by_spheres(features: Tensor, count: int) -> Labels:
    """k-means of centered features of unit length."""
    flat = features.flatten(1)
    return by_means(F.normalize(flat - flat.mean(0)), count)


def by_nmf(features: Tensor, count: int) -> Labels:
    """The component of largest weight in a non-negative factorization."""
    model = NMF(count, init="nndsvda", random_state=0, max_iter=100)
    found: Labels = model.fit_transform(features.flatten(1).relu().numpy()).argmax(1)
    return found


def by_autoencoder(features: Tensor, count: int) -> Labels:
    """The strongest latent of a sparse autoencoder that keeps four of them (top-k)."""
    torch.manual_seed(SEED)
    flat = features.flatten(1)
    flat = (flat - flat.mean(0)) / flat.std()
    encoder, decoder = nn.Linear(flat.shape[1], count), nn.Linear(count, flat.shape[1])
    with torch.no_grad():
        decoder.weight.copy_(F.normalize(encoder.weight).T)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-3)

    def latents(rows: Tensor) -> Tensor:
        values = encoder(rows).relu()
        top = values.topk(4, 1)
        return torch.zeros_like(values).scatter(1, top.indices, top.values)

    for _ in range(20):
        for rows in torch.split(torch.randperm(len(flat)), 128):
            loss = F.mse_loss(decoder(latents(flat[rows])), flat[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    with torch.no_grad():
        found: Labels = latents(flat).argmax(1).numpy()
    return found


METHODS: dict[str, Callable[[Tensor, int], Labels]] = {
    "atlas": by_atlas,
    "k-means": by_means,
    "spherical k-means": by_spheres,
    "NMF": by_nmf,
    "Ward": lambda x, count: by_clusters(x, AgglomerativeClustering(count)),
    "sparse autoencoder": by_autoencoder,
}


def purity(classes: Labels, labels: Labels) -> float:
    """Share of rows of the most frequent class of their concept."""
    counts = np.zeros((labels.max() + 2, classes.max() + 1))
    np.add.at(counts, (labels, classes), 1)
    return float(counts.max(1).sum() / len(labels))


def found_again(whole: Labels, part: Labels, rows: Tensor) -> float:
    """Share of concepts that some of the rows give again."""
    size = whole.max() + 1
    both = np.zeros((size + 1, max(part.max() + 1, 0) + 1))  # at last, rows in none
    np.add.at(both, (whole[rows.numpy()], part), 1)
    union = both.sum(1, keepdims=True) + both.sum(0) - both
    again = (both / np.maximum(union, 1))[:-1, :-1].max(1)
    return float((again >= 0.5).mean())


class Found(NamedTuple):
    """What a method made of a layer."""

    labels: Labels
    again: list[float]  # one a split
    seconds: float


def found_by(method: Callable[[Tensor, int], Labels], x: Tensor, count: int) -> Found:
    """Let a method make concepts of all rows, and of the halves of each split."""
    start = time.perf_counter()
    labels = method(x, count)
    seconds, again = time.perf_counter() - start, []
    for seed in range(SPLITS):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        halves = [half.sort().values for half in order.chunk(2)]
        parts = [found_again(labels, method(x[rows], count), rows) for rows in halves]
        again.append(float(np.mean(parts)))
    return Found(labels, again, seconds)


def tests(found: Atlas) -> list[Significance]:
    """What the concepts' tests found."""
    return [test for one in found if (test := one.region.significance)]


def ahead(score: Callable[..., float], classes: Labels, one: Found, best: Found) -> str:
    """By how much a method is ahead of another, with an interval from resampled rows."""
    drawing, size = np.random.default_rng(SEED), len(classes)
    drawn = [drawing.integers(size, size=size) for _ in range(200)]
    by = [
        score(classes[rows], one.labels[rows]) - score(classes[rows], best.labels[rows])
        for rows in drawn
    ]
    low, high = np.percentile(by, [2.5, 97.5])
    mean = score(classes, one.labels) - score(classes, best.labels)
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def against_best(classes: Labels, found: dict[str, Found]) -> Iterator[str]:
    """Give cells of the atlas against the best other method in each measure."""
    one, others = found["atlas"], [name for name in found if name != "atlas"]
    for score in (normalized_mutual_info_score, adjusted_rand_score):
        best = max(others, key=lambda name: score(classes, found[name].labels))
        yield f"{score(classes, one.labels):.3f}"
        yield f"{ahead(score, classes, one, found[best])} {best}"
    best = max(others, key=lambda name: float(np.mean(found[name].again)))
    by = np.subtract(one.again, found[best].again)
    yield f"{np.mean(one.again):.2f}"
    yield f"{by.mean():+.2f} ({by.min():+.2f} to {by.max():+.2f}) {best}"


def compared(layer: Layer, n_rows: int) -> Iterator[str]:
    """Print tables of one pair, and give its rows of the last one."""
    rows = torch.arange(0, len(layer.labels), max(1, len(layer.labels) // n_rows))
    features, classes = layer.activations[rows].float(), layer.labels[rows].numpy()
    name = f"{layer.name}{' (chose)' * (layer.name in CHOSE)}"
    for n_concepts in (COUNT, None):
        start = time.perf_counter()
        rdr = explainer(features)
        tested = atlas(rdr, n_concepts=n_concepts, show_progress=False)
        verdicts = Counter(test.verdict for test in tests(tested))
        seconds, count = time.perf_counter() - start, len(tested)
        print(
            f"\n{name}, {count} concepts of {len(rows)} rows x {rdr.bank.n_neurons}\n"
        )
        print("| method | purity | NMI | ARI | in a concept | found again | seconds |")
        print("|---|---|---|---|---|---|---|")
        found = {}
        for method, make in METHODS.items():
            found[method] = one = found_by(make, features, count)
            nmi = normalized_mutual_info_score(classes, one.labels)
            ari = adjusted_rand_score(classes, one.labels)
            print(
                f"| {method} | {purity(classes, one.labels):.3f} | {nmi:.3f} | {ari:.3f} "
                f"| {(one.labels >= 0).mean():.3f} | {np.mean(one.again):.2f} "
                f"| {one.seconds:.0f} |",
                flush=True,
            )
        said = ", ".join(f"{number} {it}" for it, number in sorted(verdicts.items()))
        print(f"\nOf {count} concepts {said}; {seconds:.0f} s with tests.", flush=True)
        yield f"| {name} | {count} | {' | '.join(against_best(classes, found))} |"


def noise(n_runs: int) -> None:
    """Print in how many runs on noise a concept is called significant."""
    for n_concepts in (None, 10):
        passed = 0
        for seed in range(n_runs):
            drawing = torch.Generator().manual_seed(seed)
            rdr = explainer(torch.randn(1000, 256, generator=drawing))
            found = atlas(rdr, n_concepts=n_concepts, show_progress=False)
            passed += any(test.passed for test in tests(found))
        print(
            f"noise, {n_concepts or 'as many as are found'}: significant in {passed} of "
            f"{n_runs} runs",
            flush=True,
        )


def planted(folder: Path) -> None:
    """Print precision and recall of the concept that holds a planted mark."""
    held = np.load(folder / "cifar10_subset.npz")
    net = CifarResNet().eval()
    net.load_state_dict(load_file(folder / "resnet20_cifar10.safetensors"))
    squares = (torch.arange(8)[:, None] // 2 + torch.arange(8) // 2) % 2
    colors = torch.tensor([[255, 255, 0], [255, 0, 255]], dtype=torch.uint8)
    for seed in range(3):
        images = torch.from_numpy(held["images"][seed::5]).clone()
        drawing = torch.Generator().manual_seed(100 + seed)
        marked = torch.randperm(len(images), generator=drawing)[
            : len(images) * 3 // 100
        ]
        images[marked, 22:30, 22:30] = colors[squares]
        for name in ("layer1", "layer2", "layer3"):
            rdr = RelaxedDecisionRegion(net, getattr(net, name), threshold="median")
            rdr.fit(normalize(images), keep_features=True, show_progress=False)
            found = atlas(rdr, show_progress=False)
            hits = [int(torch.isin(one.rows, marked).sum()) for one in found]
            best = int(
                np.argmax(
                    [
                        2 * h / (len(one.rows) + len(marked))
                        for h, one in zip(hits, found, strict=True)
                    ]
                )
            )
            precision, recall = (
                hits[best] / len(found[best].rows),
                hits[best] / len(marked),
            )
            print(
                f"mark in 3 %, {name}, seed {seed}: precision {precision:.2f}, recall "
                f"{recall:.2f}, {found[best].region.significance}",
                flush=True,
            )


def timed() -> None:
    """Print how long large atlases take, on clustered data."""
    for n_rows, n_neurons in TIMED:
        drawing = torch.Generator().manual_seed(SEED)
        centers = torch.randn(60, n_neurons, generator=drawing)
        picked = torch.randint(60, (n_rows,), generator=drawing)
        rdr = explainer(
            centers[picked] + torch.randn(n_rows, n_neurons, generator=drawing)
        )
        start = time.perf_counter()
        found = atlas(rdr, show_progress=False)
        seconds = time.perf_counter() - start
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{n_rows} x {n_neurons}: {seconds:.0f} s on {torch.get_num_threads()} "
            f"threads, {len(found)} concepts, up to {most:.1f} GB of memory so far",
            flush=True,
        )


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--layers", nargs="+", default=CHOSE + REPORT, help="names")
    parser.add_argument("--rows", type=int, default=2500)
    parser.add_argument(
        "--parts", nargs="+", default=["compared", "noise", "planted", "timed"]
    )
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if "compared" in given.parts:
        pairs: Iterator[Layer] = chain(digit_layers(), text_layers())
        if given.data:
            pairs = chain(cifar_layers(given.data), photo_layers(given.data), pairs)
        held = [
            row
            for layer in pairs
            if layer.name in given.layers
            for row in compared(layer, given.rows)
        ]
        print(
            "\n| network and layer | concepts | NMI | ahead of the best other | ARI "
            "| ahead of the best other | found again | ahead of the best other |\n"
            "|---|---|---|---|---|---|---|---|",
            *held,
            sep="\n",
        )
    if "noise" in given.parts:
        noise(40)
    if "planted" in given.parts and given.data:
        planted(given.data)
    if "timed" in given.parts:
        timed()


if __name__ == "__main__":
    main()
