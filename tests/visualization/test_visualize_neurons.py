"""Where the principal neurons sit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import random_states
from drawing import FAILED, check_texts, draw, outcome, strings
from torch import nn

from captum_rdr import ConfigurationBank, Region, RelaxedDecisionRegion
from captum_rdr.visualization import visualize_principal_neurons
from captum_rdr.visualization.neurons import neuron_layout


def region_of(shape, count=12, weighting="evidence") -> Region:
    bank = ConfigurationBank(shape)
    bank.append(random_states(60, bank.n_neurons))
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank)
    return rdr.attribute_members([7], 5, count, weighting=weighting)[0]


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
    region = region_of((5, 3, 4))
    layout = neuron_layout(region)
    assert as_dict(layout.places[0]) == pytest.approx(summed(region, True, (1, 2)))
    assert as_dict(layout.places[1]) == pytest.approx(summed(region, False, (1, 2)))
    assert as_dict(layout.channels[0]) == pytest.approx(summed(region, True, (0,)))
    assert as_dict(layout.channels[1]) == pytest.approx(summed(region, False, (0,)))
    assert layout.unit == "channel"


@pytest.mark.parametrize(
    ("n_tokens", "grid", "expected"),
    [
        (10, None, (3, 3)),  # a class token before a square
        (9, None, (3, 3)),
        (7, None, (1, 7)),
        (11, (3, 3), (3, 3)),  # a class token and a register
        (12, (3, 4), (3, 4)),
        (2, None, (1, 2)),
    ],
)
def test_tokens(n_tokens, grid, expected):
    region = region_of((n_tokens, 6))
    layout = neuron_layout(region, grid)
    assert layout.places.shape == (2, *expected)
    n_prefix = n_tokens - expected[0] * expected[1]
    assert layout.prefix.shape == (2, n_prefix)
    for sums, places, state in (
        (layout.prefix[0], layout.places[0], True),
        (layout.prefix[1], layout.places[1], False),
    ):
        tokens = np.concatenate([sums, places.reshape(-1)])
        assert as_dict(tokens) == pytest.approx(summed(region, state, (0,)))
    fig, ax = visualize_principal_neurons(region, grid=grid, use_pyplot=False)
    check_texts(fig)
    labels = {1: "class\ntoken", 2: "other\ntokens"}
    assert (labels.get(n_prefix) in strings(ax)) == (n_prefix > 0)


def test_vectors_have_no_map():
    region = region_of((40,))
    layout = neuron_layout(region)
    assert layout.places is None
    assert as_dict(layout.channels[0]) == pytest.approx(summed(region, True, (0,)))
    _, ax = visualize_principal_neurons(region, use_pyplot=False)
    (bars,) = ax.child_axes
    assert len(bars.patches) == 2 * 12
    assert bars.get_xlabel() == "neuron"
    with pytest.raises(ValueError, match=r"grid=\(4, 10\) is for tokens"):
        visualize_principal_neurons(region, grid=(4, 10))


def test_maps_show_the_sums_at_the_places_of_the_layer():
    region = region_of((5, 4, 4))
    layout = neuron_layout(region)
    _, ax = visualize_principal_neurons(region, use_pyplot=False, cmap="PuOr")
    active, inactive, bars = ax.child_axes
    largest = layout.places.max()
    for child, values, sign in (
        (active, layout.places[0], 1),
        (inactive, layout.places[1], -1),
    ):
        drawn = np.asarray(child.images[0].get_array())
        import matplotlib

        expected = matplotlib.colormaps["PuOr"](0.5 + sign * 0.5 * values / largest)
        assert np.allclose(drawn, expected)
    heights = [bar.get_height() for bar in bars.patches]
    used = np.flatnonzero(layout.channels.sum(0))
    assert np.allclose(heights[: len(used)], layout.channels[0, used])
    assert np.allclose(heights[len(used) :], -layout.channels[1, used])
    assert [tick.get_text() for tick in bars.get_xticklabels()] == [
        str(c) for c in used
    ]


def test_the_overlay_lies_over_the_image():
    region = region_of((5, 4, 4))
    layout = neuron_layout(region)
    image = torch.rand(3, 12, 12)
    before = image.clone()
    _, ax = visualize_principal_neurons(region, image, use_pyplot=False)
    picture, overlay = ax.child_axes[0].images
    assert picture.get_array().shape == (12, 12, 3)
    opaque = np.asarray(overlay.get_array())[..., 3] > 0
    assert (opaque == np.kron(layout.places[0] > 0, np.ones((3, 3))).astype(bool)).all()
    assert image.equal(before)


def test_many_channels_keep_their_places():
    _, ax = visualize_principal_neurons(
        region_of((64, 2, 2), count=256), use_pyplot=False
    )
    bars = ax.child_axes[2]
    assert bars.get_xlim() == (-0.7, 63.7)


def test_thousands_of_neurons_are_lines():
    region = region_of((3000,), count=3000)
    layout = neuron_layout(region)
    _, ax = visualize_principal_neurons(region, use_pyplot=False)
    (bars,) = ax.child_axes
    active, inactive = bars.collections
    used = np.flatnonzero(layout.channels.sum(0))
    for lines, heights in (
        (active, layout.channels[0]),
        (inactive, -layout.channels[1]),
    ):
        drawn = np.array([line[1] for line in lines.get_segments()])
        assert np.allclose(drawn, np.stack([used, heights[used]], 1))


def test_regions_of_one_kind_of_neuron():
    """Neither map nor bars need both active and inactive neurons."""
    region = region_of((5, 3, 3), count=4)
    for state in (True, False):
        uniform = replace(region, states=torch.full((len(region.neurons),), state))
        fig, ax = visualize_principal_neurons(uniform, use_pyplot=False)
        draw(fig)
        number = f"({4 * state} active, {4 * (not state)} inactive)"
        assert number in strings(ax)[0]


def test_small_axes_put_the_bars_below():
    _, ax = visualize_principal_neurons(
        region_of((5, 3, 3)), use_pyplot=False, fig_size=(2.5, 3.5)
    )
    maps, _, bars = (child.get_position() for child in ax.child_axes)
    assert bars.y1 < maps.y0


def test_a_failed_test_is_said():
    region = outcome(region_of((9,), 3), FAILED)
    _, ax = visualize_principal_neurons(region, use_pyplot=False)
    assert any(text.startswith("Not significant: p=0.3") for text in strings(ax))


def test_what_cannot_be_laid_out():
    with pytest.raises(ValueError, match=r"shape \(2, 3, 2, 2\); only channels with"):
        visualize_principal_neurons(region_of((2, 3, 2, 2)))
    with pytest.raises(ValueError, match=r"grid=\(3, 3\) holds 9 tokens, .* has 8"):
        visualize_principal_neurons(region_of((8, 3)), grid=(3, 3))
    with pytest.raises(ValueError, match=r"grid=\(0, 3\) holds 0 tokens"):
        visualize_principal_neurons(region_of((8, 3)), grid=(0, 3))
