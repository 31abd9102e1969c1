"""Subclasses of clustered data."""

import pytest
import torch
from clustered import clusters
from torch import nn

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery import subclasses


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
