"""Where the principal neurons sit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_states
from drawing import FAILED, check_texts, draw, outcome, strings
from torch import nn

from captum_rdr import ConfigurationBank, Region, RelaxedDecisionRegion
from captum_rdr.axes import LayerAxes
from captum_rdr.visualization import visualize_principal_neurons
from captum_rdr.visualization.neurons import bank_axes, neuron_layout
from captum_rdr.visualization.sheet import SIGNED


def setting(shape, count=12, axes=None) -> tuple[Region, RelaxedDecisionRegion]:
    bank = ConfigurationBank(shape)
    bank.append(random_states(60, bank.n_neurons))
    if axes is not None:
        bank.axes = axes
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank)
    return rdr.attribute_members([7], 5, count, weighting="evidence")[0], rdr


def summed(region, state, axis):
    """Scores of the neurons with a state by one or two coordinates, the plain way."""
    total = {}
    neurons = zip(
        region.unravel(), region.states.tolist(), region.scores.tolist(), strict=True
    )
    for index, its_state, score in neurons:
        if its_state == state:
            key = tuple(index[i] for i in axis)
            total[key] = total.get(key, 0.0) + score
    return total


def as_dict(values, offset=0):
    return {
        tuple(int(i) + offset for i in index): values[tuple(index)]
        for index in np.argwhere(values)
    }


def test_channels_and_places():
    region, rdr = setting((5, 3, 4))
    places, bars = neuron_layout(region, bank_axes(rdr.bank))
    assert as_dict(places[0]) == pytest.approx(summed(region, True, (1, 2)))
    assert as_dict(places[1]) == pytest.approx(summed(region, False, (1, 2)))
    assert as_dict(bars["channel"][0]) == pytest.approx(summed(region, True, (0,)))
    assert as_dict(bars["channel"][1]) == pytest.approx(summed(region, False, (0,)))
    assert list(bars) == ["channel"]


@pytest.mark.parametrize(
    ("n_tokens", "n_prefix", "expected"),
    [
        (10, None, (3, 3)),  # a class token before a square
        (9, None, (3, 3)),
        (11, 2, (3, 3)),  # a class token and a register
        (12, 0, (3, 4)),
        (17, 5, (3, 4)),  # an image that is not square
    ],
)
def test_tokens(n_tokens, n_prefix, expected):
    axes = None if n_prefix is None else LayerAxes("token channel", n_prefix)
    region, rdr = setting((n_tokens, 6), axes=axes)
    places, bars = neuron_layout(region, bank_axes(rdr.bank), 0.75)
    assert places.shape == (2, *expected)
    n_prefix = n_tokens - expected[0] * expected[1]
    name = {0: "", 1: "class token"}.get(n_prefix, "other token")
    prefix = bars.get(name, np.zeros((2, 0)))
    assert prefix.shape == (2, n_prefix)
    for state, sums, grid in zip((True, False), prefix, places, strict=True):
        tokens = np.concatenate([sums, grid.reshape(-1)])
        assert as_dict(tokens) == pytest.approx(summed(region, state, (0,)))
    fig, ax = visualize_principal_neurons(region, rdr, use_pyplot=False)
    check_texts(fig)
    assert (f"score by {name}" in strings(ax)) == (n_prefix > 0)


def test_tokens_without_a_grid_are_bars():
    region, rdr = setting((7, 6))
    places, bars = neuron_layout(region, bank_axes(rdr.bank))
    assert places is None
    assert as_dict(bars["token"][0]) == pytest.approx(summed(region, True, (0,)))
    fig, ax = visualize_principal_neurons(region, rdr, use_pyplot=False)
    check_texts(fig)
    assert "score by token" in strings(ax)


def test_channels_that_come_last():
    region, rdr = setting((3, 4, 5), axes=LayerAxes("height width channel"))
    places, bars = neuron_layout(region, bank_axes(rdr.bank))
    assert as_dict(places[0]) == pytest.approx(summed(region, True, (0, 1)))
    assert as_dict(bars["channel"][1]) == pytest.approx(summed(region, False, (2,)))


def test_times_are_no_places():
    region, rdr = setting((5, 12), axes=LayerAxes("channel time"))
    places, bars = neuron_layout(region, bank_axes(rdr.bank))
    assert places is None
    assert list(bars) == ["channel", "time"]
    assert as_dict(bars["time"][1]) == pytest.approx(summed(region, False, (1,)))
    _, ax = visualize_principal_neurons(region, rdr, use_pyplot=False)
    assert {"score by time", "score by channel"} <= set(strings(ax))


def test_the_first_neurons_are_shown_by_what_they_respond_to():
    torch.manual_seed(0)
    data = torch.rand(25, 3, 12, 18)
    net = nn.Conv2d(3, 4, 6, stride=6)
    rdr = RelaxedDecisionRegion(net, net)
    rdr.fit(data, keep_features=True, show_progress=False)
    region = rdr.attribute_members([7], 5, 6, weighting="evidence")[0]
    _, ax = visualize_principal_neurons(
        region, rdr, data, n_neurons=1, use_pyplot=False
    )
    first = int(region.scores.argmax())
    channel, y, x = region.unravel()[first]
    values = net(data).detach()[:, channel, y, x]
    order = values.argsort(descending=True, stable=True)
    order = order[values[order] > 0][:8]
    drawn = [child for child in ax.child_axes if child.images][-len(order) :]
    wanted = [f"{value:.3g}" for value in values[order].tolist()]
    assert [text for text in strings(ax) if text in wanted] == wanted
    state = "active" if region.states[first] else "inactive"
    said = f"Channel {channel}, height {y}, width {x}, must be {state}; most active in:"
    assert said in strings(ax)
    for child, row in zip(drawn, order.tolist(), strict=True):
        crop = np.asarray(child.images[0].get_array())
        image = data[row].permute(1, 2, 0).numpy()
        windows = np.lib.stride_tricks.sliding_window_view(image, crop.shape)
        assert (np.abs(windows[..., 0, :, :, :] - crop) < 1e-6).all((-3, -2, -1)).any()


def test_no_panel_for_an_empty_map():
    region, rdr = setting((5, 3, 3), count=4)
    active = replace(region, states=torch.ones(len(region.neurons), dtype=torch.bool))
    _, ax = visualize_principal_neurons(active, rdr, use_pyplot=False)
    assert "must be active" in strings(ax)
    assert "must be inactive" not in strings(ax)
    assert len(ax.child_axes) == 2
    pooled, rdr = setting((6, 1, 1), count=4)  # one place would be of solid color
    _, ax = visualize_principal_neurons(pooled, rdr, use_pyplot=False)
    assert len(ax.child_axes) == 1


def test_vectors_have_no_map():
    region, rdr = setting((40,))
    places, bars = neuron_layout(region, bank_axes(rdr.bank))
    assert places is None
    assert as_dict(bars["neuron"][0]) == pytest.approx(summed(region, True, (0,)))
    _, ax = visualize_principal_neurons(region, rdr, use_pyplot=False)
    (panel,) = ax.child_axes
    assert [len(one.get_segments()) for one in panel.collections] == [12, 12]
    assert panel.get_xlabel() == "neuron"


def test_maps_show_the_sums_at_the_places_of_the_layer():
    region, rdr = setting((5, 4, 4))
    places, bars = neuron_layout(region, bank_axes(rdr.bank))
    _, ax = visualize_principal_neurons(region, rdr, use_pyplot=False)
    active, inactive, panel = ax.child_axes
    largest = places.max()
    for child, values, sign in (
        (active, places[0], 1),
        (inactive, places[1], -1),
    ):
        drawn = np.asarray(child.images[-1].get_array())
        expected = SIGNED(0.5 + sign * 0.5 * values / largest)
        assert np.allclose(drawn[..., :3], expected[..., :3])
        assert ((drawn[..., 3] > 0) == (values > 0)).all()
    heights = [[line[1, 1] for line in one.get_segments()] for one in panel.collections]
    used = np.flatnonzero(bars["channel"].sum(0))
    assert np.allclose(heights[0], bars["channel"][0, used])
    assert np.allclose(heights[1], -bars["channel"][1, used])
    assert [tick.get_text() for tick in panel.get_xticklabels()] == [
        str(c) for c in used
    ]


def test_the_overlay_lies_over_the_image():
    region, rdr = setting((5, 4, 4))
    places, _bars = neuron_layout(region, bank_axes(rdr.bank))
    image = torch.rand(3, 12, 12)
    before = image.clone()
    _, ax = visualize_principal_neurons(region, rdr, None, image, use_pyplot=False)
    picture, overlay = ax.child_axes[0].images
    assert picture.get_array().shape == (12, 12, 3)
    opaque = np.asarray(overlay.get_array())[..., 3] > 0
    assert (opaque == (places[0] > 0)).all()
    assert overlay.get_extent() == [-0.5, 11.5, 11.5, -0.5] == picture.get_extent()
    assert image.equal(before)


def test_many_channels_keep_their_places():
    _, ax = visualize_principal_neurons(
        *setting((64, 2, 2), count=256), use_pyplot=False
    )
    bars = ax.child_axes[2]
    assert bars.get_xlim() == (-0.7, 63.7)


def test_thousands_of_neurons_are_lines():
    region, rdr = setting((3000,), count=3000)
    _places, bars = neuron_layout(region, bank_axes(rdr.bank))
    _, ax = visualize_principal_neurons(region, rdr, use_pyplot=False)
    (panel,) = ax.child_axes
    active, inactive = panel.collections
    used = np.flatnonzero(bars["neuron"].sum(0))
    for lines, heights in (
        (active, bars["neuron"][0]),
        (inactive, -bars["neuron"][1]),
    ):
        drawn = np.array([line[1] for line in lines.get_segments()])
        assert np.allclose(drawn, np.stack([used, heights[used]], 1))


def test_regions_of_one_kind_of_neuron():
    """Neither map nor bars need both active and inactive neurons."""
    region, rdr = setting((5, 3, 3), count=4)
    for state in (True, False):
        uniform = replace(region, states=torch.full((len(region.neurons),), state))
        fig, ax = visualize_principal_neurons(uniform, rdr, use_pyplot=False)
        draw(fig)
        number = f"({4 * state} active, {4 * (not state)} inactive)"
        assert number in strings(ax)[0]


def test_a_failed_test_is_said():
    region, rdr = setting((9,), 3)
    region = outcome(region, FAILED)
    _, ax = visualize_principal_neurons(region, rdr, use_pyplot=False)
    assert any(text.startswith("Not significant: p=0.3") for text in strings(ax))
