"""Files that are damaged or made to harm: a clear error, or the bank they were."""

import hashlib
import json
import os
import pickle
import resource
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import bank_of, random_states
from torch import nn

from captum_rdr import ConfigurationBank, Region, RelaxedDecisionRegion
from captum_rdr.bank import files, writers

N_MUTATED = 20_000
"""Mutated files that the tests try."""


class Bomb:
    """Leaves a trace where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def memory_path(tmp_path):
    """Where many small files are written fast."""
    if not os.path.isdir("/dev/shm"):
        yield tmp_path
        return
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.fixture
def saved(memory_path):
    """The folder of a bank, and a region."""
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, threshold=torch.linspace(-1, 1, 21))
    x = torch.randn(20, 21, generator=torch.Generator().manual_seed(0))
    rdr.fit(x, out=memory_path / "bank", keep_features=True, show_progress=False)
    rdr.attribute_members([3], 4, 4)[0].save(memory_path / "region")
    return memory_path


NASTY_SIZES = [0, 1, 7, 99, 1 << 20, 1 << 31, 1 << 40, (1 << 62) - 1, 1 << 62, 1 << 63]


def edited(holder: dict, generator: np.random.Generator) -> None:
    """Exchange one of the values in JSON for a nasty one."""
    values = [
        *NASTY_SIZES,
        -1,
        1.5,
        None,
        True,
        "",
        "U8",
        "|O",
        "<f8",
        "x" * 100,
        "../rows-000001.npy",
        [],
        {},
        [[]],
    ]
    spot, key = holder, str(generator.choice(sorted(holder)))
    while isinstance(spot[key], (dict, list)) and len(spot[key]):
        spot = spot[key]
        keys = sorted(spot) if isinstance(spot, dict) else range(len(spot))
        key = keys[int(generator.integers(len(keys)))]
    spot[key] = values[int(generator.integers(len(values)))]


def edited_file(data: bytes, generator: np.random.Generator) -> bytes:
    """A manifest, or a file of tensors, with one value exchanged for a nasty one."""
    if data.startswith(b"{"):
        fields = json.loads(data)
        edited(fields, generator)
        return json.dumps(fields).encode()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    edited(header, generator)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def edited_array(data: bytes, generator: np.random.Generator) -> bytes:
    """A NumPy file whose header says something else."""
    words = [b"(20, 8)", b"(20,)", b"()", b"(-20, -8)", b"(99999999999999, 8)", b"(((("]
    words += [b"|u1", b"|O", b"<f8", b">i8", b"True", b"{", b"'", b"__import__('os')"]
    spots = [b"(20, 8)", b"(20, 21)", b"(21,)", b"|u1", b"<i8", b"<f4", b"False", b"'}"]
    there = [spot for spot in spots if spot in data[:128]]
    spot = there[int(generator.integers(len(there)))]
    return data.replace(spot, words[int(generator.integers(len(words)))], 1)


def mutated(data: bytes, generator: np.random.Generator) -> bytes:
    """One of many ways to damage a file."""
    broken = bytearray(data)
    kind = int(generator.integers(8))
    at = int(generator.integers(max(1, len(data))))
    if kind == 0 and data:
        broken[at] ^= 1 << int(generator.integers(8))
    elif kind == 1:
        return data[:at]
    elif kind == 2:
        return data + generator.bytes(1 + at % 50)
    elif kind == 3:
        stop = at + int(generator.integers(1, 64))
        broken[at:stop] = generator.bytes(len(broken[at:stop]))
    elif kind == 4:
        del broken[at : at + int(generator.integers(1, 64))]
    elif kind == 5:
        broken[:8] = struct.pack("<Q", NASTY_SIZES[int(generator.integers(10))])
    elif kind == 6:
        broken[at:at] = broken[:at][-32:] or b"\0"
    elif data.startswith(b"\x93NUMPY"):
        return edited_array(data, generator)
    else:
        return edited_file(data, generator)
    return bytes(broken)


def same(one: ConfigurationBank, other: ConfigurationBank) -> bool:
    return (
        one.rows.equal(other.rows)
        and one.active_counts.equal(other.active_counts)
        and one.features.equal(other.features)
        and one.threshold.equal(other.threshold)
        and one.layer_shape == other.layer_shape
    )


def test_twenty_thousand_mutated_files(saved):
    """Every one is refused with a ValueError, or gives the bank that was saved."""
    generator = np.random.default_rng(0)
    folder = saved / "bank"
    targets = {
        saved / "region": (saved / "region", Region.load, 6),
        folder / "bank.json": (folder, ConfigurationBank.load, 6),
        folder / "rows-000001.npy": (folder, ConfigurationBank.load, 2),
        folder / "features-000001.npy": (folder, ConfigurationBank.load, 2),
        folder / "active_counts-000001.npy": (folder, ConfigurationBank.load, 2),
        folder / "threshold-000001.npy": (folder, ConfigurationBank.load, 2),
    }
    shares = sum(share for *_, share in targets.values())
    refused = named = 0
    for path, (whole, load, share) in targets.items():
        data, expected = path.read_bytes(), load(whole)
        for _ in range(N_MUTATED * share // shares):
            broken = mutated(data, generator)
            path.write_bytes(broken)
            try:
                found = load(whole)
            except ValueError as error:
                named += str(saved) in str(error)
                refused += 1
            else:
                assert broken == data or repr(found) == repr(expected)
                if isinstance(found, ConfigurationBank):
                    assert same(found, expected)
        path.write_bytes(data)
    assert named == refused > 0.95 * N_MUTATED


def resealed(path: Path, change) -> None:
    """Change a manifest and give it the right checksum again, as a forger would."""
    fields = json.loads(path.read_text())
    del fields["sha256"]
    change(fields)
    text = json.dumps(fields, sort_keys=True)
    fields["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(fields))


def fields_with(**changes):
    return lambda fields: fields.update(changes)


def entry_with(name, **changes):
    return lambda fields: fields["arrays"][name].update(changes)


@pytest.mark.parametrize(
    "change",
    [
        fields_with(layer_shape=[1 << 45]),
        fields_with(layer_shape=[1 << 40, 1 << 40]),
        fields_with(layer_shape=[1 << 80]),
        fields_with(layer_shape=[21.0]),
        fields_with(layer_shape=[-3, -7]),
        fields_with(layer_shape=[]),
        fields_with(layer_shape={"a": 1}),
        fields_with(layer_shape=[1] * 1000),
        fields_with(layer_shape="21"),
        fields_with(layer=3),
        fields_with(fingerprint=3),
        fields_with(first_rows=None),
        fields_with(attribute_to_layer_input="no"),
        fields_with(is_median=0),
        fields_with(generation="../../x"),
        fields_with(generation=-1),
        fields_with(generation=7),
        fields_with(generation=None),
        fields_with(version=2),
        fields_with(version="1"),
        fields_with(kind="region"),
        fields_with(arrays=[1]),
        fields_with(arrays={}),
        entry_with("rows", file="../bank/rows-000001.npy"),
        entry_with("rows", file="features-000001.npy"),
        entry_with("rows", file=None),
        entry_with("rows", shape=[1 << 40, 8]),
        entry_with("rows", shape=[19, 8]),
        entry_with("rows", shape=[160]),
        entry_with("rows", shape=None),
        entry_with("rows", dtype="|O"),
        entry_with("rows", dtype="|i1"),
        entry_with("threshold", dtype="<i4"),
        entry_with("active_counts", dtype="<f8"),
        entry_with("features", dtype=[1]),
        entry_with("features", sha256=None),
        lambda fields: fields.pop("layer"),
        lambda fields: fields["arrays"].pop("active_counts"),
        lambda fields: fields["arrays"].pop("threshold"),
        lambda fields: fields["arrays"].update(other=fields["arrays"]["rows"]),
        lambda fields: fields["arrays"].update(rows=fields["arrays"]["features"]),
    ],
)
def test_a_forged_manifest_is_refused(saved, change):
    path = saved / "bank" / "bank.json"
    resealed(path, lambda fields: None)
    assert len(ConfigurationBank.load(saved / "bank")) == 20
    resealed(path, change)
    with pytest.raises(ValueError, match=r"bank"):
        ConfigurationBank.load(saved / "bank")


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("rows", torch.zeros(20, 16, dtype=torch.uint8)),
        ("rows", torch.zeros(20, dtype=torch.uint8)),
        ("rows", torch.zeros(20, 8, dtype=torch.int8)),
        ("rows", torch.tensor(3, dtype=torch.uint8)),
        ("active_counts", torch.zeros(20, dtype=torch.int64)),
        ("active_counts", torch.zeros(21)),
        ("threshold", torch.zeros(20)),
        ("threshold", torch.zeros(21, dtype=torch.int64)),
        ("threshold", torch.full((21,), torch.nan)),
        ("features", torch.zeros(19, 21)),
        ("features", torch.zeros(20, 21, dtype=torch.int32)),
    ],
)
def test_forged_arrays_with_right_checksums_are_refused(saved, name, array):
    path = saved / "bank" / "bank.json"

    def change(fields):
        files.write_array(path.parent, fields, name, array)

    resealed(path, change)
    with pytest.raises(ValueError, match="holds no bank"):
        ConfigurationBank.load(path.parent)


def test_no_memory_is_taken_before_sizes_are_checked(saved):
    folder = saved / "bank"
    manifests = [
        b"[" * 2_000_000,
        b'{"a":' * 900_000,
        b"[1" + b"," * 9_000_000,
        b"9" * 9999,
    ]
    region = (saved / "region").read_bytes()
    claims = [
        struct.pack("<Q", 1 << 40) + region[8:],
        struct.pack("<Q", 900_000) + b"[" * 900_000,
        struct.pack("<Q", 900_000) + b'{"a":' * 180_000,
        struct.pack("<Q", 900_000) + b"[1" + b"," * 899_998,
    ]
    rows = (folder / "rows-000001.npy").read_bytes()
    arrays = [
        rows.replace(b"(20, 8), }      ", b"(99999999999, 8)}"),
        rows[:8] + struct.pack("<H", 60_000) + b"(" * 60_000,
        rows[:8] + struct.pack("<H", 60_000) + b"-" * 60_000,
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31) + rows[10:],
    ]
    cases = [
        (folder / "bank.json", manifests, ConfigurationBank.load, folder),
        (folder / "rows-000001.npy", arrays, ConfigurationBank.load, folder),
        (saved / "region", claims, Region.load, saved / "region"),
    ]
    for path, contents, load, whole in cases:
        before = path.read_bytes()
        for content in contents:
            path.write_bytes(content)
            assert content != before
            tracemalloc.start()
            with pytest.raises(ValueError, match=r"no readable|longer|not as the"):
                load(whole)
            assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
            tracemalloc.stop()
        path.write_bytes(before)
        os.truncate(path, 1 << 44)  # a sparse file of 16 TiB
        with pytest.raises(
            ValueError, match=r"is longer than|it has 17592186044416 bytes"
        ):
            load(whole)
        path.write_bytes(before)
        load(whole)


def test_pickles_are_not_opened(saved, tmp_path):
    trace = tmp_path / "executed"
    for name, write in {
        "pickle": lambda path: path.write_bytes(pickle.dumps(Bomb(trace))),
        "torch": lambda path: torch.save({"rows": Bomb(trace)}, path),
        "zip.npy": lambda path: np.save(
            path, np.array([Bomb(trace)], object), allow_pickle=True
        ),
    }.items():
        path = saved / name
        write(path)
        with pytest.raises(ValueError, match="no readable"):
            Region.load(path)
        for place in ("bank.json", "rows-000001.npy", "threshold-000001.npy"):
            kept = (saved / "bank" / place).read_bytes()
            (saved / "bank" / place).write_bytes(path.read_bytes())
            with pytest.raises(ValueError, match=r"no readable|not as the manifest"):
                ConfigurationBank.load(saved / "bank")
            (saved / "bank" / place).write_bytes(kept)
    assert not trace.exists()
    assert len(ConfigurationBank.load(saved / "bank")) == 20


@pytest.mark.skipif(os.name != "posix", reason="links and pipes")
def test_links_pipes_and_devices(saved):
    bank = saved / "bank"
    (saved / "link").symlink_to(bank)
    assert len(ConfigurationBank.load(saved / "link")) == 20
    (saved / "region link").symlink_to(saved / "region")
    region = Region.load(saved / "region link")
    os.mkfifo(saved / "pipe")
    for path in (saved / "pipe", Path("/dev/zero"), Path("/dev/stdin")):
        with pytest.raises(ValueError, match="holds no bank; give the folder"):
            ConfigurationBank.load(path)
        with pytest.raises(ValueError, match="is no regular file"):
            Region.load(path)
    (saved / "loop").symlink_to(saved / "loop")
    for load in (ConfigurationBank.load, Region.load):
        with pytest.raises(OSError, match="loop"):
            load(saved / "loop")
    # Saving a region replaces the link, not the file that it points to.
    region.save(saved / "region link")
    assert not (saved / "region link").is_symlink()
    # A bank goes to the folder that the link points to.
    bank_of(random_states(5, 9)).save(saved / "link")
    assert (saved / "link").is_symlink()
    assert len(ConfigurationBank.load(bank)) == 5
    # Inside a folder, a link could lead anywhere.
    for name in ("bank.json", "rows-000002.npy", "threshold-000002.npy"):
        place = bank / name
        place.rename(saved / "elsewhere")
        place.symlink_to(saved / "elsewhere")
        with pytest.raises(ValueError, match="is no regular file"):
            ConfigurationBank.load(bank)
        place.unlink()
        os.mkfifo(place)
        with pytest.raises(ValueError, match="is no regular file"):
            ConfigurationBank.load(bank)
        place.unlink()
        with pytest.raises(ValueError, match=r"is missing|holds no bank"):
            ConfigurationBank.load(bank)
        (saved / "elsewhere").rename(place)
    assert len(ConfigurationBank.load(bank)) == 5


def test_a_damaged_draft_is_not_resumed(memory_path, monkeypatch):
    monkeypatch.setattr(writers, "BLOCK_ROWS", 8)
    x = torch.randn(40, 21)
    layer = nn.Identity()

    def batches(stop):
        yield from x.split(10)[:stop]
        if stop < 4:
            raise KeyboardInterrupt

    def fit(stop=4, resume=True):
        rdr = RelaxedDecisionRegion(layer, layer, threshold=torch.zeros(21))
        rdr.fit(batches(stop), out=memory_path, resume=resume, show_progress=False)
        return rdr.bank

    generator = np.random.default_rng(1)
    for name in ("draft.json", "rows-*.npy", "threshold-*.npy"):
        with pytest.raises(KeyboardInterrupt):
            fit(3, resume=False)
        path = max(memory_path.glob(name))
        data = path.read_bytes()
        # NumPy's header may say the same in other words.
        first = 128 if path.suffix == ".npy" else 0
        for _ in range(100):
            broken = bytearray(data)
            at = int(generator.integers(first, len(data)))
            broken[at] ^= 1 << int(generator.integers(8))
            path.write_bytes(bytes(broken))
            with pytest.raises(ValueError, match=r"damaged|no readable|holds|reads"):
                fit()
        path.write_bytes(data[:-1])
        with pytest.raises(ValueError, match=r"damaged|no readable|not as"):
            fit()
        path.write_bytes(data)
        assert fit().states().equal(x > 0)
        assert fit(resume=False).states().equal(x > 0)
    # A damaged bank is replaced only when the new one is complete.
    (memory_path / "bank.json").write_bytes(b"damaged")
    with pytest.raises(KeyboardInterrupt):
        fit(3, resume=False)
    assert (memory_path / "bank.json").read_bytes() == b"damaged"
    assert fit(resume=False).states().equal(x > 0)


def test_nothing_stays_open(saved):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    (saved / "bad").mkdir()
    (saved / "bad" / "bank.json").write_bytes(b"bad")
    for _ in range(min(50, limit)):
        bank = ConfigurationBank.load(saved / "bank")
        bank.nearest(random_states(1, 21), 3)
        bank.save(saved / "bank")
        Region.load(saved / "region")
        with pytest.raises(ValueError, match="no readable"):
            ConfigurationBank.load(saved / "bad")
    del bank
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 2
