"""Regions against an oracle in NumPy that shares no code with the package."""

import warnings

import numpy as np
import pytest
import torch

from captum_rdr import ConfigurationBank, RelaxedDecisionRegion

CASES, PARTS = 1000, 10


def distance(metric, rows, features, query, query_features):
    """Distances from one query to every row, smaller is nearer."""
    if metric == "configuration":
        return (rows != query).sum(1).astype(float)
    bank, one = features.astype(float), query_features.astype(float)
    if metric == "euclidean":
        return np.sqrt(((bank - one) ** 2).sum(1))
    if metric == "direction":
        bank = bank / np.linalg.norm(bank, axis=1, keepdims=True)
        one = one / np.linalg.norm(one)
    if metric in ("centered_cosine", "direction"):
        mean = bank.mean(0)
        bank, one = bank - mean, one - mean
    norms = np.linalg.norm(bank, axis=1) * np.linalg.norm(one)
    return 1 - np.divide(bank @ one, norms, out=np.zeros(len(bank)), where=norms > 0)


def weights_of(inside, rows):
    """Log-odds weights in 64ths and their offsets, 0 where a neuron tells nothing."""
    k, n = len(inside), len(rows)
    p_s, p = inside.mean(0), rows.mean(0)
    smooth = (inside.sum(0) + 0.5) / (k + 1)
    clamped = np.clip(p, 0.5 / n, 1 - 0.5 / n)
    offset = np.log((1 - smooth) / (1 - clamped))
    weight = np.log(smooth / clamped) - offset
    agrees = ((weight > 0) & (p_s > p)) | ((weight < 0) & (p_s < p))
    weight = np.where(agrees, np.round(64 * weight) / 64, 0)
    totals, common = inside.sum(1), 0.0
    independent = np.sqrt((p_s * (1 - p_s)).sum() * k / max(k - 1, 1))
    if k > 1 and weight.any() and totals.std(ddof=1) > independent * (1 + 1e-12):
        left = 1 - independent / totals.std(ddof=1)
        common = np.round(64 * weight[weight != 0].mean() * left) / 64
    offset = np.where(weight != 0, offset + common * p, 0)
    return np.where(weight != 0, weight - common, 0), offset


def a_case(seed):
    """A small bank with many ties and duplicates, and a row of it to ask for."""
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(4, 40)), int(rng.integers(2, 70))
    values = rng.integers(-2, 3, (n, d)) if seed % 2 else rng.normal(size=(n, d))
    features = values.astype(np.float32)
    features += np.float32(0.25)  # nothing is zero
    twins = rng.integers(0, n, n // 3)
    features[twins] = features[rng.integers(0, n, len(twins))]
    own = int(rng.integers(n))
    k, t = int(rng.integers(1, n + 1)), int(rng.integers(1, d + 1))
    tolerance = int(rng.integers(0, t))
    metrics = ["configuration", "cosine", "centered_cosine", "euclidean", "given"]
    metrics.append("direction")
    return rng, features, own, k, t, tolerance, metrics[seed // 3 % 6]


@pytest.mark.parametrize("part", range(PARTS))
def test_regions_are_those_of_an_oracle(part):
    for seed in range(part, CASES, PARTS):
        compare(seed)


def compare(seed) -> None:
    rng, features, own, k, t, tolerance, metric = a_case(seed)
    rows, n = features > 0, len(features)
    bank = ConfigurationBank(rows.shape[1:])
    bank.append(torch.from_numpy(rows), torch.from_numpy(features))
    layer = torch.nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank)
    given = metric == "given"
    chosen = rng.permutation(n)[:k]
    neighbors = torch.from_numpy(chosen) if given else metric
    weighting = "evidence" if seed % 3 == 0 else "uniform"
    choices = {"n_neighbors": k, "n_neurons": t, "neighbors": neighbors}
    choices |= {"weighting": weighting}
    if weighting == "uniform":
        choices["tolerance"] = tolerance
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer unanimous neurons than were asked for
        (region,) = rdr.attribute_members([own], show_progress=False, **choices)
    found = region.neighbors.numpy()
    check_neighbors(metric, rows, features, own, k, chosen, found)
    inside = rows[found]
    if weighting == "uniform":
        check_paper(region, rows, inside, t, tolerance)
    else:
        check_evidence(region, rows, inside, t)
    assert set(found) <= set(region.members.tolist())


def check_neighbors(metric, rows, features, own, k, chosen, found) -> None:
    if metric == "given":
        assert sorted(found) == sorted({*chosen.tolist(), own}) or sorted(
            found
        ) == sorted(chosen.tolist())
        return
    away = distance(metric, rows, features, rows[own], features[own])
    assert len(found) == k == len(set(found))
    assert own in found
    others = [index for index in range(len(rows)) if index != own]
    picked = [index for index in found if index != own]
    if metric == "configuration":  # whole numbers, so ties are exact
        expected = sorted(others, key=lambda index: (away[index], index))[: k - 1]
        assert picked == expected
    elif picked:  # equal but for rounding
        nearest = np.sort(away[others])[: k - 1]
        assert np.allclose(np.sort(away[picked]), nearest, atol=1e-5)


def check_paper(region, rows, inside, t, tolerance) -> None:
    p_s, p = inside.mean(0), rows.mean(0)
    n, k = len(rows), len(inside)
    # Whole numbers, so that ties are exact.
    score = np.abs(inside.sum(0) * n - rows.sum(0) * k)
    unanimous = [i for i in range(len(p)) if p_s[i] in (0.0, 1.0)]
    best = sorted(sorted(unanimous, key=lambda i: (-score[i], i))[:t])
    found = region.neurons.numpy()
    assert sorted(found) == best
    assert region.states.tolist() == [bool(p_s[i] == 1) for i in found]
    assert np.allclose(region.scores.numpy(), np.abs(p_s - p)[found], atol=1e-6)
    wrong = (rows[:, best] != (p_s[best] == 1)).sum(1)
    assert region.members.tolist() == np.flatnonzero(wrong <= tolerance).tolist()


def check_evidence(region, rows, inside, t) -> None:
    weight, offset = weights_of(inside, rows)
    heavy = sorted(np.flatnonzero(weight), key=lambda i: (-abs(weight[i]), i))
    best = sorted(heavy[:t])
    neurons = region.neurons.numpy()
    assert sorted(neurons) == best
    assert np.allclose(region.weights.numpy(), weight[neurons])
    constant = np.round(64 * offset[best].sum()) / 64
    total = rows[:, best] @ weight[best] + constant
    found = region.evidence(torch.from_numpy(rows)).numpy()
    assert np.allclose(found, total, atol=1e-6)
    members = region.members.numpy()
    # Whatever the cut is, it is one: no instance outside is as evident as a member.
    outside = np.setdiff1d(np.arange(len(rows)), members)
    if len(members) and len(outside):
        assert total[outside].max() < total[members].min()
