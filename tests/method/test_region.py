"""What a region offers, alone and inside Captum."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import (
    FeatureAblation,
    IntegratedGradients,
    LayerAttribution,
    NoiseTunnel,
    Saliency,
)
from captum.concept import TCAV, Concept
from captum.metrics import sensitivity_max
from conftest import bank_of, random_states
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_rdr import Region, RelaxedDecisionRegion
from captum_rdr.bank import bits
from captum_rdr.method.region import Significance


@pytest.fixture
def fitted(net, images):
    return RelaxedDecisionRegion(net, net[2]).fit(images, show_progress=False)


@pytest.fixture
def region(fitted) -> Region:
    return fitted.attribute_members([4])[0]


def test_repr(region):
    assert repr(region).startswith("Region(bank row 4: 10 of 144 neurons (")
    assert repr(region).endswith(
        f"{len(region.members)} members, 8 neighbors, tolerance=0)"
    )


def test_evidence_repr(fitted, images):
    _, (region,) = fitted.attribute(images[:1] + 3, weighting="evidence", tolerance=0.5)
    assert repr(region).startswith("Region(new input by evidence: ")
    assert "evidence of at least" in repr(region)


def test_a_region_that_was_tested_says_so(region, tmp_path):
    failed = replace(region, significance=Significance(0.3, 0.4, 12, level=0.01))
    assert repr(failed).endswith("tolerance=0, not significant: p=0.3)")
    passed = replace(region, significance=Significance(0.002, 4.0, 12, 0.008))
    assert repr(passed).endswith("tolerance=0, adjusted p=0.008)")
    for one in (region, failed, passed):
        one.save(tmp_path / "region")
        assert Region.load(tmp_path / "region").significance == one.significance


def test_coordinates_point_at_the_neurons(region):
    mask = region.mask()
    assert mask.shape == (4, 6, 6)
    coordinates = region.unravel()
    assert len(coordinates) == 10
    assert {one._fields for one in coordinates} == {("channel", "height", "width")}
    for index, state, score in zip(
        coordinates, region.states, region.scores, strict=True
    ):
        assert mask[index].item() == pytest.approx(
            score.item() if state else -score.item()
        )
    assert int((mask != 0).sum()) == 10


def test_a_principal_neuron_without_score_is_in_the_mask():
    states = torch.ones(6, 3, dtype=torch.bool)
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank_of(states))
    (region,) = rdr.attribute_members([0], 3, 3)
    assert region.scores.tolist() == [0, 0, 0]
    assert bool((region.mask() != 0).all())


def test_membership_of_new_inputs(fitted, region, net, images):
    new = images + 0.1 * torch.randn(
        images.shape, generator=torch.Generator().manual_seed(0)
    )
    net.eval()
    with torch.no_grad():
        states = net[:3](new) > 0
    expected = (states.flatten(1)[:, region.neurons] == region.states).all(1)
    assert fitted.contains(region, new).equal(expected)
    assert region.contains(states).equal(expected)
    assert region.contains(states.flatten(1)).equal(expected)


def test_states_of_new_inputs(net, images):
    rdr = RelaxedDecisionRegion(net, [net[2], net[6]]).fit(images, show_progress=False)
    net.eval()
    with torch.no_grad():
        expected = [net[:3](images + 0.1) > 0, net[:7](images + 0.1) > 0]
    for found, wanted in zip(rdr.states(images + 0.1), expected, strict=True):
        assert found.equal(wanted)


def test_states_of_another_layer_are_refused(region):
    with pytest.raises(ValueError, match=r"states has shape \(2, 143\).*\(M, 144\)"):
        region.contains(torch.ones(2, 143, dtype=torch.bool))
    with pytest.raises(
        TypeError, match=r"states has dtype torch.float32; give torch.bool"
    ):
        region.evidence(torch.ones(2, 144))
    with pytest.raises(ValueError, match="states has shape"):
        region.contains(torch.ones(2, 3, 144, dtype=torch.bool))


def test_packed_rows_and_single_instances(fitted, region):
    inside = region.contains(fitted.bank.states())
    assert region.contains(fitted.bank.rows).equal(inside)
    assert region.contains(fitted.bank.states([4])[0]).tolist() == [True]


def test_files(region, fitted, tmp_path):
    path = tmp_path / "region"
    evident = fitted.attribute_members([4], weighting="evidence")[0]
    for one in (region, evident):
        one.save(path)
        loaded = Region.load(path)
        assert repr(loaded) == repr(one)
        assert loaded.members.equal(one.members)
        assert loaded.mask().equal(one.mask())
        assert repr(loaded.unravel()) == repr(one.unravel())
        assert isinstance(loaded.layer_shape, torch.Size)
        states = fitted.bank.states()
        assert loaded.contains(states).equal(one.contains(states))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="no readable region file"):
        Region.load(path)


def test_a_region_keeps_its_rule_and_a_new_query(fitted, images, tmp_path):
    (row,) = fitted.attribute_members([4], np.int64(5), 3, tolerance=1)
    _, (new,) = fitted.attribute(images[:1] + 3, neighbors=torch.tensor([5, 2]))
    assert row.query_states is None
    assert (row.rule.n_neighbors, row.rule.n_neurons, row.rule.tolerance) == (5, 3, 1)
    assert new.rule.neighbors.equal(new.neighbors)
    for one in (row, new):
        one.save(tmp_path / "region")
        loaded = Region.load(tmp_path / "region")
        assert loaded.rule.as_fields() == one.rule.as_fields()
        if one.query is None:
            assert loaded.query_states.equal(one.query_states)
            assert loaded.contains(bits.unpack(one.query_states[None], 144)).all()


def test_concept_score_is_the_mean_signed_margin(fitted, region, net, images):
    score = fitted.concept_score(region)
    net.eval()
    with torch.no_grad():
        activations = net[:3](images).flatten(1)[:, region.neurons]
    margins = torch.where(region.states, activations, -activations)
    assert score(images).allclose(margins.mean(1))
    training = [module.training for module in net.modules()]
    for method in (IntegratedGradients, Saliency, FeatureAblation):
        attributions = method(score).attribute(images[4:6].clone().requires_grad_())
        assert attributions.shape == (2, 1, 8, 8)
        assert bool((attributions != 0).any())
    assert [module.training for module in net.modules()] == training
    assert all(parameter.grad is None for parameter in net.parameters())


def test_concept_score_with_thresholds(net, images):
    rdr = RelaxedDecisionRegion(net, net[6], threshold="median").fit(
        images, show_progress=False
    )
    (region,) = rdr.attribute_members([0], 8, 3)
    net.eval()
    with torch.no_grad():
        margins = (
            net[:7](images)[:, region.neurons] - rdr.bank.threshold[region.neurons]
        ).float()
    expected = torch.where(region.states, margins, -margins).mean(1)
    assert rdr.concept_score(region)(images).allclose(expected, atol=1e-6)
    other = RelaxedDecisionRegion(net, net[2]).fit(images, show_progress=False)
    with pytest.raises(ValueError, match="region belongs to a layer of shape"):
        other.concept_score(region)


def test_concept_scores_of_a_list_of_layers(net, images):
    rdr = RelaxedDecisionRegion(net, [net[2], net[6]]).fit(images, show_progress=False)
    found = [one[0] for one in rdr.attribute_members([3], 4, 3)]
    scores = rdr.concept_score(found)
    assert [score(images[:5]).shape for score in scores] == [(5,), (5,)]
    inside = rdr.contains(found, images)
    for one, region in zip(inside, found, strict=True):
        assert one.nonzero().flatten().equal(region.members)


def test_noise_tunnel_and_sensitivity(fitted, images):
    mask = fitted.attribute(images[:2], return_regions=False)
    assert mask.equal(fitted.attribute(images[:2])[0])
    smooth = NoiseTunnel(fitted).attribute(
        images[:2], nt_type="smoothgrad", nt_samples=4, stdevs=0.1, return_regions=False
    )
    assert smooth.shape == mask.shape
    # A tuple, since Captum 0.9 goes through a bare tensor instance by instance.
    worst = sensitivity_max(
        lambda x: (fitted.attribute(x, return_regions=False),),
        images[:2],
        n_perturb_samples=2,
    )
    assert worst.shape == (2,)


def test_mask_is_interpolated_to_the_input(fitted, images):
    mask, _ = fitted.attribute(images[:2])
    assert LayerAttribution.interpolate(mask, (8, 8)).shape == (2, 4, 8, 8)


@pytest.mark.filterwarnings("ignore")  # those of Captum's own classifier
def test_concept_for_tcav(fitted, region, net, images, tmp_path):
    dataset = TensorDataset(images, torch.zeros(90))
    concept = region.to_concept(dataset, 0, "region")
    together = torch.cat(list(concept.data_iter))
    assert together.equal(images[region.members])
    rest = [i for i in range(90) if i not in region.members.tolist()]
    control = Concept(1, "rest", DataLoader(images[rest], batch_size=32))
    pytest.importorskip("sklearn")
    tcav = TCAV(net.eval(), layers=["5"], save_path=str(tmp_path))
    scores = tcav.interpret(images[:4], [[concept, control]], target=0)
    assert "sign_count" in scores["0-1"]["5"]


def test_concept_of_another_dataset(region):
    with pytest.raises(ValueError, match=r"members go from .* items from 0"):
        region.to_concept(TensorDataset(torch.ones(2, 1)), 0, "region")
    concept = region.to_concept(torch.arange(90.0).unsqueeze(1), 0, "plain")
    assert torch.cat(list(concept.data_iter)).flatten().long().equal(region.members)


def test_a_region_separates_what_the_network_separates(net, images):
    """A sanity check on data with known clusters: members share the query's cluster."""
    torch.manual_seed(0)
    labels = torch.arange(90) // 30
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    net.train()
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    rdr = RelaxedDecisionRegion(net, net[6]).fit(images, show_progress=False)
    found = rdr.attribute_members(range(0, 90, 9), 6, 5)
    purity = [
        (labels[one.members] == labels[query]).float().mean()
        for query, one in zip(range(0, 90, 9), found, strict=True)
    ]
    assert float(torch.stack(purity).mean()) > 0.8  # a third of the bank by chance


def test_random_states_have_no_evidence_in_common():
    states = random_states(50, 30)
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank_of(states))
    (region,) = rdr.attribute_members([0], 1, 5)
    assert region.neighbors.tolist() == [0]
    assert 0 in region.members.tolist()


@pytest.mark.filterwarnings("ignore:.*fewer unanimous neurons")
def test_regions_with_nothing_in_them_are_saved(tmp_path):
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank_of(random_states(30, 12)))
    alone = rdr.attribute(torch.randn(1, 12), 1, 3)[1][0]
    whole = rdr.attribute_members([0], 30, 12)[0]
    for region in (alone, whole):
        region.save(tmp_path / "region")
        assert repr(Region.load(tmp_path / "region")) == repr(region)
