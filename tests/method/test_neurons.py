"""Scores, principal neurons and weights against exact fractions."""

import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from captum_rdr.method import neurons as selection
from captum_rdr.method.neurons import UNITS, largest


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.data())
def test_ranking(values, data):
    count = data.draw(st.integers(1, len(values)))
    array = np.array(values)
    by_size = sorted(range(len(values)), key=lambda i: (-values[i], i))
    for wanted in (0, count, count + 3):
        assert largest(array, wanted).tolist() == sorted(by_size[:wanted])


def test_scores_that_only_rounding_tells_apart_tie():
    # |1 - 3/10| and |0 - 7/10| are equal, but not in floating point.
    active_bank = np.array([7, 3])
    chosen = selection.by_score(np.array([0, 5]), 5, active_bank, 10, 1)
    assert chosen.neurons.tolist() == [0]
    swapped = selection.by_score(np.array([5, 0]), 5, active_bank[::-1], 10, 1)
    assert swapped.neurons.tolist() == [0]


@given(
    st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 30), st.integers(1, 12)
)
def test_weights(seed, k, n, d):
    generator = np.random.default_rng(seed)
    bank = generator.random((n, d)) < generator.random(d)
    inside = generator.random((k, d)) < generator.random(d)
    often = selection.Frequencies.of(bank.sum(0), n)
    weights, offsets = selection.evidence_weights(inside.sum(0), k, often)
    expected = oracle.weights(inside, bank)
    assert weights.tolist() == [w * UNITS for w, _ in expected]
    assert offsets == pytest.approx([o for _, o in expected])


def test_a_neuron_that_never_fires_has_no_weight():
    often = selection.Frequencies.of(np.array([0, 99]), 99)
    weights, _ = selection.evidence_weights(np.array([0, 8]), 8, often)
    assert weights.tolist() == [0, 0]
    states = np.array([[False, True]] * 8)
    assert len(selection.by_evidence(states, often, 2).neurons) == 0
