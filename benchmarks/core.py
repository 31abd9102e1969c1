"""What indexing and explaining cost, beside the plain way and the bare forward pass.

Prints ratios of times measured in turn in one run; single times vary with the machine.
Run with ``make bench``; ``--part`` runs one part.
"""

import argparse
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import pairwise_distances
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet50, vgg19

from captum_rdr import ConfigurationBank, Region, RelaxedDecisionRegion

N, D, K, T = 30_720, 12_800, 8, 10
SIZES = [(N, D), (10_000, 512), (10_000, 100_352)]
BATCH = 64
PLAIN_BYTES = 4 << 30  # of states as float64
MIB = 2**20


def clustered_states(
    n: int, d: int, clusters: int = 300, seed: int = 0
) -> Iterable[Tensor]:
    """Yield blocks of states in clusters: each instance flips 10 % of its center's bits."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(clusters, d, generator=generator) < 0.4
    for start in range(0, n, 1024):
        size = min(1024, n - start)
        chosen = torch.randint(clusters, (size,), generator=generator)
        yield centers[chosen] ^ (torch.rand(size, d, generator=generator) < 0.1)


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Give the median time of a call, after one that does not count."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def plain_region(rows: npt.NDArray[np.float64], query: int) -> list[int]:
    """Find the members as the original code does: float64, and row by row."""
    distances = pairwise_distances(rows[query : query + 1], rows, metric="manhattan")[0]
    neighbors = np.argsort(distances, kind="stable")[:K]
    inside = np.mean(rows[neighbors], axis=0)
    overall = np.mean(rows, axis=0)
    scores = np.where((inside == 0) | (inside == 1), np.abs(inside - overall), -1)
    neurons = np.argsort(-scores, kind="stable")[:T]
    wanted = rows[query, neurons]
    return [i for i in range(len(rows)) if (rows[i, neurons] == wanted).all()]


def filled(n: int, d: int) -> ConfigurationBank:
    """Make a bank of synthetic clustered states."""
    bank = ConfigurationBank((d,), reserve=n)
    for block in clustered_states(n, d):
        bank.append(block)
    return bank


def against_faiss(bank: ConfigurationBank, size: int) -> tuple[float, float]:
    """Give the seconds of `nearest` and of FAISS's flat index for ``size`` queries."""
    index = faiss.IndexBinaryFlat(8 * bank.rows.shape[1])
    rows = bank.rows.numpy().copy()
    index.add(rows)
    repeats = 9 if size > 1 else 51
    expected = index.search(rows[:size], K)[0]
    found = bank.nearest(bank.rows[:size], K)
    assert (found.distances.numpy() == expected).all()
    ours = seconds(lambda: bank.nearest(bank.rows[:size], K), repeats)
    return ours, seconds(lambda: index.search(rows[:size], K), repeats)


def explaining(n: int, d: int) -> None:
    """Time queries, beside FAISS and the plain way where that fits the memory."""
    bank, layer, queries = filled(n, d), nn.Identity(), list(range(BATCH))
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank)

    def regions(rows: list[int], **choices: Any) -> Callable[[], list[Region]]:
        given = {"n_neighbors": K, "n_neurons": T, **choices, "show_progress": False}
        return lambda: rdr.attribute_members(rows, **given)

    evidence = {"weighting": "evidence", "n_neighbors": 16, "n_neurons": d}
    one, together = seconds(regions([5]), 31), seconds(regions(queries), 9) / BATCH
    near, faiss_one = against_faiss(bank, 1)
    near_batch, faiss_batch = (time / BATCH for time in against_faiss(bank, BATCH))
    by_evidence = seconds(regions([5], **evidence), 15)
    by_evidence_batch = seconds(regions(queries, **evidence), 5) / BATCH
    print(f"Explaining: N={n}, D={d}, k={K}, t={T}, {torch.get_num_threads()} threads")
    print(f"  bank / (N D / 8):                       {bank.nbytes / (n * d / 8):.3f}")
    print(f"  nearest, one query / FAISS:             {near / faiss_one:.2f}")
    print(
        f"  nearest, a query of {BATCH} / FAISS:         {near_batch / faiss_batch:.2f}"
    )
    print(f"  evidence, one region / paper's rule:    {by_evidence / one:.1f}")
    print(
        f"  evidence, one of {BATCH} / nearest of {BATCH}:    {by_evidence_batch / near_batch:.1f}"
    )
    if 8 * n * d < PLAIN_BYTES:
        rows = bank.states().numpy().astype(np.float64)
        for query in queries[:3]:
            (region,) = regions([query])()
            assert region.members.tolist() == plain_region(rows, query)
        plain = seconds(lambda: plain_region(rows, 5), 3)
        print(f"  plain float64 way / one region:         {plain / one:.0f}")
        print(f"  plain float64 way / one of {BATCH}:          {plain / together:.0f}")
    print(
        f"  milliseconds: nearest {1000 * near:.3f}, of {BATCH} {1000 * near_batch:.3f}; "
        f"region {1000 * one:.3f}, of {BATCH} {1000 * together:.3f}; by evidence "
        f"{1000 * by_evidence:.3f}, of {BATCH} {1000 * by_evidence_batch:.3f}; FAISS "
        f"{1000 * faiss_one:.3f}, of {BATCH} {1000 * faiss_batch:.3f}"
    )


def networks() -> dict[str, tuple[nn.Module, nn.Module, nn.Module, int, int, int]]:
    """Give model, layer, the model up to that layer, image size, images and batch size."""
    torch.manual_seed(0)
    vgg, resnet = vgg19().eval(), resnet50().eval()
    to_conv = vgg.features[:29]
    parts = list(resnet.children())[:-2]
    return {
        "VGG-19 features.28, 84 px": (vgg, vgg.features[28], to_conv, 84, 512, 32),
        "VGG-19 features.28, 224 px": (vgg, vgg.features[28], to_conv, 224, 96, 16),
        "ResNet-50 layer4, 224 px": (
            resnet,
            resnet.layer4,
            nn.Sequential(*parts),
            224,
            256,
            32,
        ),
    }


def indexing(rounds: int) -> None:
    """Compare `fit` with the bare forward pass to the same layer."""
    print("Indexing: time of fit / time of the bare forward pass to the same layer")
    for name, (model, layer, bare, size, n_images, batch_size) in networks().items():
        images = torch.randn(n_images, 3, size, size)
        loader = DataLoader(TensorDataset(images), batch_size=batch_size)
        rdr = RelaxedDecisionRegion(model, layer)

        def forward(bare: nn.Module = bare, loader: Any = loader) -> None:
            with torch.no_grad():
                for (batch,) in loader:
                    bare(batch)

        forward()
        ratios = []
        for _ in range(rounds):
            start = time.perf_counter()
            forward()
            middle = time.perf_counter()
            rdr.fit(loader, show_progress=False)
            ratios.append((time.perf_counter() - middle) / (middle - start))
        low, high = min(ratios), max(ratios)
        print(
            f"  {name}: {np.median(ratios):.3f} ({low:.3f} to {high:.3f}, {n_images} images)"
        )


def peak_memory(task: str) -> None:
    """Print the peak resident memory of a forward pass or of `fit`, in MiB."""
    torch.manual_seed(0)
    model = vgg19().eval()
    bare, layer = model.features[:29], model.features[28]
    batches = (torch.randn(32, 3, 84, 84) for _ in range(96))
    if task == "forward":
        with torch.no_grad():
            for batch in batches:
                bare(batch)
    elif task == "fit":
        RelaxedDecisionRegion(model, layer).fit(batches, show_progress=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MIB)


def memory() -> None:
    """Compare the peak memory of `fit` and of the bare forward pass, each in a process."""
    peaks = {
        task: float(
            subprocess.run(
                [sys.executable, __file__, "--peak", task],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for task in ("forward", "fit")
    }
    bank = 3072 * D / 8 / MIB
    extra = peaks["fit"] - peaks["forward"] - bank
    print("Memory: 3,072 images of 84 px through VGG-19 to features.28, length unknown")
    print(f"  peak of the bare forward pass:   {peaks['forward']:.0f} MiB")
    print(f"  peak of fit:                     {peaks['fit']:.0f} MiB")
    print(f"  more than forward pass and bank: {extra:.0f} MiB (bank {bank:.0f} MiB)")


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["explaining", "indexing", "memory"])
    parser.add_argument("--rounds", type=int, default=5, help="pairs of timings")
    parser.add_argument("--peak", choices=["forward", "fit"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    if arguments.peak:
        peak_memory(arguments.peak)
        return
    if arguments.part in (None, "explaining"):
        for size in SIZES:
            explaining(*size)
    if arguments.part in (None, "indexing"):
        indexing(arguments.rounds)
    if arguments.part in (None, "memory"):
        memory()


if __name__ == "__main__":
    main()
