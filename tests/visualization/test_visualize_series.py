"""Time series of regions."""

import numpy as np
import pytest
import torch
from drawing import as_new, check_texts, strings
from matplotlib.patches import Rectangle
from torch import nn

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.pooling import spatial_mean
from captum_rdr.visualization import Reference, visualize_time_series_region


@pytest.fixture(scope="module")
def data():
    return torch.randn(40, 2, 30, generator=torch.Generator().manual_seed(0))


def fitted(data, **kwargs):
    torch.manual_seed(0)
    net = nn.Conv1d(2, 6, 5, stride=2)
    return RelaxedDecisionRegion(net, net, **kwargs).fit(data, show_progress=False)


def test_query_members_times_and_channels(data):
    rdr = fitted(data)
    region = rdr.attribute_members([3], 6, 8, weighting="evidence")[0]
    reference = Reference(data, torch.arange(40) % 2, class_names=["up", "down"])
    fig, ax = visualize_time_series_region(region, rdr, reference, use_pyplot=False)
    check_texts(fig)
    *series, bars = ax.child_axes
    n_shown = min(4, len(region.members) - 1)
    assert len(series) == 1 + n_shown
    assert "query, down" in strings(ax)
    assert bars.get_xlabel() == "channel"
    first = [line.get_ydata() for line in series[0].lines]
    assert np.allclose(first, data[3].numpy())
    times = {
        (state, index[1])
        for state, index in zip(region.states.tolist(), region.unravel(), strict=True)
    }
    spans = [patch for patch in series[0].patches if isinstance(patch, Rectangle)]
    width = 29 / 13  # of one time of the layer, on the series' axis
    shaded = {(span.get_y() > 0.25, round(span.get_x() / width)) for span in spans}
    assert shaded == times


def test_a_pooled_layer_has_no_times(data):
    rdr = fitted(data[:, :2], pool=spatial_mean)
    region = rdr.attribute_members([3], 6, 3, weighting="evidence")[0]
    new = as_new(region, rdr.bank)
    with pytest.raises(ValueError, match="does not hold the region's query; pass it"):
        visualize_time_series_region(new, rdr, data)
    _, ax = visualize_time_series_region(
        new, rdr, data, (data[3], 1), n_members=1, use_pyplot=False
    )
    assert not ax.child_axes[0].patches
    assert "query, 1" in strings(ax)
    with pytest.raises(
        ValueError, match=r"an input has shape \(1, 2, 30\); give series"
    ):
        visualize_time_series_region(new, rdr, data, data[3:4])
