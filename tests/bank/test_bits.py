"""Packed arithmetic against unpacked arithmetic."""

import numpy as np
import pytest
import torch
from conftest import random_states
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from captum_rdr.bank import bits

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def states_of(seed: int, n: int, d: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((n, d)) < 0.4)


sizes = st.tuples(st.integers(0, 999), st.integers(1, 9), st.integers(1, 300))


@given(sizes)
def test_pack_and_unpack(size):
    states = states_of(*size)
    packed = bits.pack(states)
    assert packed.tolist() == [
        [
            sum(int(bit) << i for i, bit in enumerate(row[at : at + 8]))
            for at in range(0, size[2], 8)
        ]
        for row in states
    ]
    assert bits.unpack(packed, size[2]).equal(states)
    assert bits.count_active(packed, size[2]).equal(states.sum(0))


@given(sizes)
def test_arithmetic_packing_is_the_same(size):
    states = states_of(*size)
    assert bits.pack(states).equal(bits._pack_by_arithmetic(states))


@given(sizes, st.integers(0, 9))
def test_hamming(size, n_queries):
    rows, queries = states_of(*size), states_of(size[0] + 1, n_queries, size[2])
    packed = bits.pack(queries), bits.pack(rows)
    expected = (queries[:, None] != rows[None]).sum(2).int()
    assert bits.hamming(*packed).equal(expected)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bits, "_SIGNS_BYTES", 3000)
        assert bits.hamming_by_product(*packed).equal(expected)
        patch.setattr(bits, "numkong", None)
        assert bits.hamming(*packed).equal(expected)


@pytest.mark.parametrize("n_queries", [1, 3, 4, 20])
@pytest.mark.parametrize("n_threads", [1, 2, 8])
def test_hamming_of_a_wide_layer_in_threads(n_queries, n_threads, monkeypatch):
    rows = states_of(0, 700, 100_352)
    packed = bits.pack(rows)
    expected = torch.stack([(one != rows).sum(1) for one in rows[:n_queries]]).int()
    threads = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        assert bits.hamming(packed[:n_queries], packed).equal(expected)
        opposite = ~packed[:n_queries]
        found = bits.hamming(packed[:n_queries], opposite).diagonal()
        assert found.tolist() == [100_352] * n_queries
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", list(bits.EXACT_TERMS))
@pytest.mark.parametrize("d", [1, 8, 255, 257, 2047, 2049, 12_800, 20_000])
def test_products_are_exact(device, dtype, d):
    """Also where all terms have one sign, so that the sums are as large as can be."""
    states = torch.cat(
        [random_states(6, d), torch.ones(1, d) > 0, torch.zeros(1, d) > 0]
    )
    rows = bits.pack(states).to(device)
    expected = (states[:, None] != states).sum(2)
    found = bits.hamming_by_product(rows, rows, dtype)
    assert found.dtype == torch.int32
    assert found.cpu().equal(expected.int())
