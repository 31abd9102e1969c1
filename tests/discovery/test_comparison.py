"""Overlaps against plain counting and simulation, and what they say of two banks."""

import math

import numpy as np
import pytest
import torch
from clustered import clusters
from conftest import bank_of, random_states
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from captum_rdr.discovery import compare
from captum_rdr.discovery._comparison import best_matches, incidence
from captum_rdr.metrics._regions import jaccard


def tail(shared, left, size, other_size):
    """Chance of at least so many common elements, from binomial coefficients."""
    total = math.comb(left, size)
    return (
        sum(
            math.comb(other_size, k) * math.comb(left - other_size, size - k)
            for k in range(max(shared, 0), min(size, other_size) + 1)
            if size - k <= left - other_size
        )
        / total
    )


def random_sets(rng, owns, n_rows):
    sets = [
        np.unique(np.append(rng.integers(0, n_rows, rng.integers(0, 9)), own))
        for own in owns
    ]
    return [torch.from_numpy(rows) for rows in sets]


def matched(sets, others, own, n_rows):
    sparse = (incidence(some, n_rows) for some in (sets, others))
    return best_matches(*sparse, torch.from_numpy(own))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_best_matches(seed):
    rng = np.random.default_rng(seed)
    n_rows = 25
    own = rng.choice(n_rows, 6, replace=False)
    sets, others = (random_sets(rng, own, n_rows) for _ in range(2))
    found = matched(sets, others, own, n_rows)
    expected = []
    for i, rows in enumerate(sets):
        one = set(rows.tolist())
        ranked, tails = [], []
        for j, other_rows in enumerate(others):
            other = set(other_rows.tolist())
            ranked.append((-len(one & other) / len(one | other), j))
            taken = {int(own[i]), int(own[j])}
            if one & other:
                left, right = one - taken, other - taken
                shared = len(left & right)
                left_over = n_rows - len(taken)
                tails.append(tail(shared, left_over, len(left), len(right)))
        similarity, best = min(ranked)
        assert found.jaccard[i] == pytest.approx(-similarity)
        assert found.match[i] == best
        expected.append(min([1.0, *(len(others) * p for p in tails)]))
    adjusted = false_discovery_control(expected)
    assert found.p_value.tolist() == pytest.approx(adjusted, rel=1e-6)
    enough = [s >= 1 / 3 - 1e-12 for s in found.jaccard.tolist()]
    assert found.survived.tolist() == list(np.array(enough) & (adjusted <= 0.05))


def test_p_values_of_random_sets_are_valid():
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(200):
        own = rng.choice(200, 5, replace=False)
        sets = [
            torch.from_numpy(
                np.sort(
                    np.append(rng.choice(np.delete(np.arange(200), o), 15, False), o)
                )
            )
            for o in (*own, *own)
        ]
        p_values += matched(sets[:5], sets[5:], own, 200).p_value.tolist()
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05


def test_jaccard():
    assert jaccard(torch.tensor([1, 2]), torch.tensor([2, 3])) == pytest.approx(1 / 3)
    assert jaccard(torch.tensor([1]), torch.tensor([2])) == 0
    empty = torch.empty(0, dtype=torch.int64)
    assert jaccard(empty, empty) == 1


def test_equal_banks_keep_every_region():
    bank = bank_of(clusters() > 0)
    found = compare(bank, bank, n_neighbors=8, show_progress=False)
    assert found.forward.jaccard.tolist() == [1.0] * 100
    assert found.survived.tolist() == list(range(100))
    assert found.lost.tolist() == found.new.tolist() == []


def test_reordered_neurons_change_nothing():
    data = clusters()
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    choices = {"n_neighbors": 8, "show_progress": False}
    found = compare(bank_of(data > 0), bank_of(data[:, order] > 0), **choices)
    assert found.forward.jaccard.tolist() == [1.0] * 100


def test_noise_survives_nowhere():
    one, other = (bank_of(random_states(150, 40, seed)) for seed in (0, 1))
    found = compare(one, other, n_neighbors=8, show_progress=False)
    assert len(found.survived) <= 3
    assert len(found.new) >= 147


def test_compare_finds_what_changed():
    data = clusters()
    changed = data.clone()
    changed[75:] = torch.randn(25, 32, generator=torch.Generator().manual_seed(5))
    rows = range(0, 100, 2)
    choices = {"n_neighbors": 8, "show_progress": False}
    found = compare(bank_of(data > 0), bank_of(changed > 0), rows, **choices)
    assert set(found.survived.tolist()) >= set(range(0, 75, 2))
    assert len(found.lost) >= 10
    assert set(found.lost.tolist()) <= set(range(75, 100))
    assert "are new (median Jaccard index" in repr(found)


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"rows": [0, 0]}, ValueError, "rows holds 2 rows, 1 different"),
        ({"rows": []}, ValueError, "rows holds 0 rows"),
        ({"bank_b": "bank"}, TypeError, "bank_b is a str"),
        ({"bank_b": bank_of(random_states(4, 5))}, ValueError, "bank_b 4; fit both on"),
    ],
)
def test_bad_arguments_of_compare(choices, error, message):
    bank = bank_of(random_states(20, 5))
    with pytest.raises(error, match=message):
        compare(**{"bank_a": bank, "bank_b": bank, "show_progress": False, **choices})
