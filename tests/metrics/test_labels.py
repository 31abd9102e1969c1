"""Label metrics, stability and held-out rows against plain counts."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from conftest import bank_of, random_states
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from captum_rdr import ConfigurationBank, Region, RelaxedDecisionRegion
from captum_rdr.method.regions import members as members_in
from captum_rdr.metrics import (
    coverage,
    enrichment,
    generalization,
    purity,
    stability,
)
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


def clustered() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 4
    centers = torch.randn(4, 48, generator=generator)
    return centers[labels] + torch.randn(120, 48, generator=generator) / 2, labels


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.integers(5, 40), st.integers(1, 6), st.booleans())
def test_labels_by_counting(seed, n, t, given_targets):
    regions, _, labels = found(n, 20, seed, n_neighbors=4, n_neurons=t)
    targets = torch.tensor([2, 1]) if given_targets else None
    results = (
        purity(regions, labels, targets),
        coverage(regions, labels, targets),
        *enrichment(regions, labels, targets),
    )
    for index, region in enumerate(regions):
        own = region.query
        label = int(labels[own]) if targets is None else int(targets[index])
        others = [row for row in range(n) if row != own]
        members = [row for row in region.members.tolist() if row != own]
        having = [row for row in others if labels[row] == label]
        hits = len(set(members) & set(having))
        share = hits / len(members) if members else math.nan
        base = len(having) / len(others)
        ways = sum(
            Fraction(math.comb(len(having), h))
            * math.comb(len(others) - len(having), len(members) - h)
            for h in range(hits, len(members) + 1)
        )
        chance = float(ways / math.comb(len(others), len(members)))
        expected = (
            share,
            hits / len(having) if having else math.nan,
            share / base if base else math.nan,
            chance,
            base,
        )
        got = [float(values[index]) for values in results]
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


@pytest.mark.parametrize("choices", [{"n_neurons": 5}, {**EVIDENCE, "rounds": 2}])
def test_generalization_by_hand(choices):
    features, labels = clustered()
    bank = bank_of(features > 0, features)
    rdr = explainer(bank)
    regions = rdr.attribute_members(range(0, 120, 13), show_progress=False, **choices)
    generator = torch.Generator().manual_seed(5)
    result = generalization(
        regions, bank, labels, generator=generator, show_progress=False
    )
    order = torch.randperm(120, generator=torch.Generator().manual_seed(5))
    halves = order[:60].sort().values, order[60:].sort().values
    fitted = explainer(bank_of((features > 0)[halves[0]], features[halves[0]]))
    for index, region in enumerate(regions):
        query = region.query
        _, (again,) = fitted.attribute(features[query : query + 1], **choices)
        for side, rows in enumerate(halves):
            inside = again.contains((features > 0)[rows]).tolist()
            members = [
                row
                for row, is_member in zip(rows.tolist(), inside, strict=True)
                if is_member and row != query
            ]
            same = [row for row in members if labels[row] == labels[query]]
            of_class = [
                row
                for row in rows.tolist()
                if labels[row] == labels[query] and row != query
            ]
            assert int(result.n_members[index, side]) == len(members)
            share = len(same) / len(members) if members else math.nan
            assert float(result.purity[index, side]) == pytest.approx(
                share, nan_ok=True
            )
            covered = len(same) / len(of_class)
            assert float(result.coverage[index, side]) == pytest.approx(covered)
    assert "held out" in repr(result)


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


def test_generalization_of_new_inputs():
    features, labels = clustered()
    bank = bank_of(features > 0, features)
    new, targets = features[:3] + 0.05, labels[:3]
    _, regions = explainer(bank).attribute(new, neighbors="cosine", n_neurons=5)
    result = generalization(regions, bank, labels, targets, show_progress=False)
    assert result.purity.shape == (3, 2)
    assert float(result.purity.nanmean()) > 0.8
    nothing = torch.empty(0, dtype=torch.int64)
    assert len(generalization([], bank, labels, nothing).purity) == 0


def test_stability():
    features, _ = clustered()
    bank = bank_of(features > 0, features)
    regions = explainer(bank).attribute_members(
        range(0, 120, 17), n_neurons=5, show_progress=False
    )
    generator = torch.Generator().manual_seed(2)
    table = stability(
        regions,
        bank,
        n_neighbors=[8, 4],
        n_neurons=[5, 9],
        n_bootstraps=1,
        others={"same": regions, "shifted": [*regions[1:], regions[0]]},
        generator=generator,
        show_progress=False,
    )
    neurons, members = table.neurons, table.members
    assert list(neurons) == list(members)
    assert list(members) == [
        "n_neighbors=8",
        "n_neighbors=4",
        "n_neurons=5",
        "n_neurons=9",
        "bootstrap 1",
        "same",
        "shifted",
    ]
    for unchanged in ("n_neighbors=8", "n_neurons=5"):
        assert bool((neurons[unchanged] == 1).all())
        assert bool((members[unchanged] == 1).all())
    assert bool((members["same"] == 1).all())
    assert bool(neurons["same"].isnan().all())
    assert float(members["shifted"].mean()) < 0.5
    rows = torch.randint(120, (120,), generator=torch.Generator().manual_seed(2))
    drawn = explainer(bank_of((features > 0)[rows]))
    for index, region in enumerate(regions):
        query = features[region.query : region.query + 1]
        _, (again,) = drawn.attribute(query, n_neurons=5)
        inside = again.contains(features > 0).nonzero().flatten()
        expected = jaccard(region.members, inside)
        assert float(members["bootstrap 1"][index]) == expected
        shared = jaccard(region.neurons, again.neurons)
        assert float(neurons["bootstrap 1"][index]) == shared
    lines = str(table).splitlines()
    assert lines[0].split() == ["Jaccard", "index", "of", "neurons", "members"]
    assert lines[1].split() == ["n_neighbors=8", "1.000", "1.000"]


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
    with pytest.raises(ValueError, match=r"targets has shape \(1,\); give one label"):
        enrichment(regions, labels, torch.tensor([1]))
    with pytest.raises(ValueError, match=r"region 1 is of a new input.*give targets"):
        purity([regions[0], new], labels)
    assert purity([new], labels, torch.tensor([1])).shape == (1,)
    with pytest.raises(ValueError, match=r"others\['seed'\] has 0 regions for 2"):
        stability(regions, bank, n_bootstraps=0, others={"seed": []})
    with pytest.raises(ValueError, match="n_neighbors=31 is more than the bank's 30"):
        stability(regions, bank, n_neighbors=[31])
    fixed: list[Region] = explainer(bank).attribute_members(
        [0], neighbors=torch.arange(8), show_progress=False
    )
    with pytest.raises(ValueError, match="given by rows, which another bank does not"):
        generalization(fixed, bank, labels)
