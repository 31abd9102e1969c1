"""The atlas beside clusterings of the same features, on several networks and layers.

For each pair of network and layer the atlas, k-means, spherical k-means, NMF, Ward and a
sparse autoencoder make as many concepts of the same rows. Printed are, against labels
that none of them saw, purity, NMI and ARI; the share of rows in some concept; how many
concepts are found again (the concept of all rows, restricted to a half of them, has a
Jaccard index of at least 1/2 with one that the half gives by itself; mean of both
halves); how many the atlas calls significant; and seconds. Pairs that were
looked at when the atlas was made are marked so. Beside them: runs on noise, and a mark that was
planted in 3 % of the photos. Run with ``make atlas``.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from cifar_resnet import CifarResNet, normalize
from recipe import Layer, cifar_layers, digit_layers, explainer, photo_layers
from safetensors.torch import load_file
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.decomposition import NMF
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor, nn

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery import Atlas, atlas
from captum_rdr.metrics import Significance

Labels = npt.NDArray[np.int64]
COUNT, SEED = 40, 0
PAIRS = (
    *("ResNet-20 layer3", "EfficientNet-Lite0 block 5", "EfficientNet-Lite0 last"),
    *("digit transformer block 0", "digit transformer block 2"),
    "digit MLP layer 1 (ReLU)",
)
LOOKED_AT = ("ResNet-20 layer2", "ResNet-20 layer3", "EfficientNet-Lite0 block 5")
TIMED = ((10_000, 4096), (50_000, 2048))


def by_atlas(features: Tensor) -> Labels:
    """Number of each row's concept."""
    found = atlas(
        explainer(features), n_concepts=COUNT, test=False, show_progress=False
    )
    labels: Labels = found.labels.numpy()
    return labels


def by_clusters(features: Tensor, make: Callable[..., Any], **options: Any) -> Labels:
    """A clustering of scikit-learn's."""
    found: Labels = make(COUNT, **options).fit_predict(features.flatten(1).numpy())
    return found


def by_spheres(features: Tensor) -> Labels:
    """k-means of centered features of unit length."""
    flat = features.flatten(1)
    return by_clusters(
        F.normalize(flat - flat.mean(0)), KMeans, n_init=3, random_state=0
    )


def by_nmf(features: Tensor) -> Labels:
    """The component of largest weight in a non-negative factorization."""
    model = NMF(COUNT, init="nndsvda", random_state=0, max_iter=100)
    found: Labels = model.fit_transform(features.flatten(1).relu().numpy()).argmax(1)
    return found


def by_autoencoder(features: Tensor) -> Labels:
    """The strongest latent of a sparse autoencoder that keeps four of them (top-k)."""
    torch.manual_seed(SEED)
    flat = features.flatten(1)
    flat = (flat - flat.mean(0)) / flat.std()
    encoder, decoder = nn.Linear(flat.shape[1], COUNT), nn.Linear(COUNT, flat.shape[1])
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


METHODS: dict[str, Callable[[Tensor], Labels]] = {
    "atlas": by_atlas,
    "k-means": lambda x: by_clusters(x, KMeans, n_init=3, random_state=0),
    "spherical k-means": by_spheres,
    "NMF": by_nmf,
    "Ward": lambda x: by_clusters(x, AgglomerativeClustering),
    "sparse autoencoder": by_autoencoder,
}


def purity(classes: Labels, labels: Labels) -> float:
    """Share of rows of the most frequent class of their concept."""
    counts = np.zeros((labels.max() + 2, classes.max() + 1))
    np.add.at(counts, (labels, classes), 1)
    return float(counts.max(1).sum() / len(labels))


def found_again(whole: Labels, parts: list[tuple[Tensor, Labels]]) -> float:
    """Share of concepts that the halves give again, mean of both."""
    shares = []
    for rows, part in parts:
        both = np.zeros((COUNT + 1, COUNT + 1))  # the last is that of rows in none
        np.add.at(both, (whole[rows.numpy()], part), 1)
        union = both.sum(1, keepdims=True) + both.sum(0) - both
        again = (both / np.maximum(union, 1))[:-1, :-1].max(1)
        shares.append((again >= 0.5).mean())
    return float(np.mean(shares))


def tests(found: Atlas) -> list[Significance]:
    """What the concepts' tests found."""
    return [test for one in found if (test := one.region.significance)]


def compared(layer: Layer, n_rows: int) -> None:
    """Print a table of one pair."""
    rows = torch.arange(0, len(layer.labels), max(1, len(layer.labels) // n_rows))
    features, classes = layer.activations[rows].float(), layer.labels[rows].numpy()
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED))
    halves = [half.sort().values for half in order.chunk(2)]
    chose = " (looked at before)" if layer.name in LOOKED_AT else ""
    print(f"\n{layer.name}{chose}, {len(rows)} rows x {features[0].numel()}\n")
    print("| method | purity | NMI | ARI | in a concept | found again | seconds |")
    print("|---|---|---|---|---|---|---|")
    for name, method in METHODS.items():
        start = time.perf_counter()
        labels = method(features)
        seconds = time.perf_counter() - start
        again = found_again(labels, [(half, method(features[half])) for half in halves])
        nmi = normalized_mutual_info_score(classes, labels)
        ari = adjusted_rand_score(classes, labels)
        print(
            f"| {name} | {purity(classes, labels):.3f} | {nmi:.3f} | {ari:.3f} | "
            f"{(labels >= 0).mean():.3f} | {again:.2f} | {seconds:.0f} |",
            flush=True,
        )
    start = time.perf_counter()
    found = atlas(explainer(features), n_concepts=COUNT, show_progress=False)
    verdicts = [test.verdict for test in tests(found)]
    counted = {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))}
    print(
        f"\nof {COUNT} concepts {counted}, {time.perf_counter() - start:.0f} s with tests"
    )
    print(f"chosen by itself: {len(atlas(explainer(features), test=False))} concepts")


def noise(n_runs: int) -> None:
    """Print in how many runs on noise a concept is called significant."""
    for walk_length in (4, 16):
        passed = 0
        for seed in range(n_runs):
            drawing = torch.Generator().manual_seed(seed)
            rdr = explainer(torch.randn(1000, 256, generator=drawing))
            found = atlas(
                rdr, n_concepts=10, walk_length=walk_length, show_progress=False
            )
            passed += any(test.passed for test in tests(found))
        print(
            f"noise, walks of {walk_length}: significant in {passed} of {n_runs} runs"
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
        print(
            f"{n_rows} x {n_neurons}: {time.perf_counter() - start:.0f} s, {len(found)} concepts",
            flush=True,
        )


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--layers", nargs="+", default=PAIRS, help="names")
    parser.add_argument("--rows", type=int, default=2500)
    parser.add_argument(
        "--parts", nargs="+", default=["compared", "noise", "planted", "timed"]
    )
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if "compared" in given.parts:
        pairs: Iterator[Layer] = digit_layers()
        if given.data:
            pairs = chain(cifar_layers(given.data), photo_layers(given.data), pairs)
        for layer in pairs:
            if layer.name in given.layers:
                compared(layer, given.rows)
    if "noise" in given.parts:
        noise(40)
    if "planted" in given.parts and given.data:
        planted(given.data)
    if "timed" in given.parts:
        timed()


if __name__ == "__main__":
    main()
