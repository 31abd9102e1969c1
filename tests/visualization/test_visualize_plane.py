"""The plane through three instances, against running the map at its points."""

import numpy as np
import pytest
import torch
from drawing import FAILED, outcome, shapes, strings
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.contour import ContourSet
from torch import nn

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.visualization import visualize_plane
from captum_rdr.visualization.plane import plane_picture, plane_through


def network(kind):
    """A model, the modules of its affine map and the layer behind them."""
    torch.manual_seed(1)
    if kind == "linear":
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 9)
        )
        model.append(nn.ReLU())
        return model, model[3], model[4]
    if kind == "linear's own output":
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 9)
        )
        return model, model[3], model[3]
    if kind == "linear in a block":
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU())
        model.append(nn.Sequential(nn.Linear(12, 9), nn.ReLU()))
        return model, model[3][0], model[3]
    if kind == "a ReLU before it":
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 9)
        )
        return model, model[2:], model[3]
    first = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.ReLU())
    norm = nn.BatchNorm2d(4, momentum=None)
    nn.init.uniform_(norm.weight, 0.5, 2)
    second = nn.Sequential(nn.Conv2d(3, 4, 2), norm, nn.Dropout())
    model = nn.Sequential(first, second, nn.ReLU())
    model(shapes(60))  # so that the norm has the data's mean and variance
    return model, second, model[2]


KINDS = [
    "linear",
    "linear's own output",
    "linear in a block",
    "a ReLU before it",
    "convolution",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighting", ["uniform", "evidence"])
def test_the_shaded_area_is_the_region(kind, weighting):
    """Oracle: run the rest of the map at the sampled points and ask the region."""
    data = shapes(60)
    model, affine, layer = network(kind)
    training = [module.training for module in model.modules()]
    rdr = RelaxedDecisionRegion(model, layer).fit(data, show_progress=False)
    region = rdr.attribute_members([4], 6, 5, weighting=weighting)[0]
    anchors = data[[4, 5, 17]]
    picture = plane_picture(region, rdr, anchors, affine)
    assert [module.training for module in model.modules()] == training

    model.eval()
    with torch.no_grad():
        starts = {"convolution": 1, "a ReLU before it": 2}
        body = list(model)[: starts.get(kind, 3)]
        features = nn.Sequential(*body)(anchors)
        rest = affine.double()
        xs, ys = np.meshgrid(picture.xs, picture.ys)
        some = np.random.default_rng(0).choice(xs.size, 3000, replace=False)
        points = np.stack([xs.ravel(), ys.ravel()], 1)[some]
        flat = features.flatten(1).double().numpy()
        inputs = torch.from_numpy(flat[0] + points @ plane_through(flat))
        margins = rest(inputs.reshape(-1, *features.shape[1:])).flatten(1)
        own = rest(features[:1].double()).flatten(1) > 0
    clear = (margins.abs() > 1e-5).all(1).numpy()  # not on a line, but for rounding
    assert clear.mean() > 0.9
    inside = region.contains(margins > 0).numpy()
    assert 0 < inside.sum() < len(inside)
    assert (picture.inside.ravel()[some] == inside)[clear].all()
    away = ((margins > 0) != own).sum(1).numpy()
    assert (picture.distances.ravel()[some] == away)[clear].all()
    drawn = picture.margins.reshape(len(region.neurons), -1)[:, some]
    assert np.allclose(drawn.T, margins[:, region.neurons].numpy(), atol=1e-4)
    rest.float()


def test_anchors_are_where_their_features_are():
    data = shapes(60)
    model, affine, layer = network("linear")
    rdr = RelaxedDecisionRegion(model, layer).fit(data, show_progress=False)
    region = rdr.attribute_members([4], 6, 5)[0]
    picture = plane_picture(region, rdr, data[[4, 5, 17]], affine)
    with torch.no_grad():
        features = model[:3](data[[4, 5, 17]]).double().numpy()
    points = features[0] + picture.anchors @ plane_through(features)
    assert np.allclose(points, features, atol=1e-6)


@given(st.integers(2, 6), st.integers(0, 1000))
@settings(max_examples=25)
def test_a_plane_keeps_distances(n_features, seed):
    points = np.random.default_rng(seed).standard_normal((3, n_features))
    axes = plane_through(points)
    assert np.allclose(axes @ axes.T, np.eye(2))
    at = (points - points[0]) @ axes.T
    assert np.allclose(points[0] + at @ axes, points)
    for i in range(3):
        away = np.linalg.norm(points - points[i], axis=1)
        assert np.allclose(np.linalg.norm(at - at[i], axis=1), away)


def test_the_figure_says_what_it_shows():
    data = shapes(60)
    model, affine, layer = network("linear")
    both = RelaxedDecisionRegion(model, [model[2], layer]).fit(
        data, show_progress=False
    )
    region = outcome(both.attribute_members([4], 6, 5)[1][0], FAILED)
    _, ax = visualize_plane(
        region, both, data[[4, 5, 17]], module=affine, use_pyplot=False
    )
    drawn = ax.child_axes[0]
    lines = drawn.findobj(ContourSet)
    picture = plane_picture(region, both, data[[4, 5, 17]], affine)
    text = " ".join(strings(ax))
    assert "Not significant: p=0.3" in text
    assert drawn.get_xlim() == (picture.xs[0], picture.xs[-1])
    field, shade = drawn.images
    assert (field.get_array() == picture.distances).all()
    assert ((shade.get_array()[..., 3] > 0) == picture.inside).all()
    bar = ax.child_axes[1]
    assert bar.get_ylabel() == "configuration distance from the first anchor"
    crossed = [one for one in picture.margins if one.min() < 0 < one.max()]
    step = np.diff(picture.xs)[0]
    for line, margins in zip(lines, crossed, strict=True):
        steepest = max(np.abs(np.diff(margins, axis=axis)).max() for axis in (0, 1))
        ends = np.concatenate([path.vertices for path in line.get_paths()])
        columns = ((ends[:, 0] - picture.xs[0]) / step).round().astype(int)
        rows = ((ends[:, 1] - picture.ys[0]) / step).round().astype(int)
        assert np.abs(margins[rows, columns]).max() <= steepest


def test_modules_that_do_not_make_the_layer():
    data = shapes(60)
    model, affine, layer = network("linear")
    rdr = RelaxedDecisionRegion(model, layer).fit(data, show_progress=False)
    region = rdr.attribute_members([4], 6, 5)[0]
    anchors = data[[4, 5, 17]]
    with pytest.raises(ValueError, match=r"module gives 12 values .* has 9 neurons"):
        visualize_plane(region, rdr, anchors, module=model[1])
    with pytest.raises(
        ValueError, match=r"anchors is \(2, 1, 8, 8\); give a tensor of th"
    ):
        visualize_plane(region, rdr, anchors[:2], module=affine)
    with pytest.raises(ValueError, match="features of the three anchors lie on a line"):
        visualize_plane(region, rdr, data[[4, 4, 17]], module=affine)

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.relu = nn.Linear(64, 64), nn.ReLU()

        def forward(self, x):
            return self.relu(self.linear(x.flatten(1)) + x.flatten(1))

    block = Residual()
    rdr = RelaxedDecisionRegion(block, block.relu).fit(data, show_progress=False)
    region = rdr.attribute_members([4], 4, 3)[0]
    with pytest.raises(ValueError, match="does not give the states of the region's"):
        visualize_plane(region, rdr, anchors, module=block.linear)


def test_negative_thresholds_behind_a_relu_are_no_half_plane():
    data = shapes(60)
    model, affine, layer = network("linear")
    rdr = RelaxedDecisionRegion(model, layer, threshold=-0.1)
    region = rdr.fit(data, show_progress=False).attribute_members([4], 2, 1)[0]
    with pytest.raises(ValueError, match="thresholds of 0 or more"):
        visualize_plane(region, rdr, data[[4, 5, 17]], module=affine)
    before = RelaxedDecisionRegion(model, affine, threshold=-0.1)
    region = before.fit(data, show_progress=False).attribute_members([4], 2, 1)[0]
    visualize_plane(region, before, data[[4, 5, 17]], module=affine, use_pyplot=False)
