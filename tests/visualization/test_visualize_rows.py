"""Figures of concepts and neighbors."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, Occlusion, Saliency
from captum.attr import visualization as captum_figures
from drawing import FAILED, as_new, draw, fitted, hidden, outcome, shapes, strings
from matplotlib.figure import Figure

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.visualization import (
    Reference,
    visualize_bank,
    visualize_concept,
    visualize_neighbors,
    visualize_region,
    visualize_tabular_region,
    visualize_text_region,
)


@pytest.fixture(scope="module")
def data():
    return shapes(60, 3)


@pytest.fixture(scope="module")
def rdr(data):
    both = fitted(data)
    layer = both.forward_func[3]  # before the ReLU, so that gradients live
    return RelaxedDecisionRegion(both.forward_func, layer).fit(
        data, keep_features=True, show_progress=False
    )


@pytest.fixture(scope="module")
def region(rdr):
    return rdr.attribute_members([4], 5, 4, tolerance=1)[0]


def occlusion(score):
    method = Occlusion(score)
    return lambda x: method.attribute(x, sliding_window_shapes=(3, 2, 2))


METHODS = {
    "integrated gradients": lambda score: IntegratedGradients(score).attribute,
    "saliency": lambda score: Saliency(score).attribute,
    "occlusion": occlusion,
}


@pytest.mark.parametrize("name", METHODS)
def test_any_attribution_of_the_concept(name, rdr, region, data):
    attribute = METHODS[name](rdr.concept_score(region))
    kwargs = {"method": "heat_map", "sign": "positive", "use_pyplot": False}
    _, ax = visualize_concept(
        region, rdr, data, attribute=attribute, n_members=3, **kwargs
    )
    assert len(ax.child_axes) == 8  # each twice
    values = attribute(data[4:5].clone().requires_grad_())
    positive = values[0].sum(0).clamp(min=0).detach()
    drawn = np.asarray(ax.child_axes[1].images[0].get_array())
    assert drawn.shape == (8, 8)
    assert ((drawn > 0) == (positive > 0).numpy()).all()
    order = np.argsort(-drawn.ravel(), kind="stable")[:1]
    assert positive.flatten()[order[0]] >= 0.5 * positive.max()
    assert f"Query and 3 of {len(region.members)} members, nearest first" in strings(ax)


def test_every_way_of_captum_to_draw(rdr, region, data):
    attribute = Saliency(rdr.concept_score(region)).attribute
    before = data.clone()
    for method in ("blended_heat_map", "masked_image", "alpha_scaling"):
        fig, _ = visualize_concept(
            region,
            rdr,
            data,
            attribute=attribute,
            method=method,
            sign="positive",
            use_pyplot=False,
        )
        draw(fig)
    assert data.equal(before)


def test_gray_images_and_a_new_query():
    gray = shapes(60)
    rdr = hidden(gray)
    region = outcome(rdr.attribute_members([4], 5, 4)[0], FAILED)
    attribute = Saliency(rdr.concept_score(region)).attribute
    fig, ax = visualize_concept(
        region,
        rdr,
        gray,
        (gray[4], 0),
        attribute=attribute,
        n_members=0,
        use_pyplot=False,
    )
    draw(fig)
    assert len(ax.child_axes) == 3
    assert any(text.startswith("Not significant") for text in strings(ax))


def test_attributions_that_are_zero_are_said_to_be(rdr, region, data):
    fig, ax = visualize_concept(
        region, rdr, data, attribute=torch.zeros_like, use_pyplot=False
    )
    draw(fig)
    assert strings(ax).count("no attribution") == 5
    _, ax = visualize_concept(
        region, rdr, data, attribute=torch.ones_like, sign="negative", use_pyplot=False
    )
    assert strings(ax).count("no attribution") == 5
    _, ax = visualize_concept(
        region,
        rdr,
        data,
        attribute=lambda x: 1e-30 * torch.ones_like(x),
        use_pyplot=False,
    )
    assert "no attribution" not in strings(ax)


def test_attribution_alone_and_over_the_image(rdr, region, data):
    """The second row is what Captum draws of the same values by the same options."""
    saliency = Saliency(rdr.concept_score(region))
    values = saliency.attribute(data[4:5].clone().requires_grad_(), abs=False)[0]
    scaled = (values / values.abs().max()).permute(1, 2, 0).double().numpy()

    def drawn(**kwargs):
        return visualize_concept(
            region,
            rdr,
            data,
            attribute=lambda x: saliency.attribute(x, abs=False),
            n_members=0,
            use_pyplot=False,
            **kwargs,
        )[1]

    for sign, outlier_perc in (("all", 2), ("positive", 2), ("all", 20)):
        alone = drawn(sign=sign, outlier_perc=outlier_perc).child_axes[1].images[0]
        fig = Figure()
        _, expected = captum_figures.visualize_image_attr(
            scaled,
            None,
            "heat_map",
            sign,
            plt_fig_axis=(fig, fig.subplots()),
            outlier_perc=outlier_perc,
            use_pyplot=False,
        )
        wanted = np.asarray(expected.images[0].get_array())
        assert np.allclose(np.asarray(alone.get_array()), wanted, atol=1e-6)
    assert drawn(alpha_overlay=0.25).child_axes[2].images[1].get_alpha() == 0.25
    assert "against the concept" in strings(drawn())
    assert "against the concept" not in strings(drawn(sign="positive"))
    for sign, low in (("all", -1), ("positive", 0)):
        bar = drawn(sign=sign, show_colorbar=True).child_axes[-1]
        assert bar.get_xlim() == (low, 1)


def test_what_is_no_attribution_of_the_input(rdr, region, data):
    with pytest.raises(ValueError, match=r"attribute gave \(5,\) for inputs of shape"):
        visualize_concept(region, rdr, data, attribute=lambda x: x.flatten(1).sum(1))
    with pytest.raises(ValueError, match="attribute gave NaN or infinite"):
        visualize_concept(region, rdr, data, attribute=lambda x: x * torch.nan)
    with pytest.raises(ValueError, match="attribute gave tuple for"):
        visualize_concept(region, rdr, data, attribute=lambda x: (x,))


def test_neighbors_by_each_distance(rdr, region, data):
    _, ax = visualize_neighbors(region, rdr, data, n_neighbors=5, use_pyplot=False)
    drawn = [np.asarray(child.images[0].get_array()) for child in ax.child_axes]
    rows = [
        next(i for i, x in enumerate(data) if np.allclose(x.permute(1, 2, 0), image))
        for image in drawn
    ]
    assert rows[::6] == [4, 4, 4]
    features = rdr.bank.features.double()
    states = rdr.bank.states()
    away = {
        0: (states != states[4]).sum(1).double(),
        1: 1 - torch.nn.functional.cosine_similarity(features, features[4:5]),
        2: (features - features[4]).norm(dim=1),
    }
    for number, distances in away.items():
        distances[4] = -1
        found = rows[6 * number + 1 : 6 * number + 6]
        assert found == distances.argsort(stable=True)[1:6].tolist()
    shared = len(set(rows[1:6]) & set(rows[7:12]))
    assert f"Nearest by cosine distance: {shared} of 5 as in the first row" in strings(
        ax
    )


def test_neighbors_of_a_new_input(rdr, data):
    reference = Reference(data, torch.arange(60) % 2)
    new = (data[0] * 0.9 + 0.03).clamp(0, 1)
    _, (region,) = rdr.attribute(new[None])
    _, ax = visualize_neighbors(
        region, rdr, reference, (new, 1), n_neighbors=4, use_pyplot=False
    )
    assert strings(ax)[0] == "Nearest by configuration distance"
    assert len(ax.child_axes) == 15
    with pytest.raises(ValueError, match="does not hold the region's query"):
        visualize_neighbors(as_new(region, rdr.bank), rdr, reference)


def test_neighbors_that_cannot_be_found(rdr, region, data):
    with pytest.raises(ValueError, match="n_neighbors=0 is too small"):
        visualize_neighbors(region, rdr, data, n_neighbors=0)
    with pytest.raises(
        ValueError, match="rdr explains 2 layers; give an explainer of one"
    ):
        visualize_neighbors(region, fitted(data), data)
    with pytest.raises(ValueError, match="fit with keep_features=True"):
        visualize_neighbors(hidden(data).attribute_members([4])[0], hidden(data), data)


def test_what_is_no_input_of_a_model(rdr, region, data):
    array = data[0].permute(1, 2, 0).numpy()
    with pytest.raises(TypeError, match="an input is a ndarray; give tensors without"):
        visualize_neighbors(region, rdr, data, array)
    with pytest.raises(TypeError, match="an input is a ndarray; give tensors without"):
        visualize_concept(region, rdr, data, array, attribute=torch.zeros_like)


def test_a_region_without_members(data):
    """A new input alone in S may share its states with nobody."""
    both = fitted(data)
    new = 1 - data[:1]
    found = both.attribute(new, n_neighbors=1, n_neurons=24)[1]
    regions = [replace(one, members=one.members[:0], query=None) for (one,) in found]
    assert all(not len(one.neighbors) for one in regions)
    figures = [
        visualize_region(regions[0], both, data, new[0], use_pyplot=False),
        visualize_concept(
            regions[0],
            both,
            data,
            new[0],
            attribute=torch.zeros_like,
            use_pyplot=False,
        ),
        visualize_bank(regions[:1], both.bank[0], use_pyplot=False),
        visualize_tabular_region(regions[0], both, torch.rand(60, 2), use_pyplot=False),
    ]
    for fig, _ in figures:
        draw(fig)
    texts = strings(figures[0][1])
    assert texts[0].endswith("0 of 0 members shown.")
    assert "Query and 0 of 0 neighbors, nearest first" in texts
    assert "0 of 0 further members, nearest first" in texts
    text = visualize_text_region(regions[0], both, ["a text"] * 60, "new")
    assert "Query and 0 of 0 members" in str(text)
