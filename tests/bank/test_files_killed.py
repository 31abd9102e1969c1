"""Processes killed with SIGKILL while they write: nothing lost, nothing wrong."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from killable import fit, large_bank

from captum_rdr import ConfigurationBank

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill")

N_RANDOM_POINTS = 50


@pytest.fixture
def tmp_path():
    """A folder in memory where there is one: a kill asks nothing of the disk."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


class Nursery:
    """Children of a process that has imported the package, see `killable`."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, Path(__file__).parents[1] / "killable.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _line(self) -> list[str]:
        return self._parent.stdout.readline().split()

    def run(self, task, path, *, die_at=-1, kill_after=None) -> tuple[bool, float]:
        """Whether the child ended well, and the seconds that its task took."""
        self._parent.stdin.write(f"{task} {path} {die_at}\n")
        self._parent.stdin.flush()
        pid, duration = int(self._line()[1]), 0.0
        assert self._line() == ["ready"]
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):  # it was faster
                os.kill(pid, signal.SIGKILL)
        while (line := self._line())[0] != "exit":
            duration = float(line[1])
        assert line[1] in ("0", str(-signal.SIGKILL))
        return line[1] == "0", duration

    def close(self) -> None:
        self._parent.stdin.close()
        self._parent.stdout.close()
        assert self._parent.wait() == 0


@pytest.fixture(scope="module")
def nursery():
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def banks(tmp_path_factory):
    """The old banks' folders, and the banks before and after a fit."""
    path = tmp_path_factory.mktemp("old")
    old = fit(path / "bank", 1)
    large_bank(1).save(path / "saved")
    new = fit(path / "new", -1)
    large_bank(-1).save(path / "new saved")
    return path, old, new


def same(one, other) -> bool:
    return (
        one.rows.equal(other.rows)
        and one.active_counts.equal(other.active_counts)
        and one.source == other.source
        and one.members(torch.arange(3), torch.ones(3) > 0).equal(
            other.members(torch.arange(3), torch.ones(3) > 0)
        )
    )


def check_fit(out, old, new) -> str:
    """What a killed fit left: the old bank or the new one, and it can be resumed."""
    left = ConfigurationBank.load(out)
    assert same(left, old) or same(left, new)
    state = "new" if same(left, new) else "old"
    if state == "old" and (out / "draft.json").exists():
        state = "begun"
    if state == "old":  # nothing of the new bank is there to be resumed
        with pytest.raises(ValueError, match="fit without resume to begin anew"):
            fit(out, -1, resume=True)
    assert same(fit(out, -1, resume=state != "old"), new)
    check_names(out)
    return state


def check_names(folder) -> None:
    """Nothing is left of what was killed."""
    names = {path.name.split("-")[0] for path in folder.iterdir()}
    always = {"rows", "active_counts", "threshold", ".lock", "bank.json"}
    assert always <= names <= always | {"sketches", "probe"}  # these only from fit
    assert len(list(folder.iterdir())) == len(names)


def test_a_fit_killed_at_random_points(tmp_path, nursery, banks):
    path, old, new = banks
    _, duration = nursery.run("fit", tmp_path / "whole")
    generator = random.Random(0)
    states = []
    for number in range(N_RANDOM_POINTS):
        out = tmp_path / str(number)
        shutil.copytree(path / "bank", out)
        part = (number + generator.random()) / N_RANDOM_POINTS
        nursery.run("fit", out, kill_after=part * duration)
        states.append(check_fit(out, old, new))
        shutil.rmtree(out)
    assert "begun" in states


def test_a_fit_killed_at_every_change_on_disk(tmp_path, nursery, banks):
    path, old, new = banks
    states, ended = [], False
    while not ended:
        out = tmp_path / str(len(states))
        shutil.copytree(path / "bank", out)
        ended, _ = nursery.run("fit", out, die_at=len(states))
        states.append(check_fit(out, old, new))
    assert set(states) == {"old", "begun", "new"}
    assert len(states) > 20


def check_save(target, old, new) -> bool:
    """What a killed save left: the old bank, or the new one; it can be saved again."""
    left = ConfigurationBank.load(target)
    assert same(left, old) or same(left, new)
    was_new = same(left, new)
    new.save(target)
    assert same(ConfigurationBank.load(target), new)
    check_names(target)
    return was_new


def test_a_save_killed_at_random_points(tmp_path, nursery, banks):
    path, _, _ = banks
    target = tmp_path / "bank"
    old, new = (ConfigurationBank.load(path / name) for name in ("saved", "new saved"))
    _, duration = nursery.run("save", target)
    generator = random.Random(1)
    for number in range(N_RANDOM_POINTS):
        shutil.rmtree(target)
        shutil.copytree(path / "saved", target)
        part = (number + generator.random()) / N_RANDOM_POINTS
        nursery.run("save", target, kill_after=part * duration)
        check_save(target, old, new)


def test_a_save_killed_at_every_change_on_disk(tmp_path, nursery, banks):
    path, _, _ = banks
    old, new = (ConfigurationBank.load(path / name) for name in ("saved", "new saved"))
    target, lefts, ended = tmp_path / "bank", [], False
    while not ended:
        shutil.copytree(path / "saved", target)
        ended, _ = nursery.run("save", target, die_at=len(lefts))
        lefts.append(check_save(target, old, new))
        shutil.rmtree(target)
    # Three arrays, their names and the manifest; its name and the three old arrays.
    assert lefts == [False] * 9 + [True] * 5
