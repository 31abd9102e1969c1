"""Distances by matrix products, on CPU tensors and, where there is one, on a GPU."""

import pytest
import torch
from conftest import bank_of, random_states
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.bank import bits, devices
from captum_rdr.bank.devices import EXACT_TERMS, DeviceBank, hamming_by_product

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
DTYPES = list(EXACT_TERMS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 8, 255, 257, 2047, 2049, 12_800, 20_000])
def test_products_are_exact(device, dtype, d):
    """Also where all terms have one sign, so that the sums are as large as can be."""
    states = torch.cat(
        [random_states(6, d), torch.ones(1, d) > 0, torch.zeros(1, d) > 0]
    )
    rows = bits.pack(states).to(device)
    expected = (states[:, None] != states).sum(2)
    found = hamming_by_product(rows, rows, dtype)
    assert found.dtype == torch.int32
    assert found.cpu().equal(expected.int())


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 99), st.integers(1, 70), st.integers(1, 300), st.data())
def test_a_device_bank_answers_as_the_bank(seed, n, d, data):
    bank = bank_of(random_states(n, d, seed)[torch.arange(n) // 2])  # ties
    queries = torch.cat([bank.states()[:2], random_states(3, d, seed + 1)])
    k = data.draw(st.integers(1, n))
    dtype = data.draw(st.sampled_from(DTYPES))
    for device in DEVICES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(devices, "_WORK_BYTES", 20_000)
            patch.setattr(devices, "_QUERIES", 2)
            found = DeviceBank(bank, device, dtype).nearest(queries, k)
        expected = bank.nearest(queries, k)
        assert found.rows.equal(expected.rows)
        assert found.distances.equal(expected.distances)


def test_bad_arguments():
    bank = bank_of(random_states(5, 9))
    with pytest.raises(ValueError, match=r"dtype=torch.float64 is none of"):
        DeviceBank(bank, "cpu", torch.float64)
    with pytest.raises(ValueError, match="k=6 is not between 1 and the bank's 5"):
        DeviceBank(bank, "cpu").nearest(bank.rows, 6)
    assert DeviceBank(bank, "cpu").nearest(bank.rows[:0], 2).rows.shape == (0, 2)


@pytest.mark.skipif(len(DEVICES) == 1, reason="no GPU")
def test_a_model_on_a_gpu_gives_the_bank_of_the_cpu(net, images):
    expected = RelaxedDecisionRegion(net, net[2]).fit(images, show_progress=False).bank
    net.cuda()
    bank = RelaxedDecisionRegion(net, net[2]).fit(images, show_progress=False).bank
    assert (bank.states() != expected.states()).float().mean() < 1e-3
