"""Banks on disk: the same answers as in memory, block by block, and resuming."""

import copy
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import bank_of, random_states
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_rdr import ConfigurationBank, RelaxedDecisionRegion
from captum_rdr.bank import bits, diskrows, draft
from captum_rdr.bank import columns as columns_module
from captum_rdr.bank.columns import write_columns
from captum_rdr.bank.diskrows import DiskRows
from captum_rdr.model import states as neurons

identity = nn.Identity()


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of eight rows, so that small banks have many."""
    monkeypatch.setattr(draft, "BLOCK_ROWS", 8)
    monkeypatch.setattr(draft, "COLUMN_BLOCK_BYTES", 64)
    monkeypatch.setattr(diskrows, "BLOCK_BYTES", 100)
    monkeypatch.setattr(columns_module, "WORK_BYTES", 1000)


def fit(data, out=None, layer=identity, model=identity, threshold=0.0, **kwargs):
    rdr = RelaxedDecisionRegion(model, layer, threshold=threshold)
    return rdr.fit(data, out=out, show_progress=False, **kwargs)


def same(one: ConfigurationBank, other: ConfigurationBank) -> bool:
    features = (one.features is None) == (other.features is None)
    return (
        one.rows.equal(other.rows)
        and one.active_counts.equal(other.active_counts)
        and one.threshold.equal(other.threshold)
        and (one.layer_shape, one.fingerprint) == (other.layer_shape, other.fingerprint)
        and one.data_fingerprint == other.data_fingerprint
        and features
        and (one.features is None or one.features.equal(other.features))
    )


class StopError(Exception):
    pass


def stopping(batches, after: int):
    """Batches that fail after some, as a run that is stopped."""
    for number, batch in enumerate(batches):
        if number == after:
            raise StopError
        yield batch


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 90), st.integers(1, 150), st.integers(0, 99))
def test_the_bit_matrix_is_transposed(n, d, seed):
    states = random_states(8 * n, d, seed)
    rows = bits.pack(states).numpy()
    turned = bits.unpack(bits.transposed(rows)[:d], 8 * n)
    assert (turned == states.numpy().T).all()
    assert (bits.count_active(rows, d) == states.sum(0).numpy()).all()


@pytest.mark.parametrize("n", [1, 63, 64, 200])
@pytest.mark.parametrize("d", [1, 65, 200])
def test_columns_hold_each_neuron(tmp_path, small_blocks, n, d):
    states = random_states(n, d)
    bank = bank_of(states)
    (tmp_path / "rows").write_bytes(bank.packed.tobytes())
    handle = os.open(tmp_path / "rows", os.O_RDONLY)
    rows = DiskRows(handle, 0, bank.packed.shape)
    shape = write_columns(tmp_path / "columns", rows, d)
    found = np.fromfile(tmp_path / "columns", np.uint8).reshape(shape)
    assert (bits.unpack(found, n) == states.numpy().T).all()
    assert not bits.unpack(found, 8 * shape[1])[:, n:].any()


@pytest.fixture
def banks(tmp_path, small_blocks, images):
    """One bank in memory, in a folder and in a file."""
    x = images.repeat(3, 1, 1, 1)  # ties, over block limits
    memory = fit(x, keep_features=True).bank
    folder = fit(x, tmp_path / "bank", keep_features=True).bank
    memory.save(tmp_path / "file")
    return memory, folder, ConfigurationBank.load(tmp_path / "file")


def test_a_bank_on_disk_answers_as_one_in_memory(banks):
    memory, *on_disk = banks
    queries = torch.cat([memory.rows[::40], memory.rows[:2] ^ 1])
    t = torch.arange(0, 64, 7)
    for bank in on_disk:
        assert same(bank, memory)
        assert "on disk" in repr(bank)
        assert bank.nbytes == memory.nbytes
        assert bank.distances(queries).equal(memory.distances(queries))
        for k in (1, 5, 30, 270):
            for found, expected in zip(
                bank.nearest(queries, k), memory.nearest(queries, k), strict=True
            ):
                assert found.equal(expected)
        for row in (0, 100, 269):
            states = memory.states(torch.tensor([row]))[0, t]
            away = memory.disagreements(t, states)
            assert bank.disagreements(t, states).equal(away)
            for tolerance in (0, 2):
                assert bank.members(t, states, tolerance).equal(
                    memory.members(t, states, tolerance)
                )
        weights = torch.randn(len(t), 2, dtype=torch.float64)
        summed = bank.weighted_sum(t, weights)
        assert summed.allclose(memory.weighted_sum(t, weights), atol=1e-12)
        assert bank.states(torch.tensor([3, -1])).equal(
            memory.states(torch.tensor([3, -1]))
        )
        with pytest.raises(IndexError, match="row 270 is not one of 270"):
            bank.states(torch.tensor([270]))


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"tolerance": 1},
        {"weighting": "evidence"},
        {"neighbors": "cosine", "weighting": "evidence", "rounds": 2},
        {"neighbors": torch.tensor([3, 7, 50])},
    ],
)
def test_regions_of_a_bank_on_disk_are_those_of_one_in_memory(banks, images, choices):
    memory, *on_disk = banks

    def explain(bank):
        rdr = RelaxedDecisionRegion(identity, identity, bank=bank)
        _, new = rdr.attribute(images[:3] + 0.3, 5, 4, **choices)
        return new + rdr.attribute_members([0, 100, 269], 5, 4, **choices)

    expected = explain(memory)
    for bank in on_disk:
        for one, other in zip(explain(bank), expected, strict=True):
            for name in ("neurons", "states", "members", "neighbors", "distances"):
                assert getattr(one, name).equal(getattr(other, name)), name


def test_eight_threads_ask_one_bank_on_disk(banks):
    memory, folder, file = banks
    t = torch.arange(0, 64, 7)
    states = memory.states()[:, t]
    nearest = [memory.nearest(memory.rows[i], 9) for i in range(64)]
    members = [memory.members(t, states[i], 1) for i in range(64)]

    def ask(index):
        bank, i = (folder, file)[index % 2], index // 2
        found = bank.nearest(memory.rows[i], 9)
        return found.rows.equal(nearest[i].rows) and bank.members(
            t, states[i], 1
        ).equal(members[i])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(128)))


def test_copies_share_the_disk_and_appending_leaves_it(banks):
    memory, folder, _ = banks
    assert same(copy.deepcopy(folder), memory)
    with pytest.raises(TypeError, match="on disk cannot be pickled; pass its path"):
        pickle.dumps(folder)
    merged = ConfigurationBank.merge([folder, folder])
    assert merged.rows.equal(torch.cat([memory.rows, memory.rows]))
    twin = copy.deepcopy(folder)
    twin.append(memory.states()[:1], memory.features[:1])
    assert len(twin) == 271
    assert twin.nearest(memory.rows[0], 4).rows.tolist() == [[0, 90, 180, 270]]
    t = torch.arange(5)
    assert 270 in twin.members(t, memory.states()[0, t])
    assert same(folder, memory)


@pytest.mark.parametrize("keep_features", [False, True])
@pytest.mark.parametrize(
    ("batch", "after"), [(1, 7), (1, 8), (1, 77), (5, 3), (5, 16), (8, 4), (64, 1)]
)
def test_resuming_gives_the_same_bank(
    tmp_path, small_blocks, images, net, batch, after, keep_features
):
    kwargs = {"layer": net[2], "model": net, "keep_features": keep_features}
    batches = images.split(batch)
    expected = fit(batches, **kwargs).bank
    out = tmp_path / "deep" / "bank"
    if after < len(batches):
        with pytest.raises(StopError):
            fit(stopping(batches, after), out, **kwargs)
        with pytest.raises(ValueError, match=r"(unfinished bank; finish it|no bank)"):
            ConfigurationBank.load(out)
    resumed = fit(batches, out, resume=True, **kwargs).bank
    assert same(resumed, expected)
    assert same(ConfigurationBank.load(out), expected)
    assert same(ConfigurationBank.load(out, mmap=False), expected)
    names = sorted(path.name.split("-")[0] for path in out.iterdir())
    assert names == ["features"] * keep_features + ["manifest", "neurons", "rows"]


def test_resuming_does_not_run_what_is_finished(tmp_path, small_blocks, images):
    ran = []

    class Counting(nn.Module):
        def forward(self, x):
            ran.append(len(x))
            return x

    model = Counting()
    with pytest.raises(StopError):
        fit(stopping(images.split(20), 3), tmp_path, model=model, layer=model)
    assert ran == [20, 20, 20]
    ran.clear()
    # 56 of 60 rows are in finished blocks: the third batch runs again, whole.
    fit(images.split(20), tmp_path, model=model, layer=model, resume=True)
    assert ran == [20, 20, 10]
    ran.clear()
    again = fit(images, tmp_path, model=model, layer=model, resume=True)
    assert ran == []
    assert again.bank.states().equal((images > 0).flatten(1))
    assert len(again.attribute(images[:2])[1]) == 2


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.filterwarnings("ignore:.*read off")
def test_resuming_with_median_thresholds(tmp_path, monkeypatch, small_blocks, exact):
    x = torch.randn(90, 6, generator=torch.Generator().manual_seed(0))
    if not exact:
        monkeypatch.setattr(neurons, "MEDIAN_BYTES", 40 * 6 * 4)
    batches = x.split(7)
    expected = fit(batches, threshold="median").bank

    real = draft.Draft.append
    calls = []

    def append(self, *args):
        calls.append(1)
        if len(calls) == 4:
            raise StopError
        real(self, *args)

    if exact:
        monkeypatch.setattr("captum_rdr.model.fitting._SAMPLED_ROWS", 16)
    monkeypatch.setattr(draft.Draft, "append", append)
    with pytest.raises(StopError):
        fit(batches, tmp_path, threshold="median")
    monkeypatch.setattr(draft.Draft, "append", real)
    # The median is known, so one pass is enough, over data that can be read only once.
    resumed = fit(iter(batches), tmp_path, threshold="median", resume=True)
    assert same(resumed.bank, expected)


def test_resuming_several_layers(tmp_path, monkeypatch, small_blocks, net, images):
    layers, outs = [net[2], net[6]], [tmp_path / "a", tmp_path / "b"]
    expected = fit(images.split(10), layer=layers, model=net).bank
    finish = draft.Draft.finish
    monkeypatch.setattr(draft, "BLOCK_ROWS", 16)
    with pytest.raises(StopError):
        fit(stopping(images.split(10), 4), outs, layers, net)

    def fail_at_second(self):
        if self._folder == outs[1]:
            raise StopError
        finish(self)

    monkeypatch.setattr(draft.Draft, "finish", fail_at_second)
    with pytest.raises(StopError):
        fit(images.split(10), outs, layers, net, resume=True)
    monkeypatch.setattr(draft.Draft, "finish", finish)
    assert same(ConfigurationBank.load(outs[0]), expected[0])
    resumed = fit(images.split(10), outs, layers, net, resume=True).bank
    assert [same(*pair) for pair in zip(resumed, expected, strict=True)] == [True, True]


def test_what_cannot_be_resumed_is_refused(tmp_path, small_blocks, images, net):
    def interrupt(out, data=images, **kwargs):
        with pytest.raises(StopError):
            fit(stopping(data.split(10), 5), out, net[2], net, **kwargs)

    def resume(out, data=images, layer=net[2], **kwargs):
        fit(data.split(10), out, layer, net, resume=True, **kwargs)

    out = tmp_path / "bank"
    interrupt(out)
    prints = r"has fingerprint \w{12}\.\.\., but layer '\d' now has \w{12}"
    for kwargs in (
        {"layer": net[6]},
        {"threshold": 0.5},
        {"threshold": "median"},
        {"keep_features": True},
        {"attribute_to_layer_input": True},
    ):
        with pytest.raises(ValueError, match=prints):
            resume(out, **kwargs)
    data = (
        r"made from \S+ instances that begin with \w{12}.*, but data has .* begin with"
    )
    with pytest.raises(ValueError, match=data):
        resume(out, images.flip(0))
    with pytest.raises(ValueError, match=r"data has 20 instances, but .* indexed 48"):
        resume(out, images[:20])
    with torch.no_grad():
        net[0].weight += 1
    with pytest.raises(ValueError, match=prints):
        resume(out)
    # Without resume a new bank begins, whatever was there.
    fit(images, out, net[2], net)
    loader = DataLoader(TensorDataset(images[:80]), batch_size=10)
    with pytest.raises(ValueError, match=r"made from 90 instances.* but data has 80"):
        fit(loader, out, net[2], net, resume=True)


def test_bad_folders(tmp_path, images, net):
    layers = [net[2], net[6]]
    (tmp_path / "file").write_bytes(b"x")
    cases = [
        (lambda: fit(images, resume=True), ValueError, "resume=True needs out"),
        (
            lambda: fit(images, tmp_path / "file"),
            ValueError,
            "is a file; give a folder",
        ),
        (lambda: fit(images, [tmp_path]), TypeError, "does not fit layer"),
        (lambda: fit(images, tmp_path, layers, net), TypeError, "a list of folders"),
        (
            lambda: fit(images, [tmp_path, tmp_path], layers, net),
            ValueError,
            "one folder twice",
        ),
        (lambda: fit(images, [tmp_path], layers, net), ValueError, "out has 1 items"),
        (lambda: ConfigurationBank.load(tmp_path), ValueError, "holds no bank; give"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()


def test_a_folder_has_one_writer(tmp_path, images):
    class Nested:
        def __iter__(self):
            fit(images, tmp_path)
            yield images

    with pytest.raises(RuntimeError, match="is being written to already"):
        fit(Nested(), tmp_path)
    fit(images, tmp_path)


def test_a_new_bank_takes_the_place_of_the_old_at_the_end(
    tmp_path, small_blocks, images
):
    (tmp_path / "notes.txt").write_text("of the user's")
    old = fit(images, tmp_path).bank
    expected = fit(images).bank
    with pytest.raises(StopError):
        fit(stopping((-images).split(9), 6), tmp_path)
    assert same(ConfigurationBank.load(tmp_path), expected)
    new = fit((-images).split(9), tmp_path, resume=True).bank
    assert new.states().equal((images < 0).flatten(1))
    # A bank that was loaded before goes on with the files that it has open.
    assert same(old, expected)
    assert old.nearest(expected.rows[4], 3).rows.equal(
        expected.nearest(expected.rows[4], 3).rows
    )
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"notes.txt", "manifest", "rows-000002.bin", "neurons-000002.bin"}


MEMORY = """
import sys, torch
from captum_rdr import ConfigurationBank

def resident():
    with open("/proc/self/status") as status:
        peak = [line.split() for line in status if line.startswith("VmHWM")]
    return int(peak[0][1]) / 1024

bank = ConfigurationBank.load(sys.argv[1])
open("/proc/self/clear_refs", "w").write("5")
before = resident()
query = bank.states(torch.tensor([5]))[0]
bank.nearest(query, 8), bank.nearest(torch.stack([query] * 16), 8)
bank.members(torch.arange(10), query[:10], 1)
print(resident() - before, bank.nbytes / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_queries_keep_little_of_the_bank_in_memory(tmp_path):
    x = torch.randn(2048, 4096)
    fit(x.repeat(30, 1).split(2048), tmp_path)  # 30 MiB
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    more, size = map(float, result.stdout.split())
    assert size == 30
    assert more < 20
