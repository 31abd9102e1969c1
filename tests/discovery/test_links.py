"""Links, walks and the cover against plain computations."""

import warnings
from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import bank_of, random_states
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery._links import LENGTHS, cover, links, natural_cover, reach


def random_vectors(seed, size, groups=1):
    """Unit vectors with products of 0 or more; those of two groups have nothing shared."""
    rng = np.random.default_rng(seed)
    vectors = np.zeros((size, 3 * groups))
    for row, group in zip(vectors, rng.integers(groups, size=size), strict=True):
        row[3 * group : 3 * group + 3] = np.abs(rng.normal(size=3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 3), st.integers(1, 4))
def test_cover_keeps_its_guarantee(seed, size, groups, count):
    vectors = random_vectors(seed, size, groups)
    likeness = (vectors @ vectors.T).astype(float)
    found = cover(vectors, count, 0.0)
    k = min(count, size)

    def value(chosen):
        return likeness[list(chosen)].max(0).mean() if len(chosen) else 0.0

    best = max(value(some) for some in combinations(range(size), k))
    assert found.coverage == pytest.approx(value(found.chosen), abs=1e-4)
    assert found.coverage >= (1 - (1 - 1 / k) ** k) * best - 1e-3
    for number, gain in enumerate(found.gains):
        left = value(np.delete(found.chosen, number))
        assert gain == pytest.approx(found.coverage - left, abs=1e-4)
    for number in range(len(found.chosen)):  # none is a better one: all are tried here
        others = np.delete(found.chosen, number)
        for other in range(size):
            assert value([*others, other]) <= found.coverage + 1e-3
    sizes = np.bincount(found.labels[found.labels >= 0], minlength=len(found.chosen))
    assert (np.diff(sizes) <= 0).all()
    for position, label in enumerate(found.labels):
        of_chosen = likeness[found.chosen, position]
        assert of_chosen[label] >= of_chosen.max() - 1e-4 if label >= 0 else True
        assert label >= 0 or of_chosen.max() <= 1e-4


def test_lazy_choice_looks_at_more_rows_than_a_block_holds(monkeypatch):
    vectors = random_vectors(0, 200, 5)
    whole = cover(vectors, 12, 0.0)
    monkeypatch.setattr("captum_rdr.discovery._links._BLOCK", 7)
    parts = cover(vectors, 12, 0.0)
    assert whole.chosen.tolist() == parts.chosen.tolist()
    assert whole.labels.tolist() == parts.labels.tolist()


def test_what_others_made_needless_leaves():
    """The middle is chosen first, and needless as soon as the three corners are."""
    corners = np.eye(3)[[0] * 20 + [1] * 20 + [2] * 20]
    vectors = np.vstack([np.ones((1, 3)), corners]) / np.array([[3**0.5]] + [[1]] * 60)
    found = cover(vectors.astype(np.float32), 10, 0.1)
    assert sorted(found.chosen) == [1, 21, 41]
    assert np.bincount(found.labels).tolist() == [21, 20, 20]


def test_cover_stops_before_a_small_gain():
    vectors = np.eye(2, dtype=np.float32)[[0] * 8 + [1]]
    assert len(cover(vectors, 5, 0.0).chosen) == 2
    found = cover(vectors, 5, 0.2)
    assert found.labels.tolist() == [0] * 8 + [-1]
    assert found.gains.tolist() == pytest.approx([8 / 9], abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_more_are_asked_for_than_tell_anything_apart(seed):
    """A row whose rounded gain is a tie, and whose loss is less, came and went forever."""
    angles = np.sort(np.random.default_rng(seed).random(100)) * 0.5
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    found = cover(vectors, 40, 0.0)
    assert 10 < len(found.chosen) < 40
    assert found.coverage > 0.9999


def plain_likeness(linked, length):
    weights = linked + linked.T
    degree = weights.sum(1)
    walks = np.linalg.matrix_power(weights / degree[:, None], length)
    scaled = walks / np.sqrt(degree)
    scaled /= np.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled @ scaled.T


def plain_modularity(weights, parts):
    """Newman and Girvan's sum over all pairs."""
    degree, total = weights.sum(1), weights.sum()
    by_chance = np.outer(degree, degree) / total
    same = parts[:, None] == parts[None]
    return ((weights - by_chance) * same).sum() / total


@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_reach_is_the_cosine_of_walks(seed, length):
    rng = np.random.default_rng(seed)
    linked = (rng.random((12, 12)) < 0.12).astype(float)
    np.fill_diagonal(linked, 1)
    vectors = reach(csr_array(linked), length)
    expected = plain_likeness(linked, length)
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-5)


@pytest.mark.parametrize("n_groups", [1, 150, 300])
def test_the_slowest_modes_are_enough_or_it_is_said(n_groups):
    """Three hundred weakly linked groups consist of more modes than are taken."""
    rng = np.random.default_rng(0)
    linked = (rng.random((420, 420)) < 0.03).astype(float)
    if n_groups > 1:
        linked = np.kron(np.eye(n_groups), np.ones((4, 4)))
        first = np.arange(len(linked) - 1)
        linked[first, first + 1] = 1
    np.fill_diagonal(linked, 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reach(csr_array(linked))
    assert bool(caught) == (n_groups == 300)
    assert all("look at fewer rows" in str(one.message) for one in caught)
    vectors = reach(csr_array(linked), 16)
    if n_groups < 300:
        expected = plain_likeness(linked, 16)
        np.testing.assert_allclose(vectors @ vectors.T, expected, atol=2e-3)


def test_walks_are_as_long_as_links_hold_their_parts_together():
    """Groups that are far apart, of parts whose links are only a little fewer."""
    rng = np.random.default_rng(0)
    near = np.kron(np.eye(4), np.full((3, 3), 0.2) + 0.3 * np.eye(3))
    chance = np.kron(near + 0.002, np.ones((30, 30)))
    linked = (rng.random(chance.shape) < chance).astype(float)
    np.fill_diagonal(linked, 1)
    vectors = reach(csr_array(linked))
    lengths = [
        length
        for length in LENGTHS
        if np.allclose(vectors @ vectors.T, plain_likeness(linked, length), atol=1e-4)
    ]
    parts = [
        natural_cover(reach(csr_array(linked), length)).labels for length in LENGTHS
    ]
    held = [plain_modularity(linked + linked.T, part) for part in parts]
    assert lengths == [LENGTHS[int(np.argmax(held))]]


def test_many_modes_that_are_alike():
    """ARPACK gives up on such: all modes are taken."""
    linked = np.kron(np.eye(5), np.ones((100, 100)))
    vectors = reach(csr_array(linked))
    np.testing.assert_allclose(vectors @ vectors.T, linked, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_links_are_the_most_evident_members(seed, by_evidence):
    states = random_states(60, 10, seed)
    model, bank = torch.nn.Identity(), bank_of(states)
    rdr = RelaxedDecisionRegion(model, model, bank=bank)
    paper = {"weighting": "uniform", "n_neurons": 2}
    choices = {"n_neighbors": 4, **({} if by_evidence else paper)}
    linked = links(bank, choices, 16).toarray()
    choices = {"weighting": "evidence", **choices}
    regions = rdr.attribute_members(range(60), show_progress=False, **choices)
    for i, region in enumerate(regions):
        evidence = region.evidence(states)
        ranked = sorted(region.members.tolist(), key=lambda j: (-float(evidence[j]), j))
        assert set(np.flatnonzero(linked[i])) == {i, *ranked[:16]}
        assert set(linked[i]) <= {0.0, 1.0}
