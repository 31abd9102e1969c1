"""The map of a bank."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from conftest import bank_of, random_states
from drawing import FAILED, outcome, strings
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from torch import nn

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.visualization import Reference, visualize_bank
from captum_rdr.visualization import bank as maps
from captum_rdr.visualization.bank import MARKS, convex_hull, principal_components
from captum_rdr.visualization.sheet import BLUE, ORANGE


def mapped(n=80, d=30):
    """A bank with two clusters, and regions of it."""
    states = random_states(n, d)
    states[: n // 2, : d // 2] = True
    bank = bank_of(states)
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank)
    return bank, rdr.attribute_members([0, n - 1], 5, 3, weighting="evidence")


@pytest.mark.parametrize("block", [1 << 24, 200])
def test_components_are_those_of_a_singular_value_decomposition(block, monkeypatch):
    monkeypatch.setattr(maps, "_BLOCK", block)
    bank, _ = mapped()
    points, shares = principal_components(bank)
    states = bank.states().double().numpy()
    centered = states - states.mean(0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    for number in range(2):
        expected = u[:, number] * s[number]
        expected *= np.sign(expected[np.abs(expected).argmax()])
        assert np.abs(points[:, number] - expected).max() < 0.05
        assert shares[number] == pytest.approx(s[number] ** 2 / (s**2).sum(), rel=1e-3)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_components_of_few_or_equal_rows(n):
    points, shares = principal_components(bank_of(random_states(n, 3)))
    assert points.shape == (n, 2)
    assert np.isfinite(points).all()
    assert 0 <= shares.sum() <= 1 + 1e-6
    alike = bank_of(torch.ones(6, 4, dtype=torch.bool))
    points, shares = principal_components(alike)
    assert np.abs(points).max() < 1e-6
    assert shares.tolist() == [0, 0]


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), max_size=12))
@settings(max_examples=60)
def test_a_convex_hull_holds_all_points_and_needs_its_corners(pairs):
    points = np.array(pairs, float).reshape(-1, 2)
    hull, area = convex_hull(points)
    assert {tuple(corner) for corner in hull} <= {tuple(point) for point in points}
    if len(hull) < 3:
        return
    x, y = hull.T
    assert area == pytest.approx((x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
    for start, end in zip(hull, np.roll(hull, -1, 0), strict=True):
        side = end - start
        left = side[0] * (points[:, 1] - start[1]) - side[1] * (points[:, 0] - start[0])
        assert (left >= 0).all()
        corner = (points == start).all(1)
        assert corner.any()


def test_the_map_shows_every_row_and_outlines_regions():
    bank, regions = mapped()
    labels = [index % 3 - 1 for index in range(80)]
    _, ax = visualize_bank(
        [regions[0], outcome(regions[1], FAILED)],
        bank,
        Reference((), labels, class_names=["cat", "dog"]),
        use_pyplot=False,
        title="Map",
    )
    texts = strings(ax)
    assert "All 80 instances of the bank. Outlined: 2 of 2 regions." in texts
    for name in ("cat", "dog", "?", "row 0", "row 79 (n.s.)"):
        assert name in texts
    (drawn,) = ax.child_axes
    points, _ = principal_components(bank)
    clouds = [collection.get_offsets() for collection in drawn.collections]
    assert sum(len(cloud) for cloud in clouds[:3]) == 80
    together = np.concatenate(clouds[:3])
    assert np.allclose(sorted(together.tolist()), sorted(points.tolist()))
    for line, cloud, region in zip(drawn.patches, clouds[3:], regions, strict=True):
        members = points[region.members.numpy()]
        assert np.allclose(sorted(cloud.tolist()), sorted(members.tolist()))
        assert np.allclose(line.get_xy()[:-1], convex_hull(members)[0])


def test_what_covers_most_of_the_map_is_not_outlined():
    bank, regions = mapped()
    wide = replace(regions[0], members=torch.arange(80))
    _, ax = visualize_bank([wide, regions[1]], bank, use_pyplot=False)
    assert (
        "All 80 instances of the bank. Outlined: 1 of 2 regions. Not outlined, since"
        in " ".join(strings(ax))
    )
    assert len(ax.child_axes[0].patches) == 1
    assert "row 79" in strings(ax)


MACHADO = [  # deuteranopia, Machado, Oliveira and Fernandes 2009, of linear RGB
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
]


def seen(color, matrix):
    """CIELAB coordinates of a color, seen with other eyes."""
    values = np.array(to_rgb(color))
    linear = np.where(
        values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4
    )
    to_xyz = [
        [0.4124, 0.3576, 0.1805],
        [0.2126, 0.7152, 0.0722],
        [0.0193, 0.1192, 0.9505],
    ]
    xyz = to_xyz @ np.clip(matrix @ linear, 0, 1) / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize(
    "matrix", [np.eye(3), np.array(MACHADO)], ids=["all", "deutan"]
)
def test_colors_differ_for_everyone(matrix):
    """Twenty units of CIELAB, ten times what is just seen, or another sign."""
    assert len(MARKS) >= 10
    for (one, sign), (other, its_sign) in combinations(MARKS, 2):
        apart = np.linalg.norm(seen(one, matrix) - seen(other, matrix))
        assert apart > 20 or sign != its_sign
    for pair in ((BLUE, ORANGE), ("#009E73", "white"), ("#D9CF3A", "white")):
        first, second = (seen(color, matrix) for color in pair)
        assert np.linalg.norm(first - second) > 20


def test_many_classes_share_a_color():
    bank, _ = mapped()
    _, ax = visualize_bank(
        [], bank, Reference((), torch.arange(80) // 2), use_pyplot=False
    )
    assert "30 more" in strings(ax)
    assert "All 80 instances of the bank." in strings(ax)
    sizes = [len(one.get_offsets()) for one in ax.child_axes[0].collections]
    assert sizes == [2] * 10 + [60]


def test_what_does_not_fit_the_bank():
    bank, regions = mapped()
    with pytest.raises(ValueError, match="labels has 3 items, but row 3 of the bank"):
        visualize_bank([], bank, Reference((), [1, 2, 3]))
    with pytest.raises(ValueError, match="region belongs to a layer of shape"):
        visualize_bank(regions, bank_of(random_states(5, 4)))
