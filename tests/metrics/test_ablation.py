"""Ablation against clamps written by hand."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.metrics import PairedEffect, ablation
from captum_rdr.metrics._ablation import matched_neurons


def fitted(net, layer, images, **choices) -> RelaxedDecisionRegion:
    rdr = RelaxedDecisionRegion(net, layer, **choices)
    return rdr.fit(images, keep_features=True, show_progress=False)


def clamped(net: nn.Sequential, x: Tensor, neurons: Tensor, values: Tensor) -> Tensor:
    """Logits with neurons of layer 2 overwritten."""
    modules = copy.deepcopy(net).eval()
    with torch.no_grad():
        inner = modules[:3](x).flatten(1).clone()
        inner[:, neurons] = values.float()
        return modules[3:](inner.reshape(-1, 4, 6, 6))


def quietly(*args, **choices):
    return ablation(*args, show_progress=False, **choices)


def test_effects_by_hand(net, images):
    rdr = fitted(net, net[2], images)
    (region,) = rdr.attribute_members([4], n_neurons=6, show_progress=False)
    inputs = torch.cat([images[region.members], images[30:60]])
    result = quietly(rdr, region, inputs)
    values = rdr.bank.state_means(region.neurons, ~region.states)
    before = clamped(net, inputs, region.neurons[:0], torch.empty(0))
    after = clamped(net, inputs, region.neurons, values)
    inside = rdr.contains(region, inputs)
    assert 0 < int(inside.sum()) < len(inputs)
    predicted = before.argmax(1)
    moved = (after - before)[torch.arange(len(inputs)), predicted].abs()
    flipped = (after.argmax(1) != predicted).float()
    for kept, effects in ((inside, result.members), (~inside, result.others)):
        assert effects["logit"].n == int(kept.sum())
        assert effects["logit"].effect == pytest.approx(float(moved[kept].mean()), 1e-4)
        assert effects["prediction"].effect == pytest.approx(
            float(flipped[kept].mean())
        )
        assert set(effects) == {"logit", "prediction"}


def test_random_neurons_are_clamped_alike(net, images, monkeypatch):
    rdr = fitted(net, net[2], images)
    (region,) = rdr.attribute_members([4], n_neurons=5, show_progress=False)
    sets = []

    clamping = RelaxedDecisionRegion.clamping

    def record(self, neurons, values):
        sets.append((neurons, values))
        return clamping(self, neurons, values)

    monkeypatch.setattr(RelaxedDecisionRegion, "clamping", record)
    quietly(rdr, region, images[:9], n_random=4)
    (principal, _), *random = sets
    assert principal.equal(region.neurons)
    assert len(random) == 4
    inside = rdr.bank.states(region.neighbors).float().mean(0)
    frequency = rdr.bank.active_counts
    for neurons, values in random:
        assert not bool(torch.isin(neurons, region.neurons).any())
        assert len(neurons) == 5
        states = inside[neurons] > 0.5
        assert values.equal(rdr.bank.state_means(neurons, ~states))
        gap = frequency[neurons].double().mean() - frequency[principal].double().mean()
        assert abs(float(gap)) < 20


def test_batches_do_not_matter_and_the_model_is_left(net, images):
    rdr = fitted(net, net[2], images)
    (region,) = rdr.attribute_members([4], n_neurons=5, show_progress=False)
    modes = [module.training for module in net.modules()]
    whole = quietly(rdr, region, images)
    parts = quietly(rdr, region, images, internal_batch_size=7)
    for what, effect in whole.members.items():
        assert parts.members[what].effect == pytest.approx(effect.effect, abs=1e-6)
    assert [module.training for module in net.modules()] == modes
    assert not any(module._forward_hooks for module in net.modules())


class Keywords(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, scale, x):
        return self.net(x) * scale


def test_inputs_of_other_kinds(net, images):
    model = Keywords(net)
    rdr = RelaxedDecisionRegion(model, net[2])
    rdr.fit([{"x": images}], 2.0, keep_features=True, show_progress=False)
    (region,) = rdr.attribute_members([4], n_neurons=5, show_progress=False)
    plain = fitted(net, net[2], images)
    expected = quietly(plain, region_like(plain), images).members["logit"]
    got = quietly(rdr, region, {"x": images}, 2.0).members["logit"]
    assert got.effect == pytest.approx(2 * expected.effect, rel=1e-4)


def test_the_region_of_a_new_input(net, images):
    """S holds the input, too, so its states count among those of S."""
    rdr = fitted(net, net[2], images)
    _, (region,) = rdr.attribute(images[4:5] + 0.2, n_neurons=5)
    assert region.query is None
    result = quietly(rdr, region, images, n_random=2)
    assert result.members["logit"].n == len(region.members)


def region_like(rdr):
    return rdr.attribute_members([4], n_neurons=5, show_progress=False)[0]


def test_effects_of_few_inputs():
    nobody = PairedEffect.of(torch.empty(0), torch.empty(2, 0))
    assert nobody.n == 0
    assert np.isnan([nobody.effect, nobody.control, nobody.p_value]).all()
    single = PairedEffect.of(torch.tensor([1.0]), torch.tensor([[0.0], [0.0]]))
    assert (single.effect, single.control) == (1.0, 0.0)
    assert np.isnan(single.interval).all()


def test_effects_beside_several_random_controls():
    """The interval is that of a crossed layout; here with sums that are known."""
    effects = torch.tensor([3.0, 5.0, 4.0])
    controls = torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 2.0]])
    found = PairedEffect.of(effects, controls)
    away = effects - controls
    by_input, by_set = away.mean(0), away.mean(1)
    left = (away - by_input - by_set[:, None] + away.mean()).square().sum()
    parts = [2 * float(by_input.var()), 3 * float(by_set.var()), float(left) / 2]
    variance = parts[0] + max(parts[1] - parts[2], 0)
    freedom = variance**2 / (parts[0] ** 2 / 2 + parts[1] ** 2 + parts[2] ** 2 / 2)
    reach = stats.t.ppf(0.975, max(freedom, 1)) * (variance / 6) ** 0.5
    middle = float(away.mean())
    assert found.interval == pytest.approx((middle - reach, middle + reach))
    assert (found.effect, found.control) == pytest.approx((4, 14 / 6))
    assert found.p_value == pytest.approx(1 / 3)
    same = PairedEffect.of(effects, effects.expand(4, 3))
    assert same.interval == (0.0, 0.0)
    assert same.p_value == 1.0
    assert np.isnan(PairedEffect.of(effects, controls[:1]).interval).all()


def test_the_interval_covers_with_few_random_sets():
    """Where sets vary as inputs do, an interval over inputs alone covers too seldom."""
    generator, covered, alone = np.random.default_rng(0), [], []
    for _ in range(400):
        inputs = generator.normal(0, 1, 20)
        sets = generator.normal(0, 1, (8, 1))
        controls = sets + generator.normal(0, 1, (8, 20)) / 2
        effects = torch.tensor(inputs + 1)
        low, high = PairedEffect.of(effects, torch.tensor(controls)).interval
        covered.append(low <= 1 <= high)
        low, high = stats.ttest_rel(inputs + 1, controls.mean(0)).confidence_interval()
        alone.append(low <= 1 <= high)
    assert 0.92 <= np.mean(covered) <= 0.98
    assert np.mean(alone) < 0.85


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1000), st.integers(1, 12))
def test_matched_neurons(seed, count):
    generator = np.random.default_rng(seed)
    bank = generator.integers(0, 100, 60)
    neurons = np.sort(generator.permutation(60)[:count])
    found = matched_neurons(neurons, bank, torch.Generator().manual_seed(seed))
    assert np.array_equal(found, np.unique(found))
    assert len(found) == count
    assert not np.isin(found, neurons).any()
    # Each lies among the places next to the one it matches.
    order = np.sort(np.delete(bank, neurons))
    places = np.searchsorted(order, np.sort(bank[neurons]))
    for place, value in zip(places, np.sort(bank[found]), strict=True):
        near = order[max(0, place - 2 * count) : place + 2 * count]
        assert near.min() <= value <= near.max()


def test_matched_neurons_vary():
    bank, neurons = np.arange(50), np.array([3, 20, 40])
    drawing = torch.Generator().manual_seed(0)
    draws = [matched_neurons(neurons, bank, drawing) for _ in range(60)]
    assert len({tuple(draw) for draw in draws}) > 40
    assert np.abs(np.mean(draws, 0) - neurons).max() < 2


def test_what_is_refused(net, images):
    rdr = fitted(net, net[2], images)
    region = region_like(rdr)
    with pytest.raises(ValueError, match="n_random=0 is too small; use 1"):
        quietly(rdr, region, images, n_random=0)
    with pytest.raises(ValueError, match="rdr explains 1 layers; give an explainer of"):
        quietly(fitted(net, [net[2]], images), region, images)
    with pytest.raises(ValueError, match="rdr has no bank yet"):
        quietly(RelaxedDecisionRegion(net, net[2]), region, images)
    bare = RelaxedDecisionRegion(net, net[2]).fit(images, show_progress=False)
    with pytest.raises(ValueError, match="fit with keep_features=True"):
        quietly(bare, region, images)
    states = rdr.bank.states(torch.tensor([4]))[0]
    every = replace(region, neurons=torch.arange(144), states=states)
    with pytest.raises(ValueError, match="has 144 principal neurons, and 0 are left"):
        quietly(rdr, every, images)
    pooled = RelaxedDecisionRegion(lambda x: net(x)[:, 0], net[2], bank=rdr.bank)
    net.eval()
    with pytest.raises(ValueError, match=r"of shape \(64,\) for 64 inputs"):
        quietly(pooled, region, images)
