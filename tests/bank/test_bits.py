"""Packed arithmetic against unpacked arithmetic."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from captum_rdr.bank import bits


def states_of(seed: int, n: int, d: int) -> np.ndarray:
    return np.random.default_rng(seed).random((n, d)) < 0.4


sizes = st.tuples(st.integers(0, 999), st.integers(1, 9), st.integers(1, 300))


@given(sizes)
def test_pack_and_unpack(size):
    states = states_of(*size)
    packed = bits.pack(torch.from_numpy(states))
    assert packed.numpy().tolist() == [
        [
            sum(int(bit) << i for i, bit in enumerate(row[at : at + 8]))
            for at in range(0, size[2], 8)
        ]
        for row in states
    ]
    assert np.array_equal(bits.unpack(packed.numpy(), size[2]), states)


@given(sizes)
def test_arithmetic_packing_is_the_same(size):
    states = torch.from_numpy(states_of(*size))
    assert bits.pack(states).equal(bits._pack_by_arithmetic(states))


@given(sizes, st.integers(0, 4))
def test_hamming(size, n_queries):
    rows, queries = states_of(*size), states_of(size[0] + 1, n_queries, size[2])
    packed = [bits.pack(torch.from_numpy(a)).numpy() for a in (queries, rows)]
    expected = (queries[:, None] != rows[None]).sum(2)
    assert np.array_equal(bits.hamming(*packed), expected)


def test_hamming_of_a_wide_layer_over_many_blocks():
    rows = states_of(0, 700, 100_352)
    packed = bits.pack(torch.from_numpy(rows)).numpy()
    expected = (rows[:3, None] != rows[None]).sum(2)
    assert np.array_equal(bits.hamming(packed[:3], packed), expected)
    opposite = ~packed[:1]
    assert bits.hamming(packed[:1], opposite).tolist() == [[100_352]]


@given(sizes, st.data())
def test_columns_and_disagreements(size, data):
    rows = states_of(*size)
    packed = bits.pack(torch.from_numpy(rows)).numpy()
    neurons = np.array(
        data.draw(st.lists(st.integers(0, size[2] - 1), unique=True, max_size=60)),
        np.int64,
    )
    wanted = states_of(size[0] + 2, 1, size[2])[0][: len(neurons)]
    assert np.array_equal(bits.columns(packed, neurons), rows[:, neurons])
    differing = (rows[:, neurons] != wanted).sum(1)
    assert np.array_equal(bits.disagreements(packed, neurons, wanted), differing)
    for tolerance in (0, 1, 5):
        found = bits.agreeing(packed, neurons, wanted, tolerance)
        assert np.array_equal(found, np.flatnonzero(differing <= tolerance))
