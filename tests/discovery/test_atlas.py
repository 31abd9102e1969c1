"""The atlas: concepts of clustered data, what they are told by, and data that drift."""

from collections import Counter

import numpy as np
import pytest
import torch
from clustered import clusters
from scipy.stats import fisher_exact
from torch import nn

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery import atlas, subclasses
from captum_rdr.discovery._concepts import rule_for
from captum_rdr.metrics._regions import jaccard


def fitted(data, **choices):
    model = nn.Identity()
    rdr = RelaxedDecisionRegion(model, model, threshold="median")
    return rdr.fit(data, show_progress=False, **choices)


def quiet(**choices):
    return {"show_progress": False, "test": False, **choices}


@pytest.mark.parametrize("keep_features", [True, False])
@pytest.mark.parametrize("n_concepts", [None, 3])
@pytest.mark.parametrize("find", [atlas, subclasses])
def test_known_clusters_are_the_concepts(keep_features, n_concepts, find):
    rdr = fitted(clusters(), keep_features=keep_features)
    rows = torch.randperm(75, generator=torch.Generator().manual_seed(1))
    found = find(rdr, rows, n_concepts, **quiet())
    of_each = {frozenset(one.rows.tolist()) for one in found}
    assert of_each == {frozenset(range(s, s + 25)) for s in (0, 25, 50)}
    for number, one in enumerate(found):
        assert sorted(rows[found.labels == number].tolist()) == one.rows.tolist()
        evidence = one.region.evidence(rdr.bank.states(one.rows))
        top = one.rows[evidence.argsort(descending=True, stable=True)][:8]
        assert one.exemplars.tolist() == top.tolist()
        assert one.region.significance is one.found_again is one.labels is None
        assert one.told > 0.9
    assert found.coverage == pytest.approx(sum(one.gain for one in found), abs=1e-3)


def test_concepts_are_found_again_and_pass_on_rows_that_chose_none():
    rdr = fitted(clusters(size=60, noise=0.5), keep_features=True)
    found = atlas(rdr, show_progress=False)
    assert len(found) == 4
    for one in found:
        assert one.found_again == 1
        assert one.region.significance.passed
    assert "significant" in repr(found)
    assert "found again 1.00" in repr(found[0])


def test_noise_has_no_significant_concept():
    passed = 0
    for seed in range(20):
        data = torch.randn(300, 120, generator=torch.Generator().manual_seed(seed))
        rdr = fitted(data, keep_features=True)
        found = atlas(rdr, n_concepts=6, show_progress=False)
        tests = [one.region.significance for one in found]
        passed += any(test.passed for test in tests)
        # Long walks mix noise into one concept of all rows, which nothing compares with.
        assert all(test.untestable or test.n_outside < 150 for test in tests)
    assert passed <= 1


def test_labels_and_errors_of_concepts():
    rdr = fitted(clusters(size=30))
    labels = ["cat", "dog", "owl", "fox"] * 30
    wrong = list(labels)
    wrong[:20] = ["cow"] * 20
    found = atlas(rdr, labels=labels, predictions=wrong, **quiet())
    p_values = []
    for one in found:
        assert one.labels == Counter(labels[row] for row in one.rows.tolist())
        n, inside = len(one.rows), int((one.rows < 20).sum())
        table = [[inside, n - inside], [20 - inside, 120 - n - (20 - inside)]]
        p_values.append(fisher_exact(table).pvalue)
        assert one.errors.n_wrong == inside
        assert one.errors.rate == pytest.approx(inside / n)
        assert one.errors.rate_elsewhere == pytest.approx((20 - inside) / (120 - n))
    adjusted = [one.errors.p_value for one in found]
    assert min(adjusted) < 1e-6
    assert all(a >= p - 1e-12 for a, p in zip(adjusted, p_values, strict=True))
    assert "wrong" in repr(found)
    assert "owl x 8" in repr(found) or "owl x 7" in repr(found)


def test_a_rule_tells_its_rows_as_well_as_any_cut_does():
    drawing = torch.Generator().manual_seed(3)
    rdr = fitted(clusters(noise=1.5))
    rows = torch.randperm(100, generator=drawing)[:20].sort().values
    region = rule_for(rdr.bank, rows, int(rows[0]), torch.arange(100))
    evidence = region.evidence(rdr.bank.states())
    expected = (evidence >= region.evidence_cut).nonzero().flatten()
    assert torch.equal(region.members, expected)
    others = [row for row in range(100) if row not in rows.tolist()]
    judged = evidence.clone()
    for row in rows.tolist():
        left = rows[rows != row]
        judged[row] = rule_for(rdr.bank, left, int(left[0]), left).evidence(
            rdr.bank.states([row])
        )
    reached = [
        jaccard(rows, (judged >= cut).nonzero().flatten()) for cut in judged.unique()
    ]
    own = jaccard(rows, (judged >= region.evidence_cut).nonzero().flatten())
    assert own == pytest.approx(max(reached))
    assert others


def test_new_inputs_are_assigned_as_rows_are():
    data = clusters(size=40, noise=0.5)
    rdr = fitted(data, keep_features=True)
    found = atlas(rdr, **quiet())
    for given in (rdr.bank, data, torch.utils.data.TensorDataset(data)):
        assigned = found.assign(given)
        assert assigned.depth.shape == (160, 4)
        for number, one in enumerate(found):
            inside = (assigned.depth[:, number] >= 0).nonzero().flatten()
            assert torch.equal(inside, one.region.members)
    truth = torch.arange(4).repeat_interleave(40)
    pairs = set(zip(truth.tolist(), assigned.concept.tolist(), strict=True))
    assert len({pair for pair in pairs if pair[1] >= 0}) == 4
    assert found.overlap.diagonal().tolist() == [1.0] * 4
    first, second = found[0].region.members, found[1].region.members
    assert found.overlap[0, 1] == pytest.approx(jaccard(first, second))


def test_drift_is_told_from_none():
    centers = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))

    def drawn(counts, seed):
        chosen = centers.repeat_interleave(torch.tensor(counts), 0)
        drawing = torch.Generator().manual_seed(seed)
        return chosen + 0.7 * torch.randn(len(chosen), 32, generator=drawing)

    found = atlas(fitted(drawn([40] * 4, 1)), **quiet())
    same = [
        found.drift(drawn([20] * 4, seed), drawn([20] * 4, seed + 50)).p_value
        for seed in range(2, 22)
    ]
    assert np.mean(np.array(same) <= 0.05) <= 0.2
    other = found.drift(drawn([20] * 4, 2), drawn([10, 10, 10, 50], 3))
    assert other.p_value <= 0.001
    assert other.first.sum() == other.second.sum() == pytest.approx(1)
    grown = int(other.p_values[:-1].argmin())
    assert other.second[grown] > other.first[grown]
    with pytest.raises(ValueError, match="second holds no instance; give one or more"):
        found.drift(found.assign(rdr_of(found)), found.assign(rdr_of(found).take([])))


def rdr_of(found):
    return found.explainer.bank


def test_a_sample_stands_for_many_rows(monkeypatch):
    monkeypatch.setattr("captum_rdr.discovery._concepts.SAMPLED", 80)
    rdr = fitted(clusters(size=40, noise=0.5))
    found = atlas(rdr, **quiet())
    assert sum(len(one.rows) for one in found) == 80
    truth = torch.arange(4).repeat_interleave(40)
    for number, one in enumerate(found):
        of = truth[found.labels == number]
        assert len(of) > len(one.rows)
        assert (of == of.mode().values).float().mean() > 0.95


def test_an_atlas_does_not_depend_on_the_threads():
    rdr = fitted(clusters(noise=1.5), keep_features=True)
    labels = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            labels.append(atlas(rdr, **quiet()).labels)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*labels)


def test_a_class_of_one():
    (one,) = subclasses(fitted(clusters()), [7], show_progress=False)
    assert one.rows.tolist() == one.exemplars.tolist() == [7]


@pytest.mark.parametrize(
    ("rows", "choices", "error", "message"),
    [
        ([], {}, ValueError, "rows holds 0 rows, 0 different"),
        ([1, 1], {}, ValueError, "rows holds 2 rows, 1 different"),
        ([1, 200], {}, ValueError, "1 to 200"),
        ([1], {"n_concepts": 0}, ValueError, "n_concepts=0 is too small"),
        ([1], {"walk_length": 1}, TypeError, "walk_length is no choice of how regions"),
        ([1], {"n_neighbors": 2}, ValueError, "n_neighbors=2 is more than the 1 rows"),
        ([1], {"level": 2}, ValueError, "level=2 is no probability"),
        ([1], {"tolerance": -1}, ValueError, "tolerance=-1"),
        ([1], {"labels": [1, 2]}, ValueError, "labels has 2 items for 100 bank rows"),
        ([1], {"labels": np.eye(2)}, ValueError, "labels has shape"),
    ],
)
def test_bad_arguments_of_an_atlas(rows, choices, error, message):
    with pytest.raises(error, match=message):
        atlas(fitted(clusters()), rows, **quiet(**choices))


def test_explainers_that_do_not_fit():
    layers = nn.Sequential(nn.Identity(), nn.Identity())
    several = RelaxedDecisionRegion(layers, [layers[0], layers[1]])
    single = RelaxedDecisionRegion(layers, layers[0])
    with pytest.raises(ValueError, match="explains 2 layers; give an explainer of one"):
        atlas(several)
    with pytest.raises(ValueError, match="no bank yet"):
        atlas(single)
    with pytest.raises(TypeError, match="rdr is a str"):
        atlas("rdr")


def test_a_half_that_holds_no_concept():
    """Its two or so rows are alone in their regions, which is worth no concept."""
    found = atlas(fitted(torch.eye(4).repeat(2, 1)), n_neighbors=1, show_progress=False)
    assert len(found) == 4
    assert not any(one.region.significance.passed for one in found)


def test_rows_that_have_nothing_in_common():
    data = torch.eye(40)
    labels = list(range(40))
    known = {"labels": labels, "predictions": [0, *labels[:-1]]}
    found = atlas(fitted(data), n_neighbors=1, show_progress=False, **known)
    assert len(found) == found.coverage == 0
    assert found.labels.tolist() == [-1] * 40
    assert found.overlap.shape == (0, 0)
    assert found.assign(data[:3]).concept.tolist() == [-1] * 3
    assert found.drift(data, data[:9]).second.tolist() == [1.0]
    assert "0 concepts of 40 rows" in repr(found)
