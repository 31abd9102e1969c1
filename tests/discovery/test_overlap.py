"""Overlaps of sets against plain counting, and their p-values against simulation."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_rdr.discovery._comparison import best_matches
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


def random_sets(rng, count, n_rows):
    owns = rng.integers(0, n_rows, count)
    sets = [
        np.unique(np.append(rng.integers(0, n_rows, rng.integers(0, 9)), own))
        for own in owns
    ]
    return [torch.from_numpy(rows) for rows in sets], owns


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_best_matches(seed):
    rng = np.random.default_rng(seed)
    n_rows = 25
    (sets, own), (others, other_own) = (random_sets(rng, 6, n_rows) for _ in range(2))
    found = best_matches(sets, others, own, other_own, n_rows)
    for i, rows in enumerate(sets):
        one = set(rows.tolist())
        ranked, tails = [], []
        for j, other_rows in enumerate(others):
            other = set(other_rows.tolist())
            ranked.append((-len(one & other) / len(one | other), j))
            taken = {int(own[i]), int(other_own[j])}
            if one & other:
                left, right = one - taken, other - taken
                shared = len(left & right)
                left_over = n_rows - len(taken)
                tails.append(tail(shared, left_over, len(left), len(right)))
        similarity, best = min(ranked)
        assert found.jaccard[i] == pytest.approx(-similarity)
        if similarity:
            assert found.match[i] == best
        expected = min([1.0, *(len(others) * p for p in tails)])
        assert found.p_value[i] == pytest.approx(expected, rel=1e-6)


def test_p_values_of_random_sets_are_valid():
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(200):
        own = rng.choice(200, 10, replace=False)
        sets = [
            torch.from_numpy(
                np.sort(
                    np.append(rng.choice(np.delete(np.arange(200), o), 15, False), o)
                )
            )
            for o in (*own[:5], *own[5:])
        ]
        p_values += best_matches(
            sets[:5], sets[5:], own[:5], own[5:], 200
        ).p_value.tolist()
    assert np.mean(np.array(p_values) <= 0.05) <= 0.05


def test_jaccard():
    assert jaccard(torch.tensor([1, 2]), torch.tensor([2, 3])) == pytest.approx(1 / 3)
    assert jaccard(torch.tensor([1]), torch.tensor([2])) == 0
    empty = torch.empty(0, dtype=torch.int64)
    assert jaccard(empty, empty) == 1
