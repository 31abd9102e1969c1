"""Several processes index one bank; what each does stands in `ranks`."""

import subprocess
import sys
from pathlib import Path

import pytest
import ranks
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from captum_rdr.distributed import fit_sharded

RANKS = Path(__file__).with_name("ranks.py")

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not dist.is_available(), reason="forks gloo processes"
)


def run(*command) -> None:
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_two_processes_that_torchrun_starts(tmp_path):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    run(*launcher, RANKS, "answers", tmp_path)


def test_three_processes_and_processes_that_die_or_sleep(tmp_path):
    run(RANKS, "forks", tmp_path)


@pytest.fixture
def group(tmp_path):
    """A group of this process alone."""
    ranks.join(0, 1, tmp_path / "store", 60)
    yield
    dist.destroy_process_group()


def test_one_process(group, tmp_path):
    ranks.check_against_one_process(tmp_path)


def test_bad_arguments(group, net, images):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(images)

    data = TensorDataset(images)
    cases = [
        (
            {"data": data, "threshold": "median"},
            ValueError,
            "of all processes; fit one",
        ),
        ({"data": Stream()}, ValueError, "Stream read by a .*of which there are no"),
        (
            {"data": DataLoader(data, batch_size=4, shuffle=True)},
            ValueError,
            "RandomSampler or a batch sampler, of which",
        ),
        (
            {"data": DataLoader(data, batch_size=None)},
            ValueError,
            "or a batch sampler",
        ),
        ({"data": TensorDataset(images[:0])}, ValueError, "data is empty"),
    ]
    for arguments, error, message in cases:
        with pytest.raises(error, match=message):
            fit_sharded(net, net[2], **arguments, show_progress=False)


def test_without_a_process_group(net, images):
    with pytest.raises((RuntimeError, ValueError), match="call init_process_group"):
        fit_sharded(nn.Identity(), nn.Identity(), TensorDataset(torch.ones(3, 2)))
