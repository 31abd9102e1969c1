"""The concept of a region as a differentiable function of the input."""

import pytest
import torch
from captum.attr import LayerGradCam, Saliency
from torch import nn
from torch.utils.checkpoint import checkpoint

from captum_rdr import RelaxedDecisionRegion


def test_concept_score_is_checked_as_the_rest(net, images):
    conv = RelaxedDecisionRegion(net[:3], net[2]).fit(images, show_progress=False)
    (region,) = conv.attribute_members([0])
    score = conv.concept_score(region)
    for size in (5, 12):
        with pytest.raises(ValueError, match=r"the bank holds \(4, 6, 6\)"):
            score(torch.randn(2, 1, size, size))
    with torch.no_grad():
        net[0].weight.add_(1)
    with pytest.raises(ValueError, match="fingerprint"):
        score(images)


class Keyed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 9)

    def forward(self, z, shift=0.0):
        return self.layer(z + shift)


def test_concept_score_takes_what_attribute_takes():
    torch.manual_seed(0)
    model, z = Keyed(), torch.randn(40, 4)
    rdr = RelaxedDecisionRegion(model, model.layer).fit([{"z": z}], show_progress=False)
    (region,) = rdr.attribute_members([0], 3, 3)
    score = rdr.concept_score(region)
    assert score({"z": z}).equal(score(z))
    assert score(z=z, shift=0.0).equal(score(z))
    assert score(z, 0.0).equal(score(z))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16))
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return self.head(checkpoint(self.body, x, use_reentrant=False))


def test_concept_score_of_a_checkpointed_model_and_under_later_layers():
    torch.manual_seed(0)
    model, x = Checkpointed().eval(), torch.randn(50, 4)
    rdr = RelaxedDecisionRegion(model, model.body[1]).fit(x, show_progress=False)
    (region,) = rdr.attribute_members([0], 4, 3)
    score = rdr.concept_score(region)
    assert bool((Saliency(score).attribute(x[:3].requires_grad_()) != 0).any())
    assert LayerGradCam(score, model.body[1]).attribute(x[:3]).shape == (3, 1)


def test_regions_made_in_inference_mode_take_part_in_gradients(net, images):
    with torch.inference_mode():
        rdr = RelaxedDecisionRegion(net, net[2], threshold="median")
        rdr.fit(images, show_progress=False)
        _, (region,) = rdr.attribute(images[:1])
    score = rdr.concept_score(region)
    assert Saliency(score).attribute(images[:2].clone().requires_grad_()).shape == (
        2,
        1,
        8,
        8,
    )
