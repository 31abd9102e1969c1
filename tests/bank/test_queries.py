"""Nearest rows, members and weighted sums, by every kernel and in any blocks."""

import copy

import pytest
import torch
from conftest import bank_of, random_states
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.bank import bits, queries
from captum_rdr.bank.queries import Wanted

pytestmark = pytest.mark.filterwarnings("ignore:.*fewer unanimous neurons")

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=["kernel", "products", "small blocks"])
def way(request, monkeypatch):
    """By NumKong, by matrix products as on a device, or a few rows at a time."""
    if request.param == "products":
        monkeypatch.setattr(bits, "numkong", None)
    if request.param == "small blocks":
        monkeypatch.setattr(queries, "WORK_BYTES", 1 << 8)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 999),
    st.integers(1, 300),
    st.integers(1, 130),
    st.integers(0, 70),
    st.data(),
)
def test_nearest_and_distances(seed, n, d, n_queries, data):
    states = random_states(n, d, seed)[torch.arange(n) // 2]  # ties
    asked = torch.cat([states[: n_queries // 2], random_states(n_queries, d, seed + 1)])
    k = data.draw(st.integers(1, n))
    packed, rows = bits.pack(asked), bits.pack(states)
    away = (asked[:, None] != states[None]).sum(2)
    order = (away * n + torch.arange(n)).argsort(1)[:, :k]
    for blocks, kernel in ((1 << 25, True), (1 << 9, True), (1 << 12, False)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(queries, "WORK_BYTES", blocks)
            if not kernel:
                patch.setattr(bits, "numkong", None)
            found = queries.nearest(packed, rows, k)
            assert found.rows.equal(order)
            assert found.distances.equal(away.gather(1, order))
            assert queries.distances(packed, rows).equal(away)
            if len(asked):
                same = (away[0] == 0).nonzero().flatten()
                assert queries.equal_rows(packed[0], rows).equal(same)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=400), st.data())
def test_smallest(values, data):
    count = data.draw(st.integers(1, len(values)))
    for n_queries in (1, 2, 7):
        rolled = [values[i:] + values[:i] for i in range(n_queries)]
        found = queries.smallest(torch.tensor(rolled, dtype=torch.int32), count)
        for own, rows in zip(rolled, found.rows.tolist(), strict=True):
            order = sorted(range(len(own)), key=lambda i, own=own: (own[i], i))
            assert rows == order[:count]


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(1, 90), st.integers(1, 130), st.data())
def test_members_and_disagreements(seed, n, d, data):
    states = random_states(n, d, seed)
    rows, asked = bits.pack(states), random_states(3, d, seed + 1)
    wanted, expected = [], []
    for query in asked:
        picked = data.draw(st.lists(st.integers(0, d - 1), unique=True, max_size=60))
        neurons = torch.tensor(picked, dtype=torch.int64)
        tolerance = data.draw(st.integers(0, 5))
        wanted.append(Wanted(neurons, query[neurons], tolerance))
        expected.append((states[:, neurons] != query[neurons]).sum(1))
    for kernel in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not kernel:
                patch.setattr(bits, "numkong", None)
            patch.setattr(queries, "WORK_BYTES", data.draw(st.sampled_from([64, 4096])))
            assert queries.disagreements(wanted, rows).equal(torch.stack(expected))
            found = queries.agreeing(wanted, rows)
        for own, want, counts in zip(found, wanted, expected, strict=True):
            assert own.equal((counts <= want.tolerance).nonzero().flatten())


@pytest.mark.parametrize("largest", [0, 1, 2, 63, 1000, 1 << 40])
def test_weighted_sums(way, largest):
    generator = torch.Generator().manual_seed(largest)
    states = random_states(90, 130)
    weights = torch.randint(-largest, largest + 1, (5, 130), generator=generator)
    weights[1], weights[2] = largest, -largest
    weights[3, ::2] = 0
    expected = weights @ states.long().T
    assert queries.weighted_sums(weights, bits.pack(states)).equal(expected)
    assert queries.weighted_sums(weights[:0], bits.pack(states)).shape == (0, 90)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("metric", ["configuration", "centered_cosine", "euclidean"])
@pytest.mark.parametrize("weighting", ["uniform", "evidence"])
def test_regions_are_the_same_wherever_the_bank_lies(
    device, metric, weighting, monkeypatch
):
    features = torch.randn(150, 200, generator=torch.Generator().manual_seed(0))
    layer = torch.nn.Identity()
    bank = bank_of(features > 0, features)
    choices = {"neighbors": metric, "weighting": weighting, "show_progress": False}

    def regions(bank):
        rdr = RelaxedDecisionRegion(layer, layer, bank=bank)
        found = rdr.attribute_members(range(0, 150, 9), 6, 20, **choices)
        new = features[:4] + 0.3
        kept = {"neighbors": metric, "weighting": weighting}
        return found + rdr.attribute(new, 6, 20, **kept)[1]

    expected = regions(bank)
    threads = torch.get_num_threads()
    for n_threads in (1, 2, 8):
        torch.set_num_threads(n_threads)
        same_regions(regions(bank), expected)
    torch.set_num_threads(threads)
    monkeypatch.setattr(bits, "numkong", None)
    same_regions(regions(copy.deepcopy(bank).to(device)), expected)


def same_regions(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        for name in ("neurons", "states", "weights", "members", "neighbors"):
            assert getattr(one, name).equal(getattr(other, name)), name
        assert one.distances.equal(other.distances)
        assert (one.offset, one.evidence_cut) == (other.offset, other.evidence_cut)


@pytest.mark.skipif(len(DEVICES) == 1, reason="no GPU")
def test_a_model_on_a_gpu_gives_the_bank_of_the_cpu(net, images):
    expected = RelaxedDecisionRegion(net, net[2]).fit(images, show_progress=False).bank
    net.cuda()
    bank = RelaxedDecisionRegion(net, net[2]).fit(images, show_progress=False).bank
    assert (bank.states() != expected.states()).float().mean() < 1e-3
