"""The bank: appending, queries, merging and files."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import bank_of, random_states
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_rdr import ConfigurationBank
from captum_rdr.bank import files


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(1, 90), st.integers(1, 130), st.data())
def test_queries(seed, n, d, data):
    states, queries = random_states(n, d, seed), random_states(4, d, seed + 1)
    bank = bank_of(states)
    away = (queries[:, None] != states[None]).sum(2)
    assert bank.distances(queries).equal(away)
    assert bank.distances(queries[0]).equal(away[0])
    assert bank.active_counts.equal(states.sum(0))
    assert bank.states().equal(states)
    k = data.draw(st.integers(1, n))
    rows, distances = bank.nearest(queries, k)
    for row, found, expected in zip(rows, distances, away, strict=True):
        order = sorted(range(n), key=lambda i: (int(expected[i]), i))[:k]
        assert row.tolist() == order
        assert found.equal(expected[row])
    neurons = torch.arange(0, d, 2)
    differing = (states[:, neurons] != queries[0, neurons]).sum(1)
    assert bank.disagreements(neurons, queries[0, neurons]).equal(differing)
    for tolerance in (0, 3):
        members = bank.members(neurons, queries[0, neurons], tolerance)
        assert members.equal((differing <= tolerance).nonzero().flatten())
    weights = torch.randint(-99, 99, (3, d))
    assert bank.weighted_sums(weights).equal(weights @ states.long().T)


@given(st.lists(st.integers(0, 400), min_size=1, max_size=8))
def test_appending_in_any_pieces_gives_the_same_bank(sizes):
    states = random_states(sum(sizes) + 1, 20)
    bank = ConfigurationBank((4, 5), reserve=sizes[0])
    start = 0
    for size in (*sizes, 1):
        piece = states[start : start + size]
        bank.append(piece.reshape(-1, 4, 5) if size % 2 else piece)
        start += size
    assert len(bank) == len(states)
    assert bank.states().equal(states)
    assert bank.active_counts.equal(states.sum(0))


def test_appending_does_not_copy_quadratically():
    bank = ConfigurationBank((64,))
    capacities = set()
    for _ in range(3000):
        bank.append(torch.ones(1, 64, dtype=torch.bool))
        capacities.add(bank._held["rows"].capacity)
    assert len(capacities) < 12


def test_size_is_one_bit_a_neuron():
    bank = ConfigurationBank((12_800,), reserve=100)
    bank.append(random_states(100, 12_800))
    assert bank.nbytes == 100 * 12_800 / 8
    assert bank.rows.shape == (100, 1600)
    assert repr(bank) == (
        "ConfigurationBank(100 instances x 12800 neurons of shape (12800,), 160000 bytes)"
    )


def test_single_instances_of_a_layer_with_several_dimensions():
    states = random_states(6, 6)
    bank = ConfigurationBank((2, 3))
    bank.append(states)
    assert bank.distances(states[0].reshape(2, 3)).shape == (6,)
    assert bank.distances(states[:2].reshape(2, 2, 3)).shape == (2, 6)
    assert bank.distances(bank.rows[0]).equal(bank.distances(states[0]))


def test_bad_arguments():
    bank = bank_of(random_states(12, 20))
    cases = [
        (
            lambda: bank.nearest(bank.rows[0], 13),
            ValueError,
            "k=13 is more than the bank's 12 instances",
        ),
        (lambda: bank.nearest(bank.rows[0], 0), ValueError, "k=0"),
        (
            lambda: bank.append(torch.ones(2, 20)),
            TypeError,
            "states has dtype torch.float32",
        ),
        (
            lambda: bank.append(torch.ones(2, 19, dtype=torch.bool)),
            ValueError,
            r"states has shape \(2, 19\).*needs bool \(M, 20\) or packed uint8 \(M, 3\)",
        ),
        (
            lambda: bank.append(torch.zeros(2, 20, dtype=torch.uint8)),
            ValueError,
            r"\(2, 20\)",
        ),
        (
            lambda: bank.append(torch.full((1, 3), 255, dtype=torch.uint8)),
            ValueError,
            "bits set behind neuron 19",
        ),
        (
            lambda: bank.append(random_states(2, 20), torch.ones(2, 20)),
            ValueError,
            "12 instances have no features, the appended 2 do",
        ),
        (
            lambda: ConfigurationBank((4,)).append(
                random_states(2, 4), torch.ones(2, 3)
            ),
            ValueError,
            r"features has shape \(2, 3\), but the states need \(2, 4\)",
        ),
        (
            lambda: bank.members(torch.tensor([20]), torch.tensor([True])),
            ValueError,
            "neurons go from 20 to 20, but .* from 0 to 19",
        ),
        (
            lambda: bank.members(torch.tensor([1, 2]), torch.tensor([True])),
            ValueError,
            "2 neurons but 1 states",
        ),
        (
            lambda: bank.members(torch.tensor([1]), torch.tensor([True]), -1),
            ValueError,
            "tolerance=-1 is too small; use 0 or more",
        ),
        (lambda: bank.features_of(torch.tensor([0])), ValueError, "keep_features=True"),
        (
            lambda: ConfigurationBank((0, 3)),
            ValueError,
            r"layer_shape=\(0, 3\) holds no neuron",
        ),
        (
            lambda: ConfigurationBank((3,), torch.zeros(2)),
            ValueError,
            r"threshold has shape \(2,\)",
        ),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
    assert len(bank) == 12
    assert bank.active_counts.equal(bank.states().sum(0))


def test_taking_rows():
    states, features = random_states(30, 9), torch.randn(30, 9)
    bank, rows = bank_of(states, features), torch.tensor([4, 29, 4])
    taken = bank.take(rows)
    assert taken.states().equal(states[rows])
    assert taken.features.equal(features[rows])
    assert taken.active_counts.equal(states[rows].sum(0))
    taken.append(states, features)
    assert (len(taken), len(bank)) == (33, 30)


def test_eight_threads_ask_one_bank():
    bank = bank_of(random_states(500, 300))
    expected = [bank.nearest(bank.rows[i], 9) for i in range(64)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: bank.nearest(bank.rows[i], 9), range(64)))
    for one, other in zip(expected, found, strict=True):
        assert one.rows.equal(other.rows)


@pytest.fixture
def saved(tmp_path):
    states = random_states(40, 70)
    bank = ConfigurationBank((7, 10), torch.linspace(0, 1, 70), "abc")
    bank.append(states, torch.randn(40, 70))
    path = tmp_path / "bank"
    bank.save(path)
    return bank, path


@pytest.mark.parametrize("mmap", [True, False])
def test_a_file_gives_the_same_bank(saved, mmap):
    bank, path = saved
    loaded = ConfigurationBank.load(path, mmap=mmap)
    assert loaded.rows.equal(bank.rows)
    assert loaded.active_counts.equal(bank.active_counts)
    assert loaded.threshold.equal(bank.threshold)
    assert loaded.features.equal(bank.features)
    assert (loaded.layer_shape, loaded.fingerprint) == ((7, 10), "abc")
    more = random_states(3, 70, 9)
    loaded.append(more, torch.ones(3, 70))
    assert loaded.states()[40:].equal(more)
    assert loaded.active_counts.equal(bank.active_counts + more.sum(0))
    again = ConfigurationBank.load(path, mmap=mmap)
    assert again.rows.equal(bank.rows)
    assert again.active_counts.equal(bank.active_counts)


def test_a_number_as_threshold_survives(tmp_path):
    bank = ConfigurationBank((4,), 0.1)
    bank.append(random_states(3, 4))
    bank.save(tmp_path / "bank")
    assert ConfigurationBank.load(tmp_path / "bank").threshold.item() == 0.1


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_saving_over_a_bank_that_is_mapped(saved):
    bank, path = saved
    loaded = ConfigurationBank.load(path)
    before = contents(path)
    loaded.save(path)
    assert ConfigurationBank.load(path).rows.equal(bank.rows)
    assert loaded.rows.equal(bank.rows)
    after = contents(path)
    renamed = {name.replace("000001", "000002") for name in before}
    assert after.keys() == renamed
    assert after["rows-000002.npy"] == before["rows-000001.npy"]
    assert [p.name for p in path.parent.iterdir()] == ["bank"]


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_failed_save_leaves_the_old_bank_alone(saved, monkeypatch, call):
    bank, path = saved
    before = contents(path)

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, call, fail)
        with pytest.raises(OSError, match="disk full"):
            bank.save(path)
    assert contents(path) == before
    assert ConfigurationBank.load(path).rows.equal(bank.rows)
    bank.save(path)
    assert len(contents(path)) == len(before)


def test_every_flipped_bit_and_truncation_is_noticed(saved):
    _, path = saved
    generator = np.random.default_rng(0)
    for name, data in contents(path).items():
        # NumPy's header may say the same in other words.
        first = 128 if name.endswith(".npy") else 0
        for position in generator.integers(
            first, max(1, len(data)), 100 if data else 0
        ):
            broken = bytearray(data)
            broken[position] ^= 1 << int(generator.integers(8))
            (path / name).write_bytes(bytes(broken))
            with pytest.raises(ValueError, match="bank"):
                ConfigurationBank.load(path)
        for other in (data[:0], data[:1], data[:100], data[:-1], data + b"x"):
            if other != data and name != ".lock":
                (path / name).write_bytes(other)
                with pytest.raises(
                    ValueError, match=r"no readable|not as the manifest"
                ):
                    ConfigurationBank.load(path)
        (path / name).write_bytes(data)
    assert len(ConfigurationBank.load(path)) == 40


def test_other_files_are_refused(saved, tmp_path):
    _, path = saved
    other = tmp_path / "other"
    torch.save({"a": 1}, other)
    with pytest.raises(ValueError, match="holds no bank; give the folder that save"):
        ConfigurationBank.load(other)
    with pytest.raises(FileNotFoundError, match="none' holds no bank"):
        ConfigurationBank.load(tmp_path / "none")
    manifest = path / "bank.json"
    fields = json.loads(manifest.read_text())
    for change, message in (
        ({"version": 9}, "version 9, not a configuration bank of version 1"),
        ({"kind": "region"}, "holds a region of format version 1, not a config"),
        ({"layer_shape": [71]}, "is damaged: its checksum is not what it states"),
    ):
        manifest.write_text(json.dumps(fields | change))
        with pytest.raises(ValueError, match=message):
            ConfigurationBank.load(path)
    manifest.unlink()
    with pytest.raises(ValueError, match="holds no bank; give the folder that save"):
        ConfigurationBank.load(path)


def test_room_that_is_not_used_is_not_pickled():
    roomy = ConfigurationBank((8,), reserve=100_000)
    roomy.append(random_states(5, 8))
    again = pickle.loads(pickle.dumps(roomy))
    assert again.rows.equal(roomy.rows)
    assert len(pickle.dumps(roomy)) < 5000


def test_packed_queries_are_not_taken_for_one_instance():
    states = random_states(5, 3)
    bank = ConfigurationBank((3, 1))
    bank.append(states)
    assert bank.distances(bank.rows[:3]).shape == (3, 5)
    assert bank.distances(states[0].reshape(3, 1)).shape == (5,)
    row = ConfigurationBank((1, 3))
    row.append(states)
    assert row.distances(states[:1]).shape == (1, 5)
