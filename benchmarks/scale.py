"""How queries and indexing grow with instances and neurons, beside other engines.

Prints the tables of docs/scale.md and draws docs/figures/scale.png. Quote the ratios, which
are of times measured in turn in one run; single times vary with the machine. Run with
``python benchmarks/scale.py``; ``--part`` runs one part. Needs 2 GB of memory and 2 GB of
disk.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import faiss
import numpy as np
import torch
from captum.influence import SimilarityInfluence
from matplotlib import pyplot as plt
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from captum_rdr import ConfigurationBank, RelaxedDecisionRegion
from captum_rdr.bank import bits
from captum_rdr.bank.queries import Nearest

K, T = 8, 10
D = 12_800
NS = [1_000, 3_000, 10_000, 30_000, 100_000, 300_000]
DS = [512, 2_048, 8_192, 32_768, 100_352]
MIB = 2**20
FIGURE = Path(__file__).parent.parent / "docs" / "figures" / "scale.png"


def packed_rows(n: int, d: int, seed: int = 0) -> Iterator[Tensor]:
    """Yield packed clustered states: each instance flips an eighth of its center's bits."""
    generator = np.random.default_rng(seed)
    n_bytes = d // 8
    centers = generator.integers(0, 256, (300, n_bytes), np.uint8)
    pool = generator.integers(0, 256, (1024, n_bytes), np.uint8)
    step = max(1, (1 << 24) // n_bytes)
    for start in range(0, n, step):
        size = min(step, n - start)
        center, *noise = generator.integers(0, 1024, (4, size))
        flips = pool[noise[0]] & pool[noise[1]] & pool[noise[2]]
        yield torch.from_numpy(centers[center % 300] ^ flips)


def bank_in_memory(n: int, d: int) -> tuple[ConfigurationBank, float]:
    """Give a bank and the seconds that each instance took to append."""
    bank, seconds = ConfigurationBank((d,), reserve=n), 0.0
    for block in packed_rows(n, d):
        start = time.perf_counter()
        bank.append(block)
        seconds += time.perf_counter() - start
    return bank, seconds / n


def in_turn(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Give the median time of each call over three turns.

    The first two calls of a turn do not count: PyTorch's threads go on spinning for a
    while after its own work, which slows down who comes next.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(3):
        for name, call in calls.items():
            for repeat in range(2 + -(-repeats // 3)):
                start = time.perf_counter()
                call()
                if repeat > 1:
                    times[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in times.items()}


def exponent(sizes: list[int], times: list[float]) -> float:
    """Fit the exponent of growth to the larger half of the sizes."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(times[half:]), 1)[0])


def repeats_for(n_bytes: float) -> int:
    """Give fewer repeats for larger banks."""
    return int(np.clip(2e9 / n_bytes, 7, 41))


def faiss_index(bank: ConfigurationBank) -> Any:
    """Give FAISS's exact binary index of the same rows."""
    index = faiss.IndexBinaryFlat(bank.n_neurons)
    index.add(bank.rows.numpy())
    return index


def members_of(bank: ConfigurationBank, row: int) -> Callable[[], Tensor]:
    """Give a call that asks for the rows which share ten states of one."""
    neurons = torch.arange(0, bank.n_neurons, bank.n_neurons // T)[:T]
    states = bank.states(torch.tensor([row]))[0, neurons]
    return lambda: bank.members(neurons, states)


def speed() -> None:
    """Compare one query with the memory's bandwidth and a batch with FAISS."""
    print(f"Queries: nearest {K} rows, {torch.get_num_threads()} threads")
    for n in (30_720, 300_000):
        bank, _ = bank_in_memory(n, D)
        words = bank.packed.view(torch.int64)
        index = faiss_index(bank)
        one, many = bank.rows[5:6].clone(), bank.rows[:64].clone()
        expected = index.search(many.numpy(), K)[0]
        assert (bank.nearest(many, K).distances.numpy() == expected).all()
        times = in_turn(
            {
                "pass": words.sum,
                "one": partial(bank.nearest, one, K),
                "faiss one": partial(index.search, one.numpy(), K),
                "pass again": words.max,
            },
            31,
        )
        batch = in_turn(
            {
                "batch": partial(bank.nearest, many, K),
                "faiss": partial(index.search, many.numpy(), K),
            },
            5,
        )
        fastest = min(times["pass"], times["pass again"])
        print(
            f"  {n} x {D} ({bank.nbytes / MIB:.0f} MiB in memory)\n"
            f"    bandwidth of one pass:             {bank.nbytes / fastest / 1e9:.1f} GB/s\n"
            f"    one query:                         {1e3 * times['one']:.2f} ms\n"
            f"    share of the bandwidth:            {fastest / times['one']:.2f}\n"
            f"    one query / FAISS:                 {times['one'] / times['faiss one']:.2f}\n"
            f"    a query of a batch of 64:          {1e3 * batch['batch'] / 64:.2f} ms\n"
            f"    the same / FAISS:                  {batch['batch'] / batch['faiss']:.2f}"
        )


def resident(folder: str) -> None:
    """Print how much more memory of its own queries of a bank on disk take, in MiB."""
    bank = ConfigurationBank.load(folder)
    query = bank.states(torch.tensor([5]))
    before, peaks, done = own_memory(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            peaks.append(own_memory())

    thread = threading.Thread(target=watch)
    thread.start()
    bank.nearest(query, K)
    bank.nearest(query.repeat(64, 1), K)
    members_of(bank, 5)()
    done.set()
    thread.join()
    print(max(peaks) - before)


def own_memory() -> float:
    """Give the memory of this process that no file backs, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return (
        int(next(line for line in lines if line.startswith("RssAnon")).split()[1])
        / 1024
    )


def disk() -> None:
    """Time and memory of queries of a bank on disk."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "bank")
        held, _ = bank_in_memory(300_000, D)
        start = time.perf_counter()
        held.save(folder)
        saved = time.perf_counter() - start
        del held
        start = time.perf_counter()
        bank = ConfigurationBank.load(folder)
        loaded = time.perf_counter() - start
        start = time.perf_counter()
        ConfigurationBank.load(folder, verify=False)
        mapped = time.perf_counter() - start
        memory = ConfigurationBank.load(folder, mmap=False)
        one, many = memory.rows[5:6], memory.rows[:64]
        calls: dict[str, Callable[[], Any]] = {}
        for name, each in (("disk", bank), ("memory", memory)):
            calls[f"{name} one"] = partial(each.nearest, one, K)
            calls[f"{name} batch"] = partial(each.nearest, many, K)
            calls[f"{name} members"] = members_of(each, 5)
        times = in_turn(calls, 5)
        assert members_of(bank, 5)().equal(members_of(memory, 5)())
        more = subprocess.run(
            [sys.executable, __file__, "--resident", str(folder)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(
            f"On disk: 300000 x {D}, {bank.nbytes / MIB:.0f} MiB of rows\n"
            f"  all files / rows:                    {size / bank.nbytes:.3f}\n"
            f"  saved:                               {saved:.2f} s\n"
            f"  loaded and checked:                  {loaded:.2f} s\n"
            f"  loaded with verify=False:            {mapped:.3f} s\n"
            f"  memory that queries take:            {float(more):.0f} MiB\n"
            f"  one query / in memory:               "
            f"{times['disk one'] / times['memory one']:.2f} ({1e3 * times['disk one']:.0f} ms)\n"
            f"  a batch of 64 / in memory:           "
            f"{times['disk batch'] / times['memory batch']:.2f}\n"
            f"  members of {T} neurons / in memory:   "
            f"{times['disk members'] / times['memory members']:.2f} "
            f"({1e3 * times['disk members']:.2f} ms)"
        )


def growth(sizes: list[tuple[int, int]]) -> dict[str, list[float]]:
    """Measure banks of several sizes; prints one line each."""
    measured: dict[str, list[float]] = {}
    for n, d in sizes:
        bank, appended = bank_in_memory(n, d)
        index = faiss_index(bank)
        one, many = bank.rows[5:6].clone(), bank.rows[:64].clone()
        times = in_turn(
            {
                "one query": partial(bank.nearest, one, K),
                "members": members_of(bank, 5),
                "FAISS, one query": partial(index.search, one.numpy(), K),
            },
            repeats_for(bank.nbytes),
        )
        batch = in_turn({"": partial(bank.nearest, many, K)}, 3)
        times["a query of 64"] = batch[""] / 64
        times["appended, an instance"] = appended
        with contextlib.suppress(MemoryError):
            times["scikit-learn"] = scikit_learn(bank, one)
        for name, seconds in times.items():
            measured.setdefault(name, []).append(seconds)
        shown = "  ".join(f"{1e6 * seconds:10.1f}" for seconds in times.values())
        print(f"  {n:7d} x {d:6d}  {bank.nbytes / n:7.0f}  {shown}")
    return measured


def scikit_learn(bank: ConfigurationBank, one: Tensor) -> float:
    """Time scikit-learn's brute-force search, if its unpacked rows fit a gigabyte."""
    if len(bank) * bank.n_neurons > 1 << 30:
        raise MemoryError
    states = bank.states().numpy()
    search = NearestNeighbors(n_neighbors=K, algorithm="brute", metric="hamming")
    search.fit(states)
    query = bits.unpack(one, bank.n_neurons).numpy()
    return in_turn({"": lambda: search.kneighbors(query)}, 3)[""]


def all_growth() -> None:
    """Growth with instances and neurons, with fitted exponents and the figure."""
    print("Growth: microseconds, and bytes an instance")
    heads = ("one query", "members", "FAISS one", "query/64", "appended", "sklearn")
    shown = "  ".join(f"{head:>10s}" for head in heads)
    print(f"        N x      D    bytes  {shown}")
    by_n = growth([(n, D) for n in NS])
    by_d = growth([(10_000, d) for d in DS])
    print("  exponent with N (larger half), with D:")
    fig, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    for axis, sizes, by, label in (
        (axes[0], NS, by_n, f"instances N (D = {D:,})"),
        (axes[1], DS, by_d, "neurons D (N = 10,000)"),
    ):
        for name, times in by.items():
            axis.loglog(sizes[: len(times)], np.array(times) * 1e3, "o-", label=name)
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("milliseconds")
    fig.legend(
        *axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=6
    )
    for name in by_n:
        of_n = exponent(NS[: len(by_n[name])], by_n[name])
        of_d = exponent(DS[: len(by_d[name])], by_d[name])
        print(f"    {name:22s} {of_n:5.2f}  {of_d:5.2f}")
    FIGURE.parent.mkdir(exist_ok=True)
    fig.savefig(FIGURE, dpi=110)


def hamming_similarity(test: Any, reference: Any) -> Tensor:
    """Give minus the configuration distance, as a metric of Captum's."""
    # Captum gives a list for a single layer.
    one, other = (
        (value[0] if isinstance(value, list) else value).flatten(1) > 0
        for value in (test, reference)
    )
    return -torch.cdist(one.float(), other.float(), p=0)


def captum() -> None:
    """Compare with Captum's example-based influence, whose cache holds activations."""
    n, d = 3_000, 2_048
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Identity(), nn.ReLU())
    with tempfile.TemporaryDirectory() as folder:
        influence = SimilarityInfluence(
            model,
            ["1"],
            TensorDataset(x),
            folder,
            "model",
            similarity_metric=hamming_similarity,
            similarity_direction="max",
            batch_size=500,
        )
        rdr = RelaxedDecisionRegion(model, model[1]).fit(x, show_progress=False)
        start = time.perf_counter()
        found = influence.influence(x[:1], top_k=K)["1"][0]
        first = time.perf_counter() - start
        expected = rdr.bank.nearest(x[:1] > 0, K)
        assert set(found[0].tolist()) == set(expected.rows[0].tolist())
        times = in_turn(
            {
                "captum": lambda: influence.influence(x[:1], top_k=K),
                "ours": lambda: rdr.attribute(x[:1], K, T, return_regions=False),
            },
            5,
        )
        cache = sum(path.stat().st_size for path in Path(folder).rglob("*.pt"))
    print(
        f"Captum's SimilarityInfluence with a Hamming metric: {n} x {d}\n"
        f"  its cache / our bank:                {cache / rdr.bank.nbytes:.1f}\n"
        f"  its first query, which fills it:     {first:.2f} s\n"
        f"  a later query / our whole region:    {times['captum'] / times['ours']:.0f} "
        f"({1e3 * times['captum']:.0f} ms)"
    )


def device() -> None:
    """All-pairs nearest by matrix products, on a GPU or a small part on the CPU."""
    on_gpu = torch.cuda.is_available()
    name, n = ("cuda", 30_720) if on_gpu else ("cpu", 4_096)
    bank, _ = bank_in_memory(n, D)
    there = bank.to(name)
    signs = torch.ones(
        n, D, device=name, dtype=torch.float16 if on_gpu else torch.float32
    )

    def product() -> None:
        _ = signs @ signs[:4096].T
        if on_gpu:
            torch.cuda.synchronize()

    def by_products(queries: Tensor) -> Nearest:
        with mock.patch.object(bits, "numkong", None):
            return there.nearest(queries, K)

    assert by_products(bank.rows[:64]).rows.equal(bank.nearest(bank.rows[:64], K).rows)
    times = in_turn(
        {
            "product": product,
            "device": lambda: by_products(bank.rows),
            "popcount": lambda: bank.nearest(bank.rows, K),
        },
        3 if on_gpu else 1,
    )
    ceiling = times["product"] * n / 4096
    print(
        f"All pairs: {n} x {D} on {name}{'' if on_gpu else ' (no GPU here)'}\n"
        f"  share of the matrix product's speed: {ceiling / times['device']:.2f}\n"
        f"  matrix products / popcount on CPU:   {times['device'] / times['popcount']:.1f}"
    )


def main() -> None:
    """Run the parts that are asked for."""
    parts = {
        "speed": speed,
        "disk": disk,
        "growth": all_growth,
        "captum": captum,
        "device": device,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=list(parts))
    parser.add_argument("--resident", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(min(2, os.cpu_count() or 1))
    faiss.omp_set_num_threads(torch.get_num_threads())
    if arguments.resident:
        resident(arguments.resident)
        return
    for name, part in parts.items():
        if arguments.part in (None, name):
            part()


if __name__ == "__main__":
    main()
