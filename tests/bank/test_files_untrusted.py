"""Files that are damaged or made to harm: a clear error, or the bank they were."""

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
from captum_rdr.bank import draft
from captum_rdr.bank.header import MOST_HEADER_BYTES

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
    """A file and a folder of the same bank, and a region."""
    bank = ConfigurationBank((3, 7), torch.linspace(0, 1, 21), "abc")
    bank.append(random_states(20, 21), torch.randn(20, 21))
    bank.save(memory_path / "bank")
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer)
    x = torch.randn(20, 21, generator=torch.Generator().manual_seed(0))
    rdr.fit(x, out=memory_path / "folder", keep_features=True, show_progress=False)
    rdr.attribute_members([3], 4, 4)[0].save(memory_path / "region")
    return memory_path


NASTY_SIZES = [0, 1, 7, 99, 1 << 20, 1 << 31, 1 << 40, (1 << 62) - 1, 1 << 62, 1 << 63]


def edited_header(data: bytes, generator: np.random.Generator) -> bytes:
    """The file with one value in its header exchanged for a nasty one."""
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    values = [
        *NASTY_SIZES,
        -1,
        1.5,
        None,
        True,
        "",
        "U8",
        "F64",
        "x" * 100,
        [],
        {},
        [[]],
    ]
    spot, key = header, str(generator.choice(sorted(header)))
    while isinstance(spot[key], (dict, list)) and len(spot[key]):
        spot = spot[key]
        keys = sorted(spot) if isinstance(spot, dict) else range(len(spot))
        key = keys[int(generator.integers(len(keys)))]
    spot[key] = values[int(generator.integers(len(values)))]
    if key == "fields" and generator.random() < 0.5:
        spot[key] = json.dumps({"layer_shape": [1 << 40], "fingerprint": 3})
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


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
    elif b"__metadata__" in data:
        return edited_header(data, generator)
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
    folder = saved / "folder"
    targets = {
        saved / "bank": (saved / "bank", ConfigurationBank.load, 10),
        saved / "region": (saved / "region", Region.load, 4),
        folder / "manifest": (folder, ConfigurationBank.load, 4),
        folder / "rows-000001.bin": (folder, ConfigurationBank.load, 1),
        folder / "neurons-000001.bin": (folder, ConfigurationBank.load, 1),
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
    """Change a file's header and give it the right checksum again, as a forger would."""
    import hashlib

    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    change(header)
    header["__metadata__"]["sha256"] = "0" * 64
    text = json.dumps(header).encode()
    blank = struct.pack("<Q", len(text)) + text + data[8 + size :]
    digest = hashlib.sha256(blank).hexdigest()
    path.write_bytes(blank.replace(b"0" * 64, digest.encode(), 1))


def fields_with(**changes):
    def change(header):
        fields = json.loads(header["__metadata__"]["fields"])
        fields.update(changes)
        header["__metadata__"]["fields"] = json.dumps(fields)

    return change


FORGED = [
    fields_with(layer_shape=[1 << 45]),
    fields_with(layer_shape=[1 << 40, 1 << 40]),
    fields_with(layer_shape=[21.0]),
    fields_with(layer_shape=[-3, -7]),
    fields_with(layer_shape=[]),
    fields_with(layer_shape={"a": 1}),
    fields_with(layer_shape=[1] * 1000),
    fields_with(fingerprint=3),
    fields_with(attribute_to_layer_input="no"),
    lambda header: header["__metadata__"].update(fields="[" * 100_000),
    lambda header: header["__metadata__"].update(fields="[1]"),
    lambda header: header["__metadata__"].update(fields="{"),
    lambda header: header["threshold"].update(dtype="I64"),
    lambda header: header["threshold"].update(dtype="U8"),
    lambda header: header["active_counts"].update(dtype="F64"),
    lambda header: header.update(other=header.pop("active_counts")),
]


@pytest.mark.parametrize("change", [*FORGED, fields_with(data_fingerprint=None)])
def test_a_forged_file_with_a_right_checksum_is_refused(saved, change):
    resealed(saved / "bank", lambda header: None)
    assert len(ConfigurationBank.load(saved / "bank")) == 20
    resealed(saved / "bank", change)
    with pytest.raises(ValueError, match="bank"):
        ConfigurationBank.load(saved / "bank")


@pytest.mark.parametrize(
    "change",
    [
        *FORGED,
        fields_with(generation="../../x"),
        fields_with(generation=-1),
        fields_with(generation=7),
        fields_with(n_rows=1 << 40),
        fields_with(n_rows=19),
        fields_with(block_rows=0),
        fields_with(block_rows=3),
        fields_with(column_block=1 << 50),
        fields_with(feature_dtype="I64"),
        fields_with(feature_dtype="float32"),
        fields_with(feature_dtype="F64"),
        fields_with(feature_dtype=[1]),
        fields_with(median=None),
        lambda header: header.update(rows_sums=header.pop("neurons_sums")),
        lambda header: header["rows_sums"].update(dtype="BF16", shape=[16]),
    ],
)
def test_a_forged_manifest_is_refused(saved, change):
    path = saved / "folder" / "manifest"
    resealed(path, lambda header: None)
    assert len(ConfigurationBank.load(saved / "folder")) == 20
    resealed(path, change)
    with pytest.raises(ValueError, match=r"folder"):
        ConfigurationBank.load(saved / "folder")


def test_no_memory_is_taken_before_sizes_are_checked(saved):
    data = (saved / "bank").read_bytes()
    claims = [
        struct.pack("<Q", 1 << 40) + data[8:],
        struct.pack("<Q", MOST_HEADER_BYTES + 1) + b"{" * (MOST_HEADER_BYTES + 100),
        struct.pack("<Q", 900_000) + b"[" * 900_000,
        struct.pack("<Q", 900_000) + b'{"a":' * 180_000,
        struct.pack("<Q", 900_000) + b"[1" + b"," * 899_998,
    ]
    for claim in claims:
        (saved / "claim").write_bytes(claim)
        tracemalloc.start()
        with pytest.raises(ValueError, match="no readable configuration bank file"):
            ConfigurationBank.load(saved / "claim")
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
        tracemalloc.stop()
    (saved / "hole").touch()
    os.truncate(saved / "hole", 1 << 44)  # a sparse file of 16 TiB
    with pytest.raises(ValueError, match=r"no readable"):
        ConfigurationBank.load(saved / "hole")


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
        for load in (ConfigurationBank.load, Region.load):
            with pytest.raises(ValueError, match="no readable"):
                load(path)
        for place in ("manifest", "rows-000001.bin"):
            kept = (saved / "folder" / place).read_bytes()
            (saved / "folder" / place).write_bytes(path.read_bytes())
            with pytest.raises(ValueError, match="folder"):
                ConfigurationBank.load(saved / "folder")
            (saved / "folder" / place).write_bytes(kept)
    assert not trace.exists()
    assert len(ConfigurationBank.load(saved / "folder")) == 20


@pytest.mark.skipif(os.name != "posix", reason="links and pipes")
def test_links_pipes_and_devices(saved):
    (saved / "link").symlink_to(saved / "bank")
    assert len(ConfigurationBank.load(saved / "link")) == 20
    (saved / "folder link").symlink_to(saved / "folder")
    assert len(ConfigurationBank.load(saved / "folder link")) == 20
    os.mkfifo(saved / "pipe")
    for path in (saved / "pipe", Path("/dev/zero"), Path("/dev/stdin")):
        with pytest.raises(ValueError, match="is no regular file"):
            ConfigurationBank.load(path)
    (saved / "loop").symlink_to(saved / "loop")
    with pytest.raises(ValueError, match="cannot be opened"):
        ConfigurationBank.load(saved / "loop")
    # Saving replaces the link, not the file that it points to.
    bank_of(random_states(5, 9)).save(saved / "link")
    assert not (saved / "link").is_symlink()
    assert len(ConfigurationBank.load(saved / "bank")) == 20
    # Inside a folder, a link could lead anywhere.
    for name in ("manifest", "rows-000001.bin", "neurons-000001.bin"):
        place = saved / "folder" / name
        place.rename(saved / "elsewhere")
        place.symlink_to(saved / "elsewhere")
        with pytest.raises(ValueError, match="is no regular file"):
            ConfigurationBank.load(saved / "folder")
        place.unlink()
        os.mkfifo(place)
        with pytest.raises(ValueError, match="is no regular file"):
            ConfigurationBank.load(saved / "folder")
        place.unlink()
        with pytest.raises(ValueError, match=r"is missing|holds no bank"):
            ConfigurationBank.load(saved / "folder")
        (saved / "elsewhere").rename(place)
    assert len(ConfigurationBank.load(saved / "folder")) == 20


def test_a_damaged_draft_is_not_resumed(memory_path, monkeypatch):
    monkeypatch.setattr(draft, "BLOCK_ROWS", 8)
    x = torch.randn(40, 21)
    layer = nn.Identity()

    def batches(stop):
        yield from x.split(10)[:stop]
        if stop < 4:
            raise KeyboardInterrupt

    def fit(stop=4, resume=True):
        rdr = RelaxedDecisionRegion(layer, layer)
        rdr.fit(batches(stop), out=memory_path, resume=resume, show_progress=False)
        return rdr.bank

    generator = np.random.default_rng(1)
    for name in ("draft", "rows-*.bin"):
        with pytest.raises(KeyboardInterrupt):
            fit(3, resume=False)
        path = max(memory_path.glob(name))
        data = path.read_bytes()
        finished = len(data) if name == "draft" else 3 * 8 * 8
        for _ in range(100):
            broken = bytearray(data)
            broken[int(generator.integers(finished))] ^= 1 << int(generator.integers(8))
            path.write_bytes(bytes(broken))
            with pytest.raises(ValueError, match=r"damaged|no readable|holds|reads"):
                fit()
        path.write_bytes(data[: finished - 1])
        with pytest.raises(ValueError, match=r"shorter|no readable"):
            fit()
        path.write_bytes(data)
        assert fit().states().equal(x > 0)
        assert fit(resume=False).states().equal(x > 0)
    # A damaged bank is replaced only when the new one is complete.
    (memory_path / "manifest").write_bytes(b"damaged")
    with pytest.raises(KeyboardInterrupt):
        fit(3, resume=False)
    assert (memory_path / "manifest").read_bytes() == b"damaged"
    assert fit(resume=False).states().equal(x > 0)


def test_a_file_that_shrinks_while_it_is_in_use(saved):
    bank = ConfigurationBank.load(saved / "folder")
    query = bank.states(torch.tensor([0]))
    os.truncate(saved / "folder" / "rows-000001.bin", 8)
    with pytest.raises(OSError, match="changed while it was in use"):
        bank.nearest(query, 3)


def test_nothing_stays_open(saved):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    (saved / "bad").write_bytes(b"bad")
    for _ in range(min(50, limit)):
        ConfigurationBank.load(saved / "folder").nearest(random_states(1, 21), 3)
        ConfigurationBank.load(saved / "bank")
        with pytest.raises(ValueError, match="no readable"):
            ConfigurationBank.load(saved / "bad")
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 2
