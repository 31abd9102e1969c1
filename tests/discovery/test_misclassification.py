"""Errors, their repairs and their causes."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from conftest import bank_of, random_states
from torch import nn

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery import misclassification
from captum_rdr.discovery._misclassification import _Reference, repaired
from captum_rdr.discovery._recipe import recipe
from captum_rdr.pooling import spatial_mean


def planted(**fit):
    """Two classes of two neurons each, and a shortcut neuron that decides alone.

    Neuron 6 fires for class 1 in the reference data. Of the 40 inputs to evaluate, the
    first 8 are of class 0 and have it; inputs 30 to 33, of class 1, lack it and their
    own neurons.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat_interleave(60)
    data = 0.3 * torch.randn(120, 20, generator=generator) - 0.5
    data[:60, :3] += 2.0
    data[60:, 3:7] += 2.0
    inputs, targets = data[::3].clone(), labels[::3]
    inputs[:8, 6] += 8.0
    inputs[30:34, 3:7] -= 4.0
    inputs[30:34, 10:15] += 3.0
    inputs[30:34, :3] += 2.0
    model = nn.Sequential(nn.Identity(), nn.ReLU(), nn.Linear(20, 2))
    with torch.no_grad():
        model[2].bias.zero_()
        model[2].weight.zero_()
        model[2].weight[0, :3] = 1.0
        model[2].weight[1, 3:7] = 1.0
    rdr = RelaxedDecisionRegion(model, model[1])
    rdr.fit(data, show_progress=False, **{"keep_features": True, **fit})
    return rdr, inputs, targets, labels


def found_in(*given, **choices):
    return misclassification(*given, show_progress=False, **choices)


def test_errors_are_explained():
    rdr, inputs, targets, labels = planted()
    predicted = rdr.forward_func(inputs).argmax(1)
    found = found_in(rdr, inputs, targets, labels, labels)
    wrong = (predicted != targets).nonzero().flatten().tolist()
    assert wrong == [*range(8), *range(30, 34)]
    assert [error.index for error in found.errors] == wrong
    made = recipe({})
    _, regions = rdr.attribute(inputs[wrong], **made)
    for error, region in zip(found.errors, regions, strict=True):
        assert error.target == int(targets[error.index])
        assert error.predicted == int(predicted[error.index])
        assert torch.equal(error.region.members, region.members)
        assert error.by_class == Counter(labels[region.members].tolist())
        assert error.by_prediction == error.by_class
        inside = labels[error.nearest.neighbors]
        assert set(inside.tolist()) == {error.target}


def test_planted_causes_are_found():
    rdr, inputs, targets, labels = planted()
    found = found_in(rdr, inputs, targets, labels)
    assert [cause.indices.tolist() for cause in found.causes] == [
        list(range(8)),
        list(range(30, 34)),
    ]
    first = found.causes[0]
    assert first.targets == Counter({0: 8})
    assert first.predictions == Counter({1: 8})
    assert 6 in first.region.neurons[first.region.states].tolist()
    assert {error.cause for error in first.errors} == {0}
    assert first.n_repaired == 8
    assert "12 errors of 40 inputs, 2 causes, 0 errors in none" in repr(found)


def test_the_smallest_repair():
    rdr, inputs, targets, labels = planted()
    for error in found_in(rdr, inputs, targets, labels).errors:
        values = rdr.bank.state_means(error.neurons, error.states)
        x = inputs[error.index : error.index + 1]
        counts = [1, 2, 4, 8, 16, 32]
        tried = sorted({*(n for n in counts if n < len(values)), len(values)})
        repairing = []
        for count in tried:
            with rdr.clamping(error.neurons[:count], values[:count]):
                if int(rdr.forward_func(x).argmax()) == error.target:
                    repairing.append(count)
        assert error.n_repairing == (repairing[0] if repairing else None)
        assert (error.by_chance is None) == (error.n_repairing is None)


def test_a_repair_is_held_against_flips_of_other_neurons(monkeypatch):
    """Class is the sign of one neuron, so only that one repairs."""
    drawing = torch.Generator().manual_seed(0)
    first, last = torch.nn.Identity(), torch.nn.Linear(8, 2, bias=False)
    with torch.no_grad():
        last.weight.copy_(torch.outer(torch.tensor([-1.0, 1]), torch.eye(8)[0]))
    data = torch.randn(60, 8, generator=drawing)
    rdr = RelaxedDecisionRegion(torch.nn.Sequential(first, last), first)
    rdr.fit(data, keep_features=True, show_progress=False)
    x, positive = torch.ones(1, 8), torch.tensor([True])
    (region,) = rdr.attribute(x, 4, 2)[1]

    def repair(inputs, neurons, wanted):
        reference = _Reference(rdr.bank, torch.zeros(60).long(), None)
        error = reference.explained(0, 0, 1, positive.expand(8), region, region)
        error = replace(error, neurons=neurons, states=wanted)
        found = repaired(rdr, inputs, error, positive.expand(8), drawing)
        return found.n_repairing, found.by_chance

    assert repair(x, torch.tensor([0]), ~positive) == (1, 0.0)
    assert repair(x, torch.tensor([3]), ~positive) == (None, None)
    # Where all neurons count alike, any other one repairs as well.
    with torch.no_grad():
        last.weight.copy_(torch.tensor([-1.0, 1])[:, None].expand(2, 8))
    rdr.fit(data, keep_features=True, show_progress=False)
    low = torch.full((1, 8), 0.05)
    everything = torch.arange(4), torch.zeros(4, dtype=torch.bool)
    assert repair(low, *everything) == (1, 1.0)
    # A repair by four or more of which beside only three are left.
    flipped = []
    clamping = RelaxedDecisionRegion.clamping

    def record(self, neurons, values):
        flipped.append(neurons)
        return clamping(self, neurons, values)

    monkeypatch.setattr(RelaxedDecisionRegion, "clamping", record)
    even = torch.full((1, 8), 0.8)
    n_repairing, _ = repair(even, torch.arange(5), torch.zeros(5).bool())
    assert n_repairing > 3
    for drawn in flipped[-10:]:
        assert len(drawn.unique()) == n_repairing
        assert {5, 6, 7} <= set(drawn.tolist())


def test_nearest_region_and_where_the_error_departs():
    states = random_states(60, 12)
    bank = bank_of(states)
    queries = states[:3] ^ (torch.arange(12) < 3)
    labels = torch.ones(60, dtype=torch.int64)
    labels[10:40] = torch.arange(30) % 2
    known = labels.clone()
    known[12:20] = 7
    reference = _Reference(bank, labels, known)
    found = reference.nearest_regions(
        queries, torch.tensor([0, 1, 0]), {"n_neighbors": 5}
    )
    for query, region, label in zip(queries, found, (0, 1, 0), strict=True):
        rows = ((labels == label) & (known == label)).nonzero().flatten().tolist()
        ranked = sorted(rows, key=lambda r: (int((states[r] ^ query).sum()), r))
        assert sorted(region.neighbors.tolist()) == sorted(ranked[:5])
        assert region.query == ranked[0]
        error = reference.explained(4, 0, 1, query, region, found[0])
        neurons = region.neurons.tolist()
        weight = dict(zip(neurons, region.weights.tolist(), strict=True))
        state = dict(zip(neurons, region.states.tolist(), strict=True))
        expected = sorted(
            (n for n in weight if bool(query[n]) != state[n]),
            key=lambda n: (-abs(weight[n]), n),
        )
        assert error.neurons.tolist() == expected
        assert error.states.tolist() == [state[n] for n in expected]


def test_the_model_is_left_as_it_was():
    rdr, inputs, targets, labels = planted()
    model = rdr.forward_func
    model.train()
    model[0].eval()
    before = torch.get_rng_state()
    found_in(rdr, inputs, targets, labels)
    assert [module.training for module in model] == [False, True, True]
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_features_or_errors():
    rdr, inputs, targets, labels = planted(keep_features=False)
    with pytest.raises(ValueError, match="the bank holds no features"):
        found_in(rdr, inputs, targets, labels)
    found = found_in(rdr, inputs, targets, labels, repair=False)
    assert all(error.n_repairing is None for error in found.errors)
    assert len(found.causes[0].errors) == 8
    right = found_in(rdr, inputs[10:20], targets[10:20], labels, repair=False)
    assert right.errors == right.causes == ()
    assert "0 errors of 10 inputs" in repr(right)


def test_pooled_layers_are_explained_but_not_repaired():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 3)
    )
    images, labels = torch.randn(40, 1, 8, 8), torch.arange(40) % 3
    rdr = RelaxedDecisionRegion(model, model[1], pool=spatial_mean, threshold="median")
    rdr.fit(images, keep_features=True, show_progress=False)
    with pytest.raises(ValueError, match="the layer is pooled"):
        found_in(rdr, images, labels, labels)
    found = found_in(rdr, images, labels, labels, repair=False)
    wrong = (model(images).argmax(1) != labels).nonzero().flatten()
    assert [error.index for error in found.errors] == wrong.tolist()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": [1.0]}, TypeError, "inputs is a list"),
        ({"targets": [0, 1]}, ValueError, r"targets has shape \(2,\)"),
        ({"reference_targets": [0]}, ValueError, r"reference_targets has shape \(1,\)"),
        (
            {"reference_targets": [1] * 120},
            ValueError,
            "class 0 has an error but no",
        ),
        (
            {"reference_predictions": [0.5] * 120},
            TypeError,
            "reference_predictions has dtype torch.float32",
        ),
    ],
)
def test_bad_arguments(change, error, message):
    rdr, inputs, targets, labels = planted()
    given = {"inputs": inputs, "targets": targets, "reference_targets": labels}
    with pytest.raises(error, match=message):
        found_in(rdr, **{**given, **change})


def test_a_model_that_is_no_classifier():
    model = nn.Identity()
    rdr = RelaxedDecisionRegion(model, model)
    data = torch.randn(20, 3, 4)
    rdr.fit(data, keep_features=True, show_progress=False)
    labels = torch.zeros(20, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"of shape \(20, 3, 4\) for 20 inputs"):
        found_in(rdr, data, labels, labels)
