"""Links, walks and the cover against plain computations."""

from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import bank_of, random_states
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery._walks import (
    Reach,
    _exchanged,
    _greedy,
    cover,
    links,
    reach,
)


def likeness_of(parts):
    """The whole matrix of likeness, from the components' vectors."""
    size = sum(len(part.positions) for part in parts)
    whole = np.zeros((size, size))
    for part in parts:
        inside = np.maximum(part.vectors @ part.vectors.T, 0)
        whole[np.ix_(part.positions, part.positions)] = inside
    return whole


def random_parts(seed, sizes):
    rng = np.random.default_rng(seed)
    positions = np.split(rng.permutation(sum(sizes)), np.cumsum(sizes)[:-1])
    parts = []
    for part in positions:
        vectors = rng.normal(size=(len(part), 3))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        parts.append(Reach(np.sort(part), vectors))
    return parts


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.integers(1, 4),
)
def test_cover_keeps_its_guarantee(seed, sizes, count):
    parts = random_parts(seed, sizes)
    likeness = likeness_of(parts)
    size = len(likeness)
    found = cover(parts, count, 0.0)

    def value(chosen):
        return likeness[list(chosen)].max(0).mean()

    best = max(value(some) for some in combinations(range(size), min(count, size)))
    k = min(count, size)
    assert found.coverage == pytest.approx(value(found.chosen), abs=1e-9)
    assert found.coverage >= (1 - (1 - 1 / k) ** k) * best - 1e-6
    for position, label in enumerate(found.labels):
        of_chosen = likeness[found.chosen, position]
        if label < 0:
            assert of_chosen.max() <= 1e-8
        else:
            assert of_chosen[label] >= of_chosen.max() - 1e-8
    for number, gain in enumerate(found.gains):
        others = np.delete(found.chosen, number)
        left = value(others) if len(others) else 0
        assert gain == pytest.approx(found.coverage - left, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_greedy_steps_are_the_best_ones(seed, sizes):
    parts = random_parts(seed, sizes)
    likeness = likeness_of(parts)
    greedy = _greedy(parts, 3, 0.0)
    best = np.zeros(len(likeness))
    for number, place in greedy:
        center = parts[number].positions[place]
        offers = np.maximum(likeness - best, 0).mean(1)
        assert offers[center] == pytest.approx(offers.max(), abs=1e-7)
        best = np.maximum(best, likeness[center])
    exchanged = _exchanged(parts, greedy)
    centers = [parts[number].positions[place] for number, place in exchanged]
    reached = likeness[centers].max(0).mean()
    assert reached >= best.mean() - 1e-9
    for turn, (number, _) in enumerate(exchanged):
        for other in parts[number].positions:
            tried = [*centers[:turn], other, *centers[turn + 1 :]]
            assert likeness[tried].max(0).mean() <= reached + 1e-7


def test_cover_stops_before_a_small_gain():
    parts = [Reach(np.arange(9), np.eye(2)[[0] * 8 + [1]])]
    assert len(cover(parts, 5, 0.0).chosen) == 2
    assert len(cover(parts, 5, 1 / 9).chosen) == 2
    found = cover(parts, 5, 0.2)
    assert found.labels.tolist() == [0] * 8 + [-1]
    assert found.gains.tolist() == pytest.approx([8 / 9])


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_reach_is_the_cosine_of_walks(seed, length):
    rng = np.random.default_rng(seed)
    linked = (rng.random((12, 12)) < 0.12).astype(float)
    np.fill_diagonal(linked, 1)
    weights = linked + linked.T
    degree = weights.sum(1)
    walks = np.linalg.matrix_power(weights / degree[:, None], length)
    scaled = walks / np.sqrt(degree)
    scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
    found = likeness_of(reach(csr_array(linked), length))
    np.testing.assert_allclose(found, scaled @ scaled.T, atol=1e-10)


def test_slowest_modes_are_enough_for_large_components(monkeypatch):
    rng = np.random.default_rng(0)
    linked = csr_array((rng.random((320, 320)) < 0.05).astype(float))
    sparse = likeness_of(reach(linked, 16))
    monkeypatch.setattr("captum_rdr.discovery._walks._DENSE", 1000)
    np.testing.assert_allclose(sparse, likeness_of(reach(linked, 16)), atol=1e-9)


@pytest.mark.parametrize("kind", ["one step", "three steps", "weak groups"])
def test_short_walks_and_many_weak_groups_are_bounded(kind, monkeypatch):
    """96 modes leave out what short walks and 150 weakly linked groups consist of."""
    rng = np.random.default_rng(0)
    linked = csr_array((rng.random((400, 400)) < 0.02).astype(float))
    length = {"one step": 1, "three steps": 3, "weak groups": 16}[kind]
    if kind == "weak groups":
        groups = np.kron(np.eye(150), np.ones((4, 4)))
        groups[np.arange(599), np.arange(599) + 1] = 1
        linked = csr_array(groups)
    found = reach(linked, length)
    monkeypatch.setattr("captum_rdr.discovery._walks._DENSE", 1000)
    whole = reach(linked, length)
    np.testing.assert_allclose(likeness_of(found), likeness_of(whole), atol=2e-4)
    expected = cover(whole, 20, 0.0).coverage
    assert cover(found, 20, 0.0).coverage == pytest.approx(expected, abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_links_are_the_most_evident_members(seed, at_most):
    states = random_states(40, 10, seed)
    model = torch.nn.Identity()
    bank = bank_of(states)
    rdr = RelaxedDecisionRegion(model, model, bank=bank)
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(seed))[:15]
    choices = {"weighting": "evidence", "show_progress": False}
    found = rdr.attribute_members(rows, 4, 10, tolerance=2.0, **choices)
    linked = links(found, rows, bank, at_most).toarray()
    for i, region in enumerate(found):
        evidence = region.evidence(states[rows])
        inside = [j for j in range(15) if int(rows[j]) in region.members.tolist()]
        ranked = sorted(inside, key=lambda j: (-float(evidence[j]), int(rows[j])))
        expected = {i, *ranked[:at_most]}
        assert set(np.flatnonzero(linked[i])) == expected
        assert set(linked[i]) <= {0.0, 1.0}
