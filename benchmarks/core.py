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

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import pairwise_distances
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet50, vgg19

from captum_rdr import ConfigurationBank, RelaxedDecisionRegion

N, D, K, T = 30_720, 12_800, 8, 10
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


def explaining() -> None:
    """Time queries on a bank of synthetic clustered bits."""
    bank = ConfigurationBank((D,), reserve=N)
    rows = np.empty((N, D))
    start = 0
    for block in clustered_states(N, D):
        bank.append(block)
        rows[start : start + len(block)] = block.numpy()
        start += len(block)
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank)
    queries = list(range(64))

    def one_by_one() -> None:
        for query in queries:
            rdr.attribute_members([query], K, T)

    for query in queries[:3]:
        (region,) = rdr.attribute_members([query], K, T)
        assert region.members.tolist() == plain_region(rows, query)
    plain = seconds(lambda: plain_region(rows, 5), 3)
    one = seconds(lambda: rdr.attribute_members([5], K, T), 31)
    singly = seconds(one_by_one, 5) / 64
    together = seconds(lambda: rdr.attribute_members(queries, K, T), 9) / 64
    away = seconds(lambda: bank.nearest(bank.rows[5], K), 31)
    print(f"Explaining: N={N}, D={D}, k={K}, t={T}, {torch.get_num_threads()} threads")
    print(f"  bank / (N D / 8):                {bank.nbytes / (N * D / 8):.3f}")
    print(f"  one region:                      {1000 * one:.2f} ms")
    print(f"  of that its nearest rows:        {1000 * away:.2f} ms")
    print(f"  plain float64 way / one region:  {plain / one:.0f} ({plain:.2f} s)")
    print(f"  64 one by one / 64 in a batch:   {singly / together:.2f}")
    print(f"  in a batch:                      {1000 * together:.2f} ms a region")


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
        explaining()
    if arguments.part in (None, "indexing"):
        indexing(arguments.rounds)
    if arguments.part in (None, "memory"):
        memory()


if __name__ == "__main__":
    main()
