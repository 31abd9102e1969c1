"""The plane through three instances, against running the map at its points."""

import numpy as np
import pytest
import torch
from drawing import FAILED, outcome, shapes, strings
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.visualization import visualize_plane
from captum_rdr.visualization.affine import (
    affine_modules,
    plane_picture,
    plane_through,
)


def network(kind):
    """A model, the modules of its affine map and the layer behind them."""
    torch.manual_seed(1)
    if kind == "linear":
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 9)
        )
        model.append(nn.ReLU())
        return model, [model[3]], model[4]
    if kind == "linear's own output":
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 9)
        )
        return model, model[3], model[3]
    if kind == "linear in a block":
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU())
        model.append(nn.Sequential(nn.Linear(12, 9), nn.ReLU()))
        return model, model[3][0], model[3]
    first = nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.ReLU())
    norm = nn.BatchNorm2d(4, momentum=None)
    nn.init.uniform_(norm.weight, 0.5, 2)
    second = nn.Sequential(nn.Conv2d(3, 4, 2), norm, nn.Dropout())
    model = nn.Sequential(first, second, nn.ReLU())
    model(shapes(60))  # so that the norm has the data's mean and variance
    return model, second, model[2]


def points_at(plane, coordinates):
    """The points of the feature space at coordinates in a plane."""
    return plane.origin + coordinates @ plane.axes


KINDS = ["linear", "linear's own output", "linear in a block", "convolution"]


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
    picture = plane_picture(region, rdr, affine, anchors, data[20:50])
    assert [module.training for module in model.modules()] == training

    model.eval()
    modules = affine_modules(affine)
    with torch.no_grad():
        body = list(model)[: 3 if kind.startswith("linear") else 1]
        features = nn.Sequential(*body)(anchors)
        rest = nn.Sequential(*modules).double()
        xs, ys = np.meshgrid(picture.xs, picture.ys)
        some = np.random.default_rng(0).choice(xs.size, 3000, replace=False)
        points = np.stack([xs.ravel(), ys.ravel()], 1)[some]
        inputs = torch.from_numpy(points_at(picture.plane, points))
        margins = rest(inputs.reshape(-1, *features.shape[1:])).flatten(1)
        own = rest(features[:1].double()).flatten(1) > 0
    clear = (margins.abs() > 1e-5).all(1).numpy()  # not on a line, but for rounding
    assert clear.mean() > 0.9
    inside = region.contains(margins > 0).numpy()
    assert 0 < inside.sum() < len(inside)
    assert (picture.inside.ravel()[some] == inside)[clear].all()
    away = ((margins > 0) != own).sum(1).numpy()
    assert (picture.distances.ravel()[some] == away)[clear].all()
    lines = np.concatenate([points, np.ones((len(points), 1))], 1) @ picture.lines.T
    assert np.allclose(lines, margins[:, region.neurons].numpy(), atol=1e-4)
    rest.float()
    assert picture.members.tolist() == [
        row in region.members.tolist() for row in range(20, 50)
    ]


def test_anchors_are_where_their_features_are():
    data = shapes(60)
    model, affine, layer = network("linear")
    rdr = RelaxedDecisionRegion(model, layer).fit(data, show_progress=False)
    region = rdr.attribute_members([4], 6, 5)[0]
    plane = plane_picture(region, rdr, affine, data[[4, 5, 17]]).plane
    with torch.no_grad():
        features = model[:3](data[[4, 5, 17]]).double().numpy()
    assert np.allclose(points_at(plane, plane.anchors), features, atol=1e-6)
    assert np.allclose(plane.project(features), plane.anchors, atol=1e-6)


@given(st.integers(2, 6), st.integers(0, 1000))
@settings(max_examples=25)
def test_a_plane_keeps_distances(n_features, seed):
    points = np.random.default_rng(seed).standard_normal((3, n_features))
    plane = plane_through(points)
    assert np.allclose(plane.axes @ plane.axes.T, np.eye(2))
    assert np.allclose(points_at(plane, plane.anchors), points)
    for i in range(3):
        away = np.linalg.norm(points - points[i], axis=1)
        assert np.allclose(
            np.linalg.norm(plane.anchors - plane.anchors[i], axis=1), away
        )


def test_the_figure_says_what_it_shows():
    data = shapes(60)
    model, affine, layer = network("linear")
    both = RelaxedDecisionRegion(model, [model[2], layer]).fit(
        data, show_progress=False
    )
    region = outcome(both.attribute_members([4], 6, 5)[1][0], FAILED)
    _, ax = visualize_plane(
        region, both, affine, data[[4, 5, 17]], data[20:50], use_pyplot=False
    )
    drawn = ax.child_axes[0]
    lines = [line for line in drawn.lines if line.get_label() != "zero"]
    picture = plane_picture(region, both, affine, data[[4, 5, 17]], data[20:50])
    text = " ".join(strings(ax))
    assert f"{len(lines)} of {len(picture.lines)} zero lines cross this view." in text
    assert "of 30 other instances project into it." in text
    assert "Not significant: p=0.3" in text
    assert drawn.get_xlim() == (picture.xs[0], picture.xs[-1])
    field, shade = drawn.images
    assert (field.get_array() == picture.distances).all()
    assert ((shade.get_array()[..., 3] > 0) == picture.inside).all()
    for line, (a, b, c) in zip(
        lines, [one for one in picture.lines if crosses(one, picture)], strict=True
    ):
        x, y = line.get_xy1()
        assert abs(a * x + b * y + c) < 1e-9


def crosses(line, picture):
    x, y = np.meshgrid(picture.xs[[0, -1]], picture.ys[[0, -1]])
    values = line[0] * x + line[1] * y + line[2]
    return values.min() < 0 < values.max()


def test_layers_that_are_no_affine_map():
    data = shapes(60)
    model, affine, layer = network("linear")
    rdr = RelaxedDecisionRegion(model, layer).fit(data, show_progress=False)
    region = rdr.attribute_members([4], 6, 5)[0]
    anchors = data[[4, 5, 17]]
    with pytest.raises(ValueError, match=r"affine holds ReLU.*linear layers and"):
        visualize_plane(region, rdr, [model[2], *affine], anchors)
    with pytest.raises(ValueError, match="affine holds no module"):
        visualize_plane(region, rdr, [], anchors)
    with pytest.raises(TypeError, match="affine is a str; give the module"):
        visualize_plane(region, rdr, "linear", anchors)
    with pytest.raises(ValueError, match=r"affine gives 12 values .* has 9 neurons"):
        visualize_plane(region, rdr, model[1], anchors)
    with pytest.raises(
        ValueError, match=r"anchors is \(2, 1, 8, 8\); give a tensor of th"
    ):
        visualize_plane(region, rdr, affine, anchors[:2])
    with pytest.raises(ValueError, match="features of the three anchors lie on a line"):
        visualize_plane(region, rdr, affine, data[[4, 4, 17]])

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.relu = nn.Linear(64, 64), nn.ReLU()

        def forward(self, x):
            return self.relu(self.linear(x.flatten(1)) + x.flatten(1))

    block = Residual()
    rdr = RelaxedDecisionRegion(block, block.relu).fit(data, show_progress=False)
    region = rdr.attribute_members([4], 4, 3)[0]
    with pytest.raises(
        ValueError, match="states of layer ReLU are not those of the aff"
    ):
        visualize_plane(region, rdr, block.linear, anchors)


def test_negative_thresholds_behind_a_relu_are_no_half_plane():
    data = shapes(60)
    model, affine, layer = network("linear")
    rdr = RelaxedDecisionRegion(model, layer, threshold=-0.1)
    region = rdr.fit(data, show_progress=False).attribute_members([4], 2, 1)[0]
    with pytest.raises(ValueError, match="thresholds of 0 or more"):
        visualize_plane(region, rdr, affine, data[[4, 5, 17]])
    before = RelaxedDecisionRegion(model, affine[0], threshold=-0.1)
    region = before.fit(data, show_progress=False).attribute_members([4], 2, 1)[0]
    visualize_plane(region, before, affine, data[[4, 5, 17]], use_pyplot=False)
