"""Label metrics against plain counts."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import bank_of, random_states
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from captum_rdr import ConfigurationBank, RelaxedDecisionRegion
from captum_rdr.method.regions import members as members_in
from captum_rdr.metrics import coverage, purity
from captum_rdr.metrics._regions import jaccard

pytestmark = pytest.mark.filterwarnings("ignore:.*fewer unanimous neurons")
EVIDENCE = {"weighting": "evidence", "tolerance": 1.0, "n_neurons": 20}


def explainer(bank: ConfigurationBank) -> RelaxedDecisionRegion:
    layer = nn.Identity()
    return RelaxedDecisionRegion(layer, layer, bank=bank)


def found(n: int, d: int, seed: int, rows=(0, 3), **choices):
    """Regions of a random bank, its features, and labels."""
    states = random_states(n, d, seed)
    features = torch.where(states, 1.0, -1.0) * (torch.rand(n, d) + 0.1)
    bank = bank_of(states, features)
    regions = explainer(bank).attribute_members(rows, show_progress=False, **choices)
    return regions, bank, torch.arange(n) % 3


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(5, 40), st.integers(1, 6), st.booleans())
def test_labels_by_counting(seed, n, t, given_targets):
    regions, _, labels = found(n, 20, seed, n_neighbors=4, n_neurons=t)
    targets = torch.tensor([2, 1]) if given_targets else None
    shares = purity(regions, labels, targets), coverage(regions, labels, targets)
    for index, region in enumerate(regions):
        own = region.query
        label = int(labels[own]) if targets is None else int(targets[index])
        others = [row for row in range(n) if row != own]
        members = [row for row in region.members.tolist() if row != own]
        having = [row for row in others if labels[row] == label]
        hits = len(set(members) & set(having))
        share = hits / len(members) if members else math.nan
        expected = share, hits / len(having) if having else math.nan
        got = [float(values[index]) for values in shares]
        assert got == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("choices", [{}, {"tolerance": 2}, EVIDENCE])
def test_membership_in_any_bank(choices):
    regions, bank, _ = found(60, 40, 3, **choices)
    other = bank_of(random_states(50, 40, 4))
    for one, region in zip(members_in(regions, bank), regions, strict=True):
        assert one.equal(region.members)
    for one, region in zip(members_in(regions, other), regions, strict=True):
        assert one.equal(region.contains(other.states()).nonzero().flatten())


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_jaccard(first, second):
    expected = len(first & second) / len(first | second) if first | second else 1.0
    sets = (torch.tensor(sorted(s), dtype=torch.int64) for s in (first, second))
    assert jaccard(*sets) == expected


def test_labels_count_by_position():
    pandas = pytest.importorskip("pandas")
    regions, _, labels = found(30, 20, 0)
    shuffled = pandas.Series(labels.tolist(), index=range(29, -1, -1))
    expected = purity(regions, labels)
    for same in (labels.tolist(), labels.numpy(), shuffled, labels.to(torch.uint8)):
        assert purity(regions, same).equal(expected)
        assert coverage(regions, same).equal(coverage(regions, labels))
    assert purity(regions, labels, [1, 2]).equal(
        purity(regions, labels, torch.tensor([1, 2]))
    )
    assert purity([], []).shape == (0,)


def test_what_is_refused():
    regions, bank, labels = found(30, 20, 0)
    new = replace(regions[0], query=None, query_states=bank.rows[0])
    with pytest.raises(TypeError, match=r"labels has dtype torch.float32"):
        purity(regions, labels.float())
    with pytest.raises(TypeError, match="labels holds 'cat' at position 0"):
        purity(regions, ["cat"] * 30, [1, 2])
    with pytest.raises(TypeError, match=r"labels has dtype torch\.bool"):
        purity(regions, [True] * 30)
    with pytest.raises(ValueError, match=r"labels has shape \(30, 1\); give one label"):
        purity(regions, labels[:, None])
    with pytest.raises(ValueError, match="labels has 2 items, but a region has member"):
        coverage(regions, labels[:2])
    with pytest.raises(ValueError, match=r"targets has 1 items for 2 instances"):
        purity(regions, labels, torch.tensor([1]))
    with pytest.raises(ValueError, match=r"region 1 is of a new input.*give targets"):
        purity([regions[0], new], labels)
    assert purity([new], labels, torch.tensor([1])).shape == (1,)
