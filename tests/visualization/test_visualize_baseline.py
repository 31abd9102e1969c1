"""Figures against committed pictures of them, without their texts.

After a change that is meant to be seen, draw them anew and look at each: run this file
with ``python -m pytest`` and ``--mpl-generate-path=tests/baseline``.
"""

from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from captum.attr import Saliency
from conftest import bank_of, random_states
from drawing import FAILED, check_texts, fitted, hidden, outcome
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text
from torch import Tensor, nn

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.visualization import (
    Reference,
    visualize_bank,
    visualize_concept,
    visualize_neighbors,
    visualize_plane,
    visualize_principal_neurons,
    visualize_region,
    visualize_tabular_region,
)

BASELINE = Path(__file__).parents[1] / "baseline"
# Root mean square of the differences in gray levels, of 255. Matplotlib 3.8 stays below 7
# (it puts edges elsewhere by a pixel); a region's other members are above 16.
TOLERANCE = 8

drawn = pytest.mark.mpl_image_compare(
    baseline_dir="../baseline",
    tolerance=TOLERANCE,
    style="default",
    savefig_kwargs={"dpi": 60},
)


def without_text(figure_axes: tuple[Figure, object]) -> Figure:
    """Texts are tested as texts; fonts are drawn differently everywhere."""
    fig, _ = figure_axes
    check_texts(fig)
    for text in fig.findobj(Text):
        text.set_visible(False)
    return fig


def blobs(n: int, channels: int = 1) -> Tensor:
    """Smooth, bright images ``(n, channels, 8, 8)``: sharp edges are drawn differently."""
    generator = torch.Generator().manual_seed(n)
    centers = 1.5 + 5 * torch.rand(n, channels, 2, 1, 1, generator=generator)
    steps = torch.arange(8.0)
    y, x = steps[:, None] - centers[:, :, 0], steps[None] - centers[:, :, 1]
    return 1 - 0.6 * torch.exp(-(x**2 + y**2) / 6)


def gray():
    data = blobs(60)
    labels = torch.arange(60) % 2
    return data, Reference(data, labels, (labels + (torch.arange(60) % 7 == 0)) % 2)


@drawn
def test_region():
    data, reference = gray()
    rdr = hidden(data)
    region = outcome(rdr.attribute_members([4], 6, 4)[0], FAILED)
    return without_text(visualize_region(region, rdr, reference, use_pyplot=False))


@drawn
def test_principal_neurons():
    data = blobs(60, 3)
    rdr = fitted(data, keep_features=True)
    region = rdr.attribute_members([5], 4, 24, weighting="evidence")[0][0]
    return without_text(
        visualize_principal_neurons(region, rdr, data, use_pyplot=False)
    )


@drawn
def test_concept():
    data = blobs(60, 3)
    rdr = hidden(data)
    region = rdr.attribute_members([4], 5, 12, weighting="evidence")[0]
    attribute = Saliency(rdr.concept_score(region)).attribute
    return without_text(
        visualize_concept(
            region, rdr, data, attribute=attribute, n_members=2, use_pyplot=False
        )
    )


def photos() -> Tensor:
    """Crops of three photos, ``(36, 3, 48, 48)``, from 0 to 1."""
    crops = []
    for name in ("chelsea", "coffee", "rocket"):
        photo = torch.tensor(getattr(skimage.data, name)()).permute(2, 0, 1) / 255
        small = nn.functional.interpolate(photo[None], size=(96, 144), mode="area")[0]
        for top in (0, 24, 48):
            crops += [small[:, top : top + 48, x : x + 48] for x in (0, 32, 64, 96)]
    return torch.stack(crops)


@drawn
def test_photos():
    data = photos()
    reference = Reference(data, ["cat"] * 12 + ["coffee"] * 12 + ["rocket"] * 12)
    layer = nn.AvgPool2d(8)
    rdr = RelaxedDecisionRegion(layer, layer, threshold="median")
    rdr.fit(data, keep_features=True, show_progress=False)
    (region,) = rdr.attribute_members([30], 6, weighting="evidence")
    return without_text(visualize_region(region, rdr, reference, use_pyplot=False))


@drawn
def test_neighbors():
    data, reference = gray()
    rdr = hidden(data, keep_features=True)
    (region,) = rdr.attribute_members([3])
    return without_text(visualize_neighbors(region, rdr, reference, use_pyplot=False))


@drawn
def test_plane():
    data, _ = gray()
    rdr = hidden(data)
    region = rdr.attribute_members([4], 6, 6)[0]
    anchors, module = data[[4, 5, 17]], rdr.forward_func[3]
    return without_text(
        visualize_plane(region, rdr, anchors, module=module, use_pyplot=False)
    )


@drawn
def test_bank():
    states = random_states(60, 40)
    states[:30, :20] = True
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank_of(states))
    regions = rdr.attribute_members([4, 50], 8, 6)
    reference = Reference((), torch.arange(60) // 20)
    return without_text(visualize_bank(regions, rdr.bank, reference, use_pyplot=False))


@drawn
def test_tabular():
    data, _ = gray()
    rdr = hidden(data)
    region = rdr.attribute_members([4], 6, 6)[0]
    table = {
        "center": data[:, 0, 4, 4].numpy(),
        "corner": data[:, 0, 0, 0].numpy(),
        "kind": np.array(["lying", "standing"] * 30),
    }
    return without_text(visualize_tabular_region(region, rdr, table, use_pyplot=False))


def test_the_tolerance_tells_figures_apart(tmp_path):
    """What the comparison is worth: other regions of the same data fail it."""
    data, reference = gray()
    rdr = hidden(data)
    region = rdr.attribute_members([9], 6, 4)[0]
    fig = Figure(figsize=size_of("test_region"))
    given = (fig, fig.add_axes((0, 0, 1, 1)))
    without_text(visualize_region(region, rdr, reference, plt_fig_axis=given))
    fig.savefig(tmp_path / "other.png", dpi=60)
    found = compare_images(
        str(BASELINE / "test_region.png"), str(tmp_path / "other.png"), TOLERANCE, True
    )
    assert found is not None
    assert found["rms"] > 2 * TOLERANCE


def size_of(name):
    height, width = imread(BASELINE / f"{name}.png").shape[:2]
    return width / 60, height / 60
