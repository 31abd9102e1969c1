"""Regions against the plainest way to compute them."""

import warnings

import numpy as np
import oracle
import pytest
import torch
from conftest import bank_of, random_states
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from captum_rdr import ConfigurationBank, Region, RelaxedDecisionRegion
from captum_rdr.method.neighbors import nearest_features
from captum_rdr.method.rule import METRICS

pytestmark = pytest.mark.filterwarnings("ignore:.*fewer (unanimous|weighty) neurons")


def explainer(bank: ConfigurationBank) -> RelaxedDecisionRegion:
    layer = nn.Identity()
    return RelaxedDecisionRegion(layer, layer, bank=bank)


def explain(
    states: Tensor, rows: list[int], new: Tensor, *args, **kwargs
) -> list[Region]:
    """Regions of bank rows, then of new instances."""
    rdr = explainer(bank_of(states))
    found = rdr.attribute_members(rows, *args, show_progress=False, **kwargs)
    return found + rdr.attribute(new.float(), *args, **kwargs)[1]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 70), st.data())
def test_the_papers_rule(seed, n, d, data):
    k, t = data.draw(st.integers(1, n)), data.draw(st.integers(1, d))
    tolerance = data.draw(st.integers(0, min(2, t - 1)))
    states, new = random_states(n, d, seed), random_states(3, d, seed + 1)
    rows = list(range(0, n, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = explain(states, rows, new, k, t, tolerance=tolerance)
    bank = states.numpy()
    owns = rows + [None] * len(new)
    for region, own, query in zip(
        found, owns, [*bank[rows], *new.numpy()], strict=True
    ):
        expected = oracle.paper(bank, query, own, k, t, tolerance)
        assert region.neighbors.sort().values.tolist() == sorted(expected.neighbors)
        assert region.neurons.tolist() == expected.neurons
        assert region.states.tolist() == expected.states
        assert region.scores.tolist() == pytest.approx(expected.scores)
        assert region.members.tolist() == expected.members
        check_invariants(region, states, torch.from_numpy(query))


def check_invariants(region: Region, states: Tensor, query: Tensor) -> None:
    assert bool(torch.isin(region.neighbors, region.members).all())
    assert bool(region.contains(query.unsqueeze(0)))
    assert region.contains(states).nonzero().flatten().equal(region.members)
    assert region.distances.equal(region.distances.sort().values)
    shown = region.neurons[region.named()].sort().values
    assert (region.mask() != 0).flatten().nonzero().flatten().equal(shown)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(2, 70), st.data())
def test_evidence(seed, n, d, data):
    k, t = data.draw(st.integers(1, n)), data.draw(st.integers(1, d))
    rounds = data.draw(st.integers(1, 2))
    tolerance = data.draw(st.sampled_from([0.0, 1.5]))
    states, new = random_states(n, d, seed), random_states(2, d, seed + 1)
    found = explain(
        states,
        [0, n - 1],
        new,
        k,
        t,
        weighting="evidence",
        rounds=rounds,
        tolerance=tolerance,
    )
    bank = states.numpy()
    for region, query in zip(found, [bank[0], bank[-1], *new.numpy()], strict=True):
        own = region.query
        rows = oracle.neighbors(bank, query, own, k)
        for _ in range(rounds - 1):
            _, strength, _ = oracle.evidence(bank, query, rows, own is None, t)
            order = sorted(range(n), key=lambda i: (i != own, -strength[i], i))
            rows = order[: len(rows)]
        neurons, strength, of_query = oracle.evidence(bank, query, rows, own is None, t)
        assert region.neighbors.sort().values.tolist() == sorted(rows)
        assert region.neurons.tolist() == neurons
        assert region.evidence(states).tolist() == strength
        inside = np.array([bank[i] for i in rows] + [query] * (own is None))
        by_own = [strength[i] for i in rows] + [of_query] * (own is None)
        cut = oracle.evidence_cut(bank, inside, neurons, by_own) - tolerance
        rounding = (len(neurons) + 2) / 128
        assert region.evidence_cut == pytest.approx(cut, abs=rounding)
        assert region.members.tolist() == [
            i for i in range(n) if strength[i] >= region.evidence_cut
        ]
        check_invariants(region, states, torch.from_numpy(query))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_feature_neighbors(metric, dtype):
    features = torch.randn(60, 12, generator=torch.Generator().manual_seed(0)).to(dtype)
    features[7], features[30] = features[3], 0
    rdr = explainer(bank_of(features > 0, features))
    rows = features.double().numpy()
    if metric == "direction":
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    if metric in ("centered_cosine", "direction"):
        centered = rows - rows.mean(0)
        # A row of zeros has no direction.
        is_zero = ~rows.any(1, keepdims=True) & (metric == "direction")
        rows = np.where(is_zero, 0, centered)
    found = rdr.attribute_members(range(60), 6, 5, neighbors=metric)
    for query, region in enumerate(found):
        if metric == "euclidean":
            away = np.linalg.norm(rows - rows[query], axis=1)
        else:
            lengths = np.linalg.norm(rows, axis=1) * np.linalg.norm(rows[query])
            away = 1 - np.divide(
                rows @ rows[query], lengths, out=np.zeros(60), where=lengths > 0
            )
        order = sorted(range(60), key=lambda i: (i != query, round(away[i], 12), i))
        assert region.neighbors.sort().values.tolist() == sorted(order[:6])
        expected = sorted(away[order[:6]].tolist())
        if metric == "euclidean" or query != 30:
            assert region.distances.tolist() == pytest.approx(expected, abs=1e-9)


def test_an_input_that_the_bank_holds_is_its_row():
    features = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    rdr = explainer(bank_of(features > 0, features))
    for metric in ("configuration", *METRICS):
        members = rdr.attribute_members(range(4), 5, 4, neighbors=metric)
        _, inputs = rdr.attribute(features[:4], 5, 4, neighbors=metric)
        for one, other in zip(members, inputs, strict=True):
            assert one.members.equal(other.members)
            if metric != "configuration":
                assert one.query == other.query
        _, (new,) = rdr.attribute(features[:1] + 5, 5, 4, neighbors=metric)
        assert len(new.neighbors) == (4 if new.query is None else 5)


def test_own_row_is_in_s_however_many_rows_equal_it():
    rdr = explainer(bank_of(torch.ones(9, 4, dtype=torch.bool), torch.ones(9, 4)))
    for metric in ("configuration", "cosine", "euclidean"):
        (region,) = rdr.attribute_members([8], 3, 2, neighbors=metric)
        assert region.neighbors.tolist()[0] == 8 or 8 in region.neighbors.tolist()
        assert len(region.neighbors) == 3


def test_given_neighbors():
    states = random_states(30, 20)
    rdr = explainer(bank_of(states))
    rows = torch.tensor([3, 4, 5])
    (one,) = rdr.attribute_members([3], neighbors=rows)
    (other,) = rdr.attribute_members([3], neighbors=torch.tensor([[5, 4]]))
    assert one.neighbors.equal(other.neighbors)
    assert one.neurons.equal(other.neurons)
    _, (new,) = rdr.attribute(random_states(1, 20, 5).float(), neighbors=rows)
    assert sorted(new.neighbors.tolist()) == [3, 4, 5]
    inside = torch.cat([states[rows], random_states(1, 20, 5)])[:, new.neurons]
    assert bool((inside == new.states).all())


def test_results_do_not_depend_on_how_many_queries_come_together():
    features = torch.randn(200, 40, generator=torch.Generator().manual_seed(0))
    rdr = explainer(bank_of(features > 0, features))
    choices = [
        {},
        {"weighting": "evidence", "n_neurons": 40, "neighbors": "direction"},
        {"weighting": "evidence", "rounds": 2},
    ]
    for choice in choices:
        together = rdr.attribute_members(range(200), **choice)
        for query in (0, 70, 199):
            (alone,) = rdr.attribute_members([query], **choice)
            assert alone.neurons.equal(together[query].neurons)
            assert alone.neighbors.equal(together[query].neighbors)
            assert alone.members.equal(together[query].members)


def test_too_few_unanimous_neurons_are_warned_of_once():
    rdr = explainer(bank_of(random_states(40, 12)))
    with pytest.warns(
        UserWarning, match=r"5 of 5 regions .*n_neurons=12 \(the fewest: \d"
    ):
        found = rdr.attribute_members(range(5), 30, 12)
    assert all(len(region.neurons) < 12 for region in found)


def test_a_region_without_principal_neurons_is_the_whole_bank():
    states = torch.tensor([[True, False], [False, True]])
    rdr = explainer(bank_of(states))
    with pytest.warns(UserWarning, match="the fewest: 0"):
        (region,) = rdr.attribute_members([0], 2, 1)
    assert region.members.tolist() == [0, 1]
    with pytest.raises(ValueError, match="region has no principal neuron"):
        rdr.concept_score(region)


@pytest.mark.parametrize("metric", METRICS)
def test_single_images_of_the_bank_are_recognized(net, images, metric):
    rdr = RelaxedDecisionRegion(net, net[2])
    rdr.fit(images, keep_features=True, show_progress=False)
    members = rdr.attribute_members(range(12), 5, 4, neighbors=metric)
    for index, member in enumerate(members):
        _, (alone,) = rdr.attribute(images[index : index + 1], 5, 4, neighbors=metric)
        assert alone.query == index
        assert alone.neurons.equal(member.neurons)
        assert alone.members.equal(member.members)


def test_collinear_and_zero_rows_are_recognized():
    features = torch.tensor([[1.0, 0, 1], [2, 0, 2], [0, 0, 0], [3, 1, 0]])
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank_of(features > 0, features))
    _, found = rdr.attribute(features, 2, 1, neighbors="cosine")
    assert [region.query for region in found] == [0, 1, 2, 3]


def test_given_neighbors_make_n_neighbors_idle():
    states = random_states(5, 12)
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank_of(states))
    (member,) = rdr.attribute_members([1], 8, 3, neighbors=torch.tensor([0, 1]))
    _, (new,) = rdr.attribute(states[1:2].float(), 8, 3, neighbors=torch.tensor([0, 1]))
    assert new.query == 1
    assert new.neurons.equal(member.neurons)
    for rows, message in ((np.array([1]), "ndarray"), ([1], "list")):
        with pytest.raises(TypeError, match=f"neighbors is a {message}"):
            rdr.attribute_members([1], 2, 3, neighbors=rows)


def test_evidence_without_neurons_is_warned_of():
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer)
    rdr.fit(torch.ones(9, 4), show_progress=False)
    with pytest.warns(UserWarning, match="1 of 1 regions have fewer weighty neurons"):
        rdr.attribute_members([0], 3, 2, weighting="evidence")


def test_neighbors_of_a_query_that_is_far_shorter_than_the_rows():
    """Only rounding tells the rows' lengths apart where they are computed."""
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(3000, generator=generator)
        order = torch.rand(40, 3000, generator=generator).argsort(1)
        rows = values[order]
        rows[:, 0] += 1e-4 * torch.rand(40, generator=generator)
        ((found, _),) = nearest_features(rows, torch.zeros(1, 3000), 3, "euclidean")
        lengths = rows.double().norm(dim=1).numpy()
        assert found.tolist() == np.argsort(lengths, kind="stable")[:3].tolist()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1e20, 1e30])
def test_feature_neighbors_of_any_size(metric, scale):
    """Products of such float32 features are zero or infinite."""
    rows = torch.randn(60, 7, generator=torch.Generator().manual_seed(0)) + 1
    small = (rows * scale).float()
    found = nearest_features(small, small[:9], 5, metric)
    expected = nearest_features(
        small.double() / scale, small[:9].double() / scale, 5, metric
    )
    for (near, _), (wanted, _) in zip(found, expected, strict=True):
        assert near.tolist() == wanted.tolist()
