"""Subclasses, regions over layers, and comparisons of banks."""

import math

import numpy as np
import pytest
import torch
from conftest import bank_of, random_states
from torch import nn

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery import compare, layerwise, subclasses


def clusters(n_clusters=4, size=25, n_neurons=32, noise=0.7, seed=0):
    """Data ``(n_clusters * size, n_neurons)``, one cluster behind the other."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(n_clusters, n_neurons, generator=generator)
    drawn = torch.randn(n_clusters * size, n_neurons, generator=generator)
    return centers.repeat_interleave(size, 0) + noise * drawn


def fitted(data, layer=None, **choices):
    model = nn.Identity() if layer is None else layer
    rdr = RelaxedDecisionRegion(model, model)
    return rdr.fit(data, show_progress=False, **choices)


def quiet(**choices):
    return {"show_progress": False, "tested": False, **choices}


@pytest.mark.parametrize("keep_features", [True, False])
@pytest.mark.parametrize("n_subclasses", [None, 3])
def test_known_clusters_are_the_subclasses(keep_features, n_subclasses):
    rdr = fitted(clusters(), keep_features=keep_features)
    rows = torch.randperm(75, generator=torch.Generator().manual_seed(1))
    found = subclasses(rdr, rows, n_subclasses, **quiet())
    assert len(found) == 3
    of_each = {frozenset(one.members.tolist()) for one in found}
    assert of_each == {frozenset(range(s, s + 25)) for s in (0, 25, 50)}
    for number, one in enumerate(found):
        assert sorted(rows[found.labels == number].tolist()) == one.members.tolist()
        assert set(one.region.members.tolist()) <= set(range(75))
        evidence = one.region.evidence(rdr.bank.states(one.members))
        top = one.members[evidence.argsort(descending=True, stable=True)][:8]
        assert one.exemplars.tolist() == top.tolist()
        assert one.region.significance is None
    assert found.coverage == pytest.approx(sum(one.gain for one in found))
    assert 0 < found.coverage <= 1


def test_the_papers_rule_serves_too():
    choices = quiet(weighting="uniform", n_neurons=5, n_neighbors=8)
    found = subclasses(fitted(clusters(noise=0.4)), range(75), 3, **choices)
    assert len(found[0].region.neurons) == 5
    truth = torch.arange(3).repeat_interleave(25)
    pairs = set(zip(truth.tolist(), found.labels.tolist(), strict=True))
    assert len(pairs) == 3


def test_subclasses_are_tested_for_significance():
    rdr = fitted(clusters(noise=0.5), keep_features=True)
    found = subclasses(rdr, range(50), n_neighbors=8, show_progress=False)
    assert all(one.region.significance.passed for one in found)
    assert "p=" in repr(found)
    assert "significance" in repr(found)


def test_subclasses_do_not_depend_on_the_threads():
    rdr = fitted(clusters(noise=1.5), keep_features=True)
    labels = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            labels.append(subclasses(rdr, range(75), **quiet()).labels)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*labels)


def test_a_class_of_one():
    (one,) = subclasses(fitted(clusters()), [7], **quiet())
    assert one.members.tolist() == one.exemplars.tolist() == [7]
    assert "1 instances" in repr(one)


@pytest.mark.parametrize(
    ("rows", "choices", "error", "message"),
    [
        ([], {}, ValueError, "class_indices holds 0 rows, 0 different"),
        ([1, 1], {}, ValueError, "class_indices holds 2 rows, 1 different"),
        ([1, 200], {}, ValueError, "indices go from 1 to 200"),
        ([1], {"n_subclasses": 0}, ValueError, "n_subclasses=0 is too small"),
        ([1], {"walk_length": 1.5}, TypeError, "walk_length=1.5 is a float"),
        ([1], {"n_exemplars": True}, TypeError, "n_exemplars=True is a bool"),
        ([1], {"tolerance": -1}, ValueError, "tolerance=-1"),
    ],
)
def test_bad_arguments_of_subclasses(rows, choices, error, message):
    with pytest.raises(error, match=message):
        subclasses(fitted(clusters()), rows, **quiet(**choices))


def test_explainers_that_do_not_fit():
    layers = nn.Sequential(nn.Identity(), nn.Identity())
    several = RelaxedDecisionRegion(layers, [layers[0], layers[1]])
    single = RelaxedDecisionRegion(layers, layers[0])
    with pytest.raises(ValueError, match="explains 2 layers; give an explainer of one"):
        subclasses(several, [0])
    with pytest.raises(ValueError, match="no bank yet"):
        subclasses(single, [0])
    with pytest.raises(TypeError, match="rdr is a str"):
        subclasses("rdr", [0])
    with pytest.raises(ValueError, match="rdr explains one layer"):
        layerwise(single, 0)
    with pytest.raises(ValueError, match="no bank yet"):
        layerwise(several, 0)
    with pytest.raises(TypeError, match="rdr is a str"):
        layerwise("rdr", 0)


def two_layers():
    """The second layer has other neurons than the first."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 9), nn.ReLU())
    data = clusters(4, 15, 12)
    return RelaxedDecisionRegion(model, [model[1], model[3]]), data


def test_layerwise_against_plain_sets():
    rdr, data = two_layers()
    rdr.fit(data, show_progress=False)
    labels = torch.arange(4).repeat_interleave(15)
    found = layerwise(rdr, 20, labels, n_neighbors=6, show_progress=False)
    assert [stage.layer for stage in found] == ["1", "3"]
    before, here = (set(stage.region.members.tolist()) for stage in found)
    assert found[0].jaccard is None
    assert found[1].jaccard == pytest.approx(len(before & here) / len(before | here))
    assert set(found[1].stayed.tolist()) == before & here
    assert set(found[1].left.tolist()) == before - here
    assert set(found[1].joined.tolist()) == here - before
    for stage in found:
        others = [row for row in stage.region.members.tolist() if row != 20]
        same = np.mean([int(labels[row]) == 1 for row in others])
        assert stage.purity == pytest.approx(same)
    (expected,) = rdr.attribute_members(
        [20], 6, 9, weighting="evidence", show_progress=False
    )[1]
    assert torch.equal(found[1].region.members, expected.members)


def test_pieces_are_the_components_of_the_links():
    rdr, data = two_layers()
    rdr.fit(data, show_progress=False)
    last = layerwise(rdr, 20, n_neighbors=6, show_progress=False)[1]
    members = last.stayed.tolist() + last.left.tolist()
    regions = rdr.attribute_members(
        members, 6, 9, weighting="evidence", show_progress=False
    )[1]
    pieces = [{row} for row in members]
    for row, region in zip(members, regions, strict=True):
        linked = {row, *(set(region.members.tolist()) & set(members))}
        touched = [piece for piece in pieces if piece & linked]
        pieces = [piece for piece in pieces if not piece & linked]
        pieces.append(set().union(*touched))
    assert [set(piece.tolist()) for piece in last.pieces] == sorted(
        pieces, key=lambda piece: (-len(piece), min(piece))
    )


def test_layerwise_of_a_new_input():
    rdr, data = two_layers()
    rdr.fit(data, keep_features=True, show_progress=False)
    labels = torch.arange(4).repeat_interleave(15)
    found = layerwise(rdr, data[20:21] + 0.01, labels, show_progress=False)
    assert found[0].region.query is None
    members = labels[found[0].region.members]
    assert found[0].purity == pytest.approx(
        int(members.bincount().max()) / len(members)
    )
    assert "splits at" in repr(found)
    with pytest.raises(ValueError, match="query holds 2 instances"):
        layerwise(rdr, data[:2])
    with pytest.raises(ValueError, match=r"labels has shape \(3,\)"):
        layerwise(rdr, 0, [1, 2, 3])
    with pytest.raises(TypeError, match=r"labels has dtype torch.float32"):
        layerwise(rdr, 0, torch.rand(60))


def test_purity_of_a_lone_query():
    model = nn.Sequential(nn.Identity(), nn.Identity())
    rdr = RelaxedDecisionRegion(model, [model[0], model[1]])
    rdr.fit(torch.tensor([[1.0, 1], [-1, -1]]), show_progress=False)
    found = layerwise(rdr, 0, [0, 1], n_neighbors=1, show_progress=False)
    assert math.isnan(found[0].purity)
    assert found.splits == []
    choices = {"weighting": "uniform", "n_neurons": 2, "show_progress": False}
    strange = torch.tensor([[1.0, -1]])
    nobody = layerwise(rdr, strange, [0, 1], n_neighbors=1, **choices)
    assert len(nobody[0].region.members) == 0
    assert math.isnan(nobody[0].purity)


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
    best = found.forward.match[0]
    assert found.forward.jaccard[0] == pytest.approx(
        len(
            set(found.regions_a[0].members.tolist())
            & set(found.regions_b[best].members.tolist())
        )
        / len(
            set(found.regions_a[0].members.tolist())
            | set(found.regions_b[best].members.tolist())
        )
    )


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"level": 1}, ValueError, "level=1 is no probability"),
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


def test_layers_of_a_bank_that_was_forced():
    """An explainer of one of the layers accepts what that of all was told to accept."""
    torch.manual_seed(0)
    data = torch.randn(60, 4)
    first, second = (
        nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 12)) for _ in range(2)
    )
    fitted = RelaxedDecisionRegion(first, [first[1], first[2]])
    banks = fitted.fit(data, show_progress=False).bank
    choices = {"bank": banks, "force": True}
    forced = RelaxedDecisionRegion(second, [second[1], second[2]], **choices)
    found = layerwise(forced, data[:1], show_progress=False)
    assert [stage.layer for stage in found] == ["1", "2"]
