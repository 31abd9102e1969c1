"""Banks on disk: the same answers as in memory, block by block, and resuming."""

import copy
import errno
import json
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import bank_of, random_states
from killable import large_bank
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_rdr import ConfigurationBank, Region, RelaxedDecisionRegion
from captum_rdr.bank import files, queries, writers
from captum_rdr.bank.writers import FolderWriter
from captum_rdr.model import states as neurons

identity = nn.Identity()


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of eight rows, so that small banks have many."""
    monkeypatch.setattr(writers, "BLOCK_ROWS", 8)
    monkeypatch.setattr(queries, "WORK_BYTES", 100)


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
        and one.source == other.source
        and features
        and (one.features is None or one.features.equal(other.features))
    )


FOLDER = {".lock", "bank.json", "rows", "active_counts", "threshold"}
FOLDER |= {"sketches", "probe"}
"""What lies in a bank's folder, without numbers."""


class StopError(Exception):
    pass


def stopping(batches, after: int):
    """Batches that fail after some, as a run that is stopped."""
    for number, batch in enumerate(batches):
        if number == after:
            raise StopError
        yield batch


@pytest.fixture
def banks(tmp_path, small_blocks, images):
    """One bank in memory, in the folder that fit wrote and in the one that save wrote."""
    x = images.repeat(3, 1, 1, 1)  # ties, over block limits
    memory = fit(x, keep_features=True).bank
    fitted = fit(x, tmp_path / "fitted", keep_features=True).bank
    memory.save(tmp_path / "saved")
    return memory, fitted, ConfigurationBank.load(tmp_path / "saved")


def test_a_bank_on_disk_answers_as_one_in_memory(banks):
    memory, *on_disk = banks
    asked = torch.cat([memory.rows[::40], memory.rows[:2] ^ 1])
    t = torch.arange(0, 64, 7)
    for bank in on_disk:
        assert same(bank, memory)
        assert "on disk" in repr(bank)
        assert bank.nbytes == memory.nbytes
        assert bank.distances(asked).equal(memory.distances(asked))
        for k in (1, 5, 30, 270):
            for found, expected in zip(
                bank.nearest(asked, k), memory.nearest(asked, k), strict=True
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
        weights = torch.randint(-99, 99, (2, 64))
        assert bank.weighted_sums(weights).equal(memory.weighted_sums(weights))
        assert bank.states(torch.tensor([3, -1])).equal(
            memory.states(torch.tensor([3, -1]))
        )
        with pytest.raises(IndexError, match=r"270 .* size 270"):
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
    memory, fitted, saved = banks
    t = torch.arange(0, 64, 7)
    states = memory.states()[:, t]
    nearest = [memory.nearest(memory.rows[i], 9) for i in range(64)]
    members = [memory.members(t, states[i], 1) for i in range(64)]

    def ask(index):
        bank, i = (fitted, saved)[index % 2], index // 2
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
    some = folder.take(torch.tensor([3, 3, 0]))
    assert some.rows.equal(memory.rows[[3, 3, 0]])
    assert "on disk" not in repr(some)
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
    names = {path.name.split("-")[0] for path in out.iterdir()}
    features = {"features"} if keep_features else set()
    assert names == FOLDER | features


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
    # 60 rows are finished, so of these batches the third runs again, whole.
    with pytest.raises(StopError):
        fit(
            stopping(images.split(25), 3),
            tmp_path,
            model=model,
            layer=model,
            resume=True,
        )
    assert ran == [25]
    ran.clear()
    fit(images.split(25), tmp_path, model=model, layer=model, resume=True)
    assert ran == [15, 8]  # the last shows whether states depend on the batch
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

    real = FolderWriter.append
    calls = []

    def append(self, *args):
        calls.append(1)
        if len(calls) == 4:
            raise StopError
        real(self, *args)

    if exact:
        monkeypatch.setattr("captum_rdr.model.fitting._SAMPLED_ROWS", 16)
    monkeypatch.setattr(FolderWriter, "append", append)
    with pytest.raises(StopError):
        fit(batches, tmp_path, threshold="median")
    monkeypatch.setattr(FolderWriter, "append", real)
    # The median is known, so one pass is enough, over data that can be read only once.
    resumed = fit(iter(batches), tmp_path, threshold="median", resume=True)
    assert same(resumed.bank, expected)


def test_resuming_several_layers(tmp_path, monkeypatch, small_blocks, net, images):
    layers, outs = [net[2], net[6]], [tmp_path / "a", tmp_path / "b"]
    expected = fit(images.split(10), layer=layers, model=net).bank
    finish = FolderWriter.finish
    monkeypatch.setattr(writers, "BLOCK_ROWS", 16)
    with pytest.raises(StopError):
        fit(stopping(images.split(10), 4), outs, layers, net)

    def fail_at_second(self):
        if self._folder == outs[1]:
            raise StopError
        return finish(self)

    monkeypatch.setattr(FolderWriter, "finish", fail_at_second)
    with pytest.raises(StopError):
        fit(images.split(10), outs, layers, net, resume=True)
    monkeypatch.setattr(FolderWriter, "finish", finish)
    assert same(ConfigurationBank.load(outs[0]), expected[0])
    resumed = fit(images.split(10), outs, layers, net, resume=True).bank
    assert [same(*pair) for pair in zip(resumed, expected, strict=True)] == [True, True]


def test_resuming_when_only_the_end_is_missing(tmp_path, monkeypatch, images):
    monkeypatch.setattr(writers, "BLOCK_ROWS", 30)
    expected = fit(images, keep_features=True).bank
    loader = DataLoader(TensorDataset(images), batch_size=10, num_workers=2)
    publish = FolderWriter._publish
    monkeypatch.setattr(FolderWriter, "_publish", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(loader, tmp_path, keep_features=True)
    monkeypatch.setattr(FolderWriter, "_publish", publish)

    class Unused(nn.Identity):
        def forward(self, x):
            raise StopError

    Unused.__name__ = Unused.__qualname__ = "Identity"
    model = Unused()
    resumed = fit(loader, tmp_path, model, model, keep_features=True, resume=True)
    assert same(resumed.bank, expected)
    assert not (tmp_path / "draft.json").exists()


def test_saving_gives_up_an_unfinished_bank(tmp_path, small_blocks, images):
    with pytest.raises(StopError):
        fit(stopping(images.split(10), 5), tmp_path)
    bank = fit(-images).bank
    bank.save(tmp_path)
    assert same(ConfigurationBank.load(tmp_path), bank)
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == FOLDER
    with pytest.raises(ValueError, match="made with first instances"):
        fit(images, tmp_path, resume=True)
    assert same(fit(-images, tmp_path, resume=True).bank, bank)


def test_what_cannot_be_resumed_is_refused(tmp_path, small_blocks, images, net):
    def interrupt(out, data=images, **kwargs):
        with pytest.raises(StopError):
            fit(stopping(data.split(10), 5), out, net[2], net, **kwargs)

    def resume(out, data=images, layer=net[2], **kwargs):
        fit(data.split(10), out, layer, net, resume=True, **kwargs)

    out = tmp_path / "bank"
    interrupt(out)
    prints = r"made with fingerprint \w{12}, but layer '\d' now has \w{12};"
    for kwargs, message in (
        ({"layer": net[6]}, prints),
        ({"attribute_to_layer_input": True}, prints),
        ({"threshold": 0.5}, r"made with threshold \[0.0\], .* now has \[0.5\]"),
        ({"threshold": "median"}, "made with median False, .* now has True"),
        ({"keep_features": True}, "made with keep_features False, .* now has True"),
    ):
        with pytest.raises(ValueError, match=message):
            resume(out, **kwargs)
    first = r"made with first instances \w{12}, but layer '2' now has \w{12};"
    with pytest.raises(ValueError, match=first):
        resume(out, images.flip(0))
    with pytest.raises(ValueError, match=r"data has 20 instances, but .* indexed 50"):
        resume(out, images[:20])
    with torch.no_grad():
        net[0].weight += 1
    with pytest.raises(ValueError, match=prints):
        resume(out)
    # Without resume a new bank begins, whatever was there.
    fit(images, out, net[2], net)
    loader = DataLoader(TensorDataset(images[:80]), batch_size=10)
    with pytest.raises(ValueError, match=r"made with length 90, .* now has 80;"):
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
        (lambda: fit(images, tmp_path, layers, net), ValueError, "one folder twice"),
        (
            lambda: fit(images, [tmp_path, tmp_path], layers, net),
            ValueError,
            "one folder twice",
        ),
        (lambda: fit(images, [tmp_path], layers, net), ValueError, "out has 1 items"),
        (lambda: ConfigurationBank.load(tmp_path), ValueError, "holds no bank; give"),
        (
            lambda: ConfigurationBank.load(tmp_path / "file"),
            ValueError,
            "holds no bank; give",
        ),
        (
            lambda: bank_of(random_states(2, 3)).save(tmp_path / "file"),
            ValueError,
            "is a file; give a folder",
        ),
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
    bank = fit(images, tmp_path).bank

    class Saving:
        def __iter__(self):
            bank.save(tmp_path)
            yield images

    with pytest.raises(RuntimeError, match="is being written to already"):
        fit(Saving(), tmp_path)
    with files.only_writer(tmp_path):
        assert same(ConfigurationBank.load(tmp_path), bank)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(tmp_path, images, monkeypatch, number):
    fcntl = pytest.importorskip("fcntl")

    def flock(*_):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="of .*fitted. has no locks"):
        bank = fit(images, tmp_path / "fitted").bank
    with pytest.warns(UserWarning, match="nothing else writes to that folder"):
        bank.save(tmp_path / "saved")
    assert same(ConfigurationBank.load(tmp_path / "saved"), bank)


@pytest.mark.parametrize("threshold", [0.0, "median", torch.linspace(-1, 1, 64)])
@pytest.mark.parametrize("keep_features", [False, True])
def test_fit_and_save_write_the_same_folder(
    tmp_path, small_blocks, images, threshold, keep_features
):
    kwargs = {"threshold": threshold, "keep_features": keep_features}
    fit(images.split(7), tmp_path / "fitted", **kwargs)
    fit(images, **kwargs).bank.save(tmp_path / "saved")
    ConfigurationBank.load(tmp_path / "fitted").save(tmp_path / "copied")
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
        for folder in ("fitted", "saved", "copied")
    ]
    assert contents[0] == contents[1] == contents[2]


def test_numpy_opens_a_bank(tmp_path, images):
    bank = fit(images, tmp_path, keep_features=True).bank
    manifest = json.loads((tmp_path / "bank.json").read_text())
    arrays = {
        name: np.load(tmp_path / entry["file"], mmap_mode="r", allow_pickle=False)
        for name, entry in manifest["arrays"].items()
    }
    unpacked = np.unpackbits(arrays["rows"], 1, count=64, bitorder="little")
    assert (unpacked == bank.states().numpy()).all()
    assert (arrays["features"] == bank.features.numpy()).all()
    assert (arrays["active_counts"] == bank.active_counts.numpy()).all()
    assert (arrays["threshold"] == bank.threshold.numpy()).all()
    assert manifest["layer"] == "Identity"


def test_banks_without_rows_and_of_halves(tmp_path):
    bank = ConfigurationBank((3, 2), torch.zeros(3, 2, dtype=torch.bfloat16))
    bank.save(tmp_path / "empty")
    for mmap in (False, True):
        loaded = ConfigurationBank.load(tmp_path / "empty", mmap=mmap)
        assert len(loaded) == 0
        loaded.append(random_states(3, 6))
        assert len(loaded) == 3
    for dtype, kept in (
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float16),
        (torch.float64, torch.float64),
    ):
        features = torch.randn(4, 6).to(dtype)
        bank_of(features > 0, features).save(tmp_path / "bank")
        loaded = ConfigurationBank.load(tmp_path / "bank")
        assert loaded.features.dtype == kept
        assert loaded.features.equal(features.to(kept))


def test_stray_files_change_nothing(tmp_path, images):
    bank = fit(images, tmp_path).bank
    strays = ["rows.npy", "rows-1.npy", "rows-" + "9" * 40 + ".npy", "bank.json.bak"]
    strays += ["neurons-000001.npy", ".rows-000001.npy.swp", "draft", ".DS_Store"]
    for name in strays:
        (tmp_path / name).write_bytes(b"of the user's")
    for name in ("rows-000009.npy", "folder"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    assert same(ConfigurationBank.load(tmp_path), bank)
    for _ in range(2):
        bank.save(tmp_path)
        assert same(ConfigurationBank.load(tmp_path), bank)
    for name in strays:
        assert (tmp_path / name).read_bytes() == b"of the user's"
    assert (tmp_path / "rows-000009.npy" / "file").exists()
    assert len(list(tmp_path.iterdir())) == len(strays) + 2 + len(FOLDER)


def test_long_names(tmp_path, images):
    rdr = fit(images)
    name = "n" * 255
    rdr.bank.save(tmp_path / name)
    assert same(ConfigurationBank.load(tmp_path / name), rdr.bank)
    (region,) = rdr.attribute_members([0], 4, 3)
    region.save(tmp_path / name / name)
    assert repr(Region.load(tmp_path / name / name)) == repr(region)


def test_checksums_can_be_left_out(tmp_path, images):
    bank = fit(images, tmp_path).bank
    path = tmp_path / "rows-000001.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"\x7f")
    with pytest.raises(ValueError, match=r"rows-000001.npy' is damaged"):
        ConfigurationBank.load(tmp_path)
    loaded = ConfigurationBank.load(tmp_path, verify=False)
    assert loaded.rows[:-1].equal(bank.rows[:-1])
    for other, message in ((data[:-1], "has 847 bytes"), (data + b"0", "has 849")):
        path.write_bytes(other)
        with pytest.raises(ValueError, match=message):
            ConfigurationBank.load(tmp_path, verify=False)


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
    numbered = {f"{name}-000002.npy" for name in FOLDER - {".lock", "bank.json"}}
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"notes.txt", ".lock", "bank.json"} | numbered


MEMORY = """
import sys, threading, torch
from captum_rdr import ConfigurationBank

def anonymous():
    with open("/proc/self/status") as status:
        lines = [line.split() for line in status if line.startswith("RssAnon")]
    return int(lines[0][1]) / 1024

bank = ConfigurationBank.load(sys.argv[1])
query = bank.states(torch.tensor([5]))[0]
before, peak, done = anonymous(), 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, anonymous())

thread = threading.Thread(target=watch)
thread.start()
bank.nearest(query, 8), bank.nearest(torch.stack([query] * 64), 8)
bank.members(torch.arange(10), query[:10], 1)
bank.weighted_sums(torch.randint(-99, 99, (1, bank.n_neurons)))
done.set()
thread.join()
print(peak - before, bank.nbytes / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_queries_keep_little_of_the_bank_in_memory(tmp_path):
    rows = torch.randint(0, 256, (3000, 1600), dtype=torch.uint8).repeat(100, 1)
    counts = torch.full((12_800,), 150_000)
    bank = ConfigurationBank((12_800,))
    arrays = {"rows": rows, "active_counts": counts, "threshold": bank.threshold}
    files.write_bank(tmp_path, bank.fields, arrays)
    result = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    more, size = map(float, result.stdout.split())
    assert size > 450
    assert more < 300


WRITER = """
import sys
from killable import large_bank

banks = [large_bank(sign, repeats) for sign, repeats in ((1, 3), (-1, 5))]
print("ready", flush=True)
while True:
    for bank in banks:
        bank.save(sys.argv[1])
"""


def test_a_reader_during_a_writer_always_gets_a_whole_bank(tmp_path):
    expected = {
        len(bank): bank
        for bank in (large_bank(1, repeats=3), large_bank(-1, repeats=5))
    }
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, tmp_path],
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        try:
            assert writer.stdout.readline() == "ready\n"
            while not (tmp_path / "bank.json").exists():
                time.sleep(0.001)
            changes, read = 0, []
            while changes < 20 and len(read) < 20_000:
                bank = ConfigurationBank.load(tmp_path, mmap=bool(len(read) % 2))
                assert same(bank, expected[len(bank)])
                read.append(len(bank))
                changes += len(read) > 1 and read[-1] != read[-2]
        finally:
            writer.kill()
    assert changes == 20
