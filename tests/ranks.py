"""What every process of a group does in `test_distributed`; see `main`."""

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from captum_rdr import ConfigurationBank, RelaxedDecisionRegion
from captum_rdr.distributed import fit_sharded

N = 101  # no multiple of 2 or 3, so that a DistributedSampler repeats instances


def model() -> nn.Sequential:
    """A layer of whole numbers, which no batch size rounds in another way."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 70), nn.ReLU())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(50).round_()
    return net


def images() -> torch.Tensor:
    x = torch.randn(N, 12, generator=torch.Generator().manual_seed(1)).mul(4).round()
    x[50:60] = x[:10]  # ties
    return x


def check_against_one_process(folder: Path) -> None:
    """Shares from a dataset and from a DistributedSampler make the whole bank."""
    net, x = model(), images()
    whole = RelaxedDecisionRegion(net, net[1]).fit(x, show_progress=False).bank
    dataset = TensorDataset(x, torch.arange(N))
    loader = DataLoader(
        dataset, batch_size=7, sampler=DistributedSampler(dataset, shuffle=False)
    )
    out = folder / f"share {dist.get_rank()}"
    for data, choices in (
        (dataset, {}),
        (loader, {"out": out, "keep_features": True}),
        (loader, {"out": out, "keep_features": True, "resume": True}),
    ):
        bank = fit_sharded(net, net[1], data, show_progress=False, **choices)
        assert bank.rows.equal(whole.rows)
        assert bank.sketches.equal(whole.sketches)
        assert bank.active_counts.equal(whole.active_counts)
        rdr = RelaxedDecisionRegion(net, net[1], bank=bank)
        assert len(rdr.attribute(x[:3], 4, 3)[1]) == 3
    assert bank.features.equal(net(x).detach())
    share = ConfigurationBank.load(out)
    assert share.rows.equal(whole.rows[dist.get_rank() :: dist.get_world_size()])


def raised(call, *errors) -> str:
    try:
        call()
    except errors as error:
        return str(error)
    raise AssertionError("nothing was raised")


def check_disagreement() -> None:
    """What differs between processes is refused by all of them."""
    net, x = model(), images()
    rank, size = dist.get_rank(), dist.get_world_size()
    data, quiet = TensorDataset(x), {"show_progress": False}
    for choices in ({"threshold": float(rank)}, {"keep_features": rank == 0}):
        error = raised(
            lambda own=choices: fit_sharded(net, net[1], data, **own, **quiet),
            ValueError,
        )
        assert "different data, models or thresholds" in error
    turned = TensorDataset(x.flip(0) if rank else x)
    error = raised(
        lambda: fit_sharded(net, net[1], turned, show_progress=False), ValueError
    )
    assert "hold the data in different orders" in error
    x[size - 1] = float("nan")  # an instance of the last process
    error = raised(
        lambda: fit_sharded(net, net[1], TensorDataset(x), show_progress=False),
        ValueError if rank == size - 1 else RuntimeError,
    )
    last = rank == size - 1
    assert ("gave NaN" if last else f"processes [{size - 1}] of {size} failed") in error


def check_death(stop: str) -> None:
    """A process that dies or sleeps gives the others an error, not a hang."""
    net, data = model(), TensorDataset(images())
    fit_sharded(net, net[1], data, show_progress=False)
    if dist.get_rank() == 1:
        if stop == "dies":
            os._exit(0)
        time.sleep(6)
        os._exit(0)
    error = raised(
        lambda: fit_sharded(net, net[1], data, show_progress=False), RuntimeError
    )
    assert "died or did not answer in time" in error


def work(task: str, folder: Path) -> None:
    torch.set_num_threads(1)
    if task == "answers":
        check_against_one_process(folder)
        check_disagreement()
    else:
        check_death(task)


def join(rank: int, size: int, store: Path, seconds: float) -> None:
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=seconds),
    )


def main() -> None:
    """Run a task: ``TASK FOLDER SIZE`` forks the processes, torchrun brings its own."""
    task, folder = sys.argv[1], Path(sys.argv[2])
    if "TORCHELASTIC_RUN_ID" in os.environ:
        dist.init_process_group("gloo", timeout=timedelta(seconds=60))
        work(task, folder)
        os._exit(0)  # PyTorch 2.3 hangs in destroy_process_group
    children = []
    for scenario, size in (("answers", 3), ("dies", 2), ("sleeps", 3)):
        for rank in range(size):
            pid = os.fork()
            children.append(pid)
            if pid == 0:
                place = folder / scenario
                place.mkdir(exist_ok=True)
                join(rank, size, place / "store", 3 if scenario == "sleeps" else 60)
                work(scenario, place)
                os._exit(0)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
        children.clear()
        assert codes == [0] * size, (scenario, codes)


if __name__ == "__main__":
    main()
