"""Tests of regions against plain loops and full enumeration."""

import itertools
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import bank_of, random_states
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from captum_rdr import ConfigurationBank, Region, RelaxedDecisionRegion
from captum_rdr.axes import LayerAxes
from captum_rdr.metrics import Significance, significance
from captum_rdr.metrics import _significance as implementation
from captum_rdr.metrics._coherence import Activity, coherence
from captum_rdr.metrics._regions import rules_of
from captum_rdr.metrics._significance import (
    Judgment,
    found_anew,
    hoeffding_bound,
    judge,
    split_and_find,
)
from captum_rdr.metrics._units import split_neurons, units_of

pytestmark = pytest.mark.filterwarnings("ignore:.*fewer unanimous neurons")


def explainer(bank: ConfigurationBank) -> RelaxedDecisionRegion:
    layer = nn.Identity()
    return RelaxedDecisionRegion(layer, layer, bank=bank)


def clustered(n: int = 120, d: int = 60, flip: float = 0.1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(4, d, generator=generator) < 0.5
    return centers[torch.arange(n) % 4] ^ (torch.rand(n, d, generator=generator) < flip)


def quietly(regions, bank, **kwargs):
    tested = significance(regions, bank, show_progress=False, **kwargs)
    return [region.significance for region in tested]


def judgments(regions, bank) -> list[Judgment]:
    find = partial(found_anew, regions, rules_of(regions, bank), bank)
    split = split_and_find(regions, bank, find)
    return [judge(split, index) for index in range(len(regions))]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(4, 30), st.integers(2, 40))
def test_judgments_by_hand(seed, n, d):
    states = random_states(n, d, seed)
    new = ~states[:1]
    bank, rdr = bank_of(states), explainer(bank_of(states))
    k, t = min(n, 4), max(1, d // 4)
    regions = rdr.attribute_members([0, n - 1], k, t, show_progress=False)
    regions += rdr.attribute(new.float(), k, t)[1]
    judged = judgments(regions, bank)
    half = split_neurons(torch.Size([d]), torch.Generator().manual_seed(0), 0)
    assert int(half.sum()) == d // 2
    # A new input is none, though a half of it looks like a row.
    assume(not bool((states[:, half] == new[:, half]).all(1).any()))
    small = explainer(bank_of(states[:, half]))
    again = small.attribute_members([0, n - 1], k, min(t, d // 2), show_progress=False)
    own = regions[2].query
    again += (
        small.attribute(new[:, half].float(), k, min(t, d // 2))[1]
        if own is None
        else small.attribute_members([own], k, min(t, d // 2), show_progress=False)
    )
    for region, found, expected in zip(regions, judged, again, strict=True):
        rows = expected.neighbors.tolist()
        query = new[0] if region.query is None else states[region.query]
        is_row = expected.query is not None
        inside = [states[row].tolist() for row in rows]
        inside += [] if is_row else [query.tolist()]
        agreements, picked = [], []
        for row in range(n):
            if row in rows:
                continue
            count = 0
            for neuron in (~half).nonzero().flatten().tolist():
                votes = sum(member[neuron] for member in inside)
                state = 2 * votes > len(inside)
                if 2 * votes == len(inside):
                    state = bool(query[neuron])
                count += bool(states[row, neuron]) == state
            if row in expected.members.tolist():
                picked.append(len(agreements))
            agreements.append(count)
        assert found.agreements.tolist() == agreements
        assert found.picked.tolist() == picked


def chance_of(found: Judgment, *, more: bool = False) -> float:
    """Enumerate every set of rows: how many agree as much as the members, or more."""
    sums = np.array(
        [
            sum(picked)
            for picked in itertools.combinations(
                found.compared.tolist(), len(found.picked)
            )
        ]
    )
    return float(np.mean(sums > found.total if more else sums >= found.total))


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=9),
    st.data(),
)
def test_bound_and_effect_by_enumeration(agreements, data):
    size = data.draw(st.integers(1, len(agreements)))
    counts = np.array(agreements)
    found = Judgment(counts, counts, np.argsort(agreements)[-size:])
    drawn = data.draw(st.permutations(range(len(agreements))))[:size]
    for one in (found, replace(found, picked=np.array(drawn))):
        assert hoeffding_bound(one) >= chance_of(one) - 1e-12
        means = [np.mean(picked) for picked in itertools.combinations(agreements, size)]
        deviation = float(np.std(means))
        away = np.mean(one.agreements[one.picked]) - np.mean(agreements)
        expected = away / deviation if deviation > 1e-9 else 0.0
        assert one.effect == pytest.approx(expected, abs=1e-6)


def test_p_values_by_enumeration():
    states = clustered(n=14, d=12, flip=0.3)
    bank = bank_of(states)
    regions = explainer(bank).attribute_members(
        range(14), 3, 2, tolerance=1, show_progress=False
    )
    sampled = [one.p_value for one in quietly(regions, bank, n_permutations=4000)]
    judged = judgments(regions, bank)
    least = [chance_of(one, more=True) if len(one.picked) else 1.0 for one in judged]
    exact = [chance_of(one) if len(one.picked) else 1.0 for one in judged]
    assert np.ptp(exact) > 0.5
    for p_value, low, chance in zip(sampled, least, exact, strict=True):
        # Of sets that are as good, a share drawn at random counts.
        allowed = 5 * math.sqrt(chance * (1 - chance) / 4000) + 1 / 4000
        assert low - allowed <= p_value <= chance + allowed


def test_the_bound_is_close_in_the_tail():
    generator = np.random.default_rng(0)
    agreements = generator.binomial(100, 0.5, size=5000)
    found = Judgment(agreements, agreements, np.argsort(agreements)[-60:])
    deviations = found.effect
    normal = math.erfc(deviations / math.sqrt(2)) / 2
    bound = hoeffding_bound(found)
    assert found.effect > 15
    assert 0.5 < math.log(bound) / math.log(normal) < 1.1


def rules(n: int) -> list[dict]:
    return [
        {},
        {"tolerance": 2},
        {"weighting": "evidence", "n_neurons": 40, "tolerance": 3.0},
        {"weighting": "evidence", "n_neurons": 60, "rounds": 2, "tolerance": 3.0},
        {"neighbors": "cosine"},
        {"neighbors": torch.arange(0, n, 17)},
    ]


def test_results_do_not_depend_on_the_batch(monkeypatch):
    states = clustered()
    features = states.float() + torch.rand(120, 60)
    bank = bank_of(states, features)
    rdr = explainer(bank)
    regions: list[Region] = []
    for choices in rules(120):
        regions += rdr.attribute_members([0, 7], show_progress=False, **choices)
        regions += rdr.attribute(features[:1] + 0.01, **choices)[1]
        features[0, :5] = 0.0
        regions += rdr.attribute(features[:1], **choices)[1]

    def tested(regions):
        found = quietly(regions, bank, n_permutations=49)
        return [replace(test, adjusted_p_value=None) for test in found]

    together = tested(regions)
    assert together == [tested([region])[0] for region in regions]
    monkeypatch.setattr(implementation, "_BLOCK_BYTES", 1000)
    assert tested(regions) == together
    # Of each rule two rows and two inputs unlike any row; the last rule has an S at random.
    assert (
        np.mean([test.passed for i in range(0, 20, 4) for test in together[i : i + 2]])
        > 0.75
    )
    assert not any(test.passed for test in together[20:])


def test_noise_is_not_significant():
    p_values = []
    for seed in range(6):
        bank = bank_of(random_states(300, 80, seed))
        generator = torch.Generator().manual_seed(seed)
        regions = explainer(bank).attribute_members(
            range(10), 8, 6, tolerance=2, show_progress=False
        )
        tests = quietly(regions, bank, n_permutations=99, generator=generator)
        p_values += [test.p_value for test in tests]
    assert np.mean(np.array(p_values) <= 0.05) <= 0.12
    assert 0.3 < np.mean(p_values) < 0.7


def test_files_keep_what_a_test_needs(tmp_path):
    states = clustered()
    features = states.float() + torch.rand(120, 60)
    bank = bank_of(states, features)
    _, regions = explainer(bank).attribute(features[:2] + 0.5, neighbors="cosine")
    loaded = []
    for region in regions:
        region.save(tmp_path / "region")
        loaded.append(Region.load(tmp_path / "region"))
    assert quietly(loaded, bank) == quietly(regions, bank)


def test_a_region_without_members_outside_is_not_significant():
    states = random_states(40, 100)
    bank = bank_of(states)
    regions = explainer(bank).attribute_members(
        range(40), 8, 40, show_progress=False, tolerance=1
    )
    alone = [region for region in regions if len(region.members) == 8]
    assert alone
    for test in quietly(alone, bank):
        assert test.p_value == 1.0
        assert not test.passed
        assert not test.testable
        assert str(test).startswith("not testable: no member outside S")
    everyone = explainer(bank).attribute_members([0], 40, 1, show_progress=False)
    assert quietly(everyone, bank)[0].p_value == 1.0


def test_agreement_is_told():
    states = clustered()
    bank = bank_of(states)
    regions = explainer(bank).attribute_members([3], show_progress=False)
    (found,) = quietly(regions, bank, n_permutations=99)
    (judgment,) = judgments(regions, bank)
    agreements = judgment.agreements / 30
    assert found.agreement == pytest.approx(agreements[judgment.picked].mean())
    assert found.expected == pytest.approx(agreements.mean())
    assert 0.8 < found.agreement <= 1
    assert 0.4 < found.expected < 0.7
    assert found.n_outside == len(judgment.picked) > 5
    assert "agreement 0." in repr(found)


def test_regions_with_significance():
    found = []
    for states in (clustered(), random_states(120, 60)):
        bank = bank_of(states)
        regions = explainer(bank).attribute_members(range(120), show_progress=False)
        corrected = significance(regions, bank, level=0.1, show_progress=False)
        assert [one.members for one in corrected] == [one.members for one in regions]
        counted = [one for one in corrected if one.significance.testable]
        expected = by_definition([one.significance.p_value for one in counted])
        assert len(counted) > 60
        for one, adjusted in zip(counted, expected, strict=True):
            assert one.significance.adjusted_p_value == pytest.approx(adjusted)
            assert one.significance.level == 0.1
            said = "not significant: adjusted p=" in repr(one)
            mixed = "a mixture: coherence 0." in repr(one)
            assert (said or mixed) == (not one.significance.passed)
        found.append(np.mean([one.significance.passed for one in corrected]))
    assert found[0] > 0.9
    assert found[1] < 0.1
    assert significance([], bank) == []


def by_definition(p_values: list[float]) -> list[float]:
    """The smallest rate at which Benjamini and Hochberg reject each."""
    n, adjusted = len(p_values), []
    for p_value in p_values:
        rates = [
            q * n / sum(other <= q for other in p_values)
            for q in p_values
            if q >= p_value
        ]
        adjusted.append(min(1.0, *rates))
    return adjusted


def test_channels_are_split_whole():
    for shape, axis in (((6, 4, 4), 0), ((1, 6, 4), 1), ((7, 2), 0), ((4, 5, 8), 2)):
        drawing = torch.Generator().manual_seed(3)
        half = split_neurons(torch.Size(shape), drawing, axis).reshape(shape)
        units = half.movedim(axis, 0).flatten(1)
        assert bool((units == units[:, :1]).all())
        assert int(units[:, 0].sum()) == len(units) // 2
    assert "has a single neuron" in units_of(ConfigurationBank((1, 1))).untestable


def smooth(n: int, *shape: int, seed: int = 0) -> Tensor:
    """Noise whose channels are independent and smooth in space."""
    generator = torch.Generator().manual_seed(seed)
    channels, height, width = shape
    coarse = torch.randn(n, channels, height // 4, width // 4, generator=generator)
    return nn.functional.interpolate(coarse, size=(height, width), mode="bilinear") > 0


LAYOUTS = {  # how a layer may hold channels, height and width, and where channels are
    "first": (lambda x: x, 0),
    "last": (lambda x: x.movedim(1, -1), 2),
    "tokens": (lambda x: x.flatten(2).mT, 1),
    "flattened": (lambda x: x.flatten(1), None),
    "flattened, channels last": (lambda x: x.movedim(1, -1).flatten(1), None),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_smooth_noise_in_every_layout(layout):
    lay, axis = LAYOUTS[layout]
    p_values = []
    for seed in range(12):
        bank = bank_of(lay(smooth(400, 32, 8, 8, seed=seed)))
        regions = explainer(bank).attribute_members(range(10), show_progress=False)
        drawing = torch.Generator().manual_seed(seed)
        choices = {"n_permutations": 99, "generator": drawing}
        assumed = quietly(regions, bank, **choices)
        if axis != 0:  # what stands first in such a layer are places
            assert not any(test.testable or test.passed for test in assumed)
            assert "are alike by place; say channel_axis" in str(assumed[0])
        if axis is not None:
            drawing.manual_seed(seed)
            given = quietly(regions, bank, channel_axis=axis, **choices)
            assert f"split by axis {axis}, as given" in repr(given[0])
            p_values += [test.p_value for test in given if test.testable]
    if axis is not None:
        assert np.mean(np.array(p_values) <= 0.05) <= 0.1
        assert 0.4 < np.mean(p_values) < 0.6


def test_the_verdict_does_not_depend_on_the_layout():
    """Where the channel axis is known, in whatever way, and neurons move with it."""
    states = clustered(d=240).reshape(-1, 10, 6, 4)
    found = []
    for lay, axis in list(LAYOUTS.values())[:3]:
        bank = bank_of(lay(states))
        kinds = ["height", "width"][: len(bank.layer_shape) - 1]
        kinds.insert(axis, "channel")
        bank.axes = LayerAxes(kinds)
        regions = explainer(bank).attribute_members(
            range(9), 8, 240, weighting="evidence", tolerance=60.0, show_progress=False
        )
        tests = quietly(regions, bank)
        assert f"axis {axis}, where the layer has channels" in repr(tests[0])
        found.append([(test.p_value, test.coherence) for test in tests])
    for one in found[1:]:
        np.testing.assert_allclose(one, found[0], atol=0.02)


def test_single_channels_and_wrong_axes():
    bank = bank_of(smooth(100, 1, 16, 16))
    regions = explainer(bank).attribute_members([0], show_progress=False)
    (test,) = quietly(regions, bank, channel_axis=0)
    assert str(test) == "not testable: axis 0 has a single channel"
    (test,) = quietly(regions, bank)
    assert str(test).startswith("not testable: neurons along axis 1 are alike by place")
    with pytest.raises(
        ValueError,
        match="channel_axis=3 is more than the last axis of a layer of shape",
    ):
        quietly(regions, bank, channel_axis=3)


def test_ties_leave_p_values_uniform():
    p_values = []
    for seed in range(40):
        bank = bank_of(random_states(30, 8, seed))
        regions = explainer(bank).attribute_members(range(8), 3, 2, show_progress=False)
        drawing = torch.Generator().manual_seed(seed)
        tests = quietly(regions, bank, n_permutations=99, generator=drawing)
        p_values += [test.p_value for test in tests if test.testable]
    assert len(p_values) > 200
    assert 0.02 <= np.mean(np.array(p_values) <= 0.05) <= 0.08
    assert 0.15 <= np.mean(np.array(p_values) <= 0.2) <= 0.25


def test_overall_activity_alone_is_no_concept():
    """Rows in which hardly a neuron is active agree, and share nothing else."""
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(300, 1, generator=generator) ** 2 / 2
    bank = bank_of(torch.rand(300, 200, generator=generator) < share)
    regions = explainer(bank).attribute_members(range(60), show_progress=False)
    tests = [test for test in quietly(regions, bank) if test.testable]
    assert np.mean([test.p_value <= 0.05 for test in tests]) < 0.15
    assert np.mean([test.agreement - test.expected for test in tests]) > 0.05


@pytest.mark.parametrize("kind", ["one", "halves", "mixed S", "strays"])
def test_mixtures_are_told(kind):
    """S and members drawn from clusters as planned, in place of those that were found."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(20, 400, generator=generator) < 0.5
    states = centers.repeat_interleave(40, 0)
    states = states ^ (torch.rand(800, 400, generator=generator) < 0.2)
    bank = bank_of(states)
    half = torch.arange(400) < 200
    regions = explainer(bank).attribute_members([0], show_progress=False)
    own, other = torch.arange(40), torch.arange(40, 80)
    inside = torch.cat([own[:4], other[:4]]) if kind == "mixed S" else own[:8]
    joined = {
        "one": own[8:40],
        "halves": torch.cat([own[8:24], other[8:24]]),
        "mixed S": torch.cat([own[8:24], other[8:24]]),
        "strays": torch.cat([own[8:16], torch.arange(40, 800, 32)]),
    }[kind]
    region = replace(
        regions[0], neighbors=inside, members=torch.cat([inside, joined]).sort().values
    )
    finding, judging = bank_of(states[:, half]), bank_of(states[:, ~half])
    activity = Activity.of(judging)
    found = coherence(region, states[0, ~half], finding, judging, activity)
    low, high = {
        "one": (0.9, 1.1),
        "halves": (0.4, 0.54),
        "mixed S": (0.3, 0.54),
        "strays": (0.15, 0.4),
    }[kind]
    assert low < found < high
    test = Significance(1e-9, 9.0, len(joined), coherence=found)
    assert test.passed == (kind == "one")
    assert test.verdict == ("significant" if test.passed else "a mixture")


def test_nothing_global_is_drawn():
    bank = bank_of(clustered())
    regions = explainer(bank).attribute_members([0], show_progress=False)
    before = torch.get_rng_state()
    quietly(regions, bank, n_permutations=3)
    assert torch.get_rng_state().equal(before)


def test_what_is_refused():
    bank = bank_of(clustered())
    (region,) = explainer(bank).attribute_members([0], show_progress=False)
    with pytest.raises(ValueError, match="level=5 is no probability"):
        quietly([region], bank, level=5)
    with pytest.raises(ValueError, match="n_permutations=0 is too small; use 1"):
        quietly([region], bank, n_permutations=0)
    with pytest.raises(TypeError, match=r"n_permutations=9.5 is a float"):
        quietly([region], bank, n_permutations=9.5)
    with pytest.raises(TypeError, match="regions holds a Tensor; give a list of"):
        quietly([torch.ones(1)], bank)
    with pytest.raises(ValueError, match="region belongs to a layer of shape"):
        quietly([region], bank_of(clustered(d=61)))
    with pytest.raises(ValueError, match="does not hold the rule that made it"):
        quietly([replace(region, rule=None)], bank)
    with pytest.raises(ValueError, match="does not hold its query's states"):
        quietly([replace(region, query=None)], bank)
    features = torch.rand(120, 60)
    (near,) = explainer(bank_of(clustered(), features)).attribute_members(
        [0], neighbors="cosine", show_progress=False
    )
    packed = bank.rows[0]
    with pytest.raises(ValueError, match="does not hold its query's features"):
        quietly(
            [replace(near, query=None, query_states=packed)],
            bank_of(clustered(), features),
        )
