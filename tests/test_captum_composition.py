"""RelaxedDecisionRegion inside Captum's tools, each against a result made by hand."""

import copy
import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from captum.attr import (
    FeatureAblation,
    IntegratedGradients,
    LayerAttribution,
    LayerFeatureAblation,
    LayerGradCam,
    NeuronGradient,
    NeuronIntegratedGradients,
    NoiseTunnel,
    Occlusion,
    Saliency,
)
from captum.concept import TCAV
from captum.metrics import infidelity, infidelity_perturb_func_decorator
from captum.metrics import sensitivity_max as captum_sensitivity_max
from conftest import small_net
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from captum_rdr import Region, RelaxedDecisionRegion

LABELS = torch.arange(90) // 30


@pytest.fixture(scope="module")
def trained() -> nn.Sequential:
    """A network in evaluation mode that tells the three clusters of images apart."""
    generator = torch.Generator().manual_seed(1)
    centers = torch.randn(3, 1, 8, 8, generator=generator)  # those of the images
    images = centers.repeat_interleave(30, 0)
    model = small_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        noise = 0.6 * torch.randn(images.shape, generator=generator)
        F.cross_entropy(model(images + noise), LABELS).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


@pytest.fixture
def model(trained) -> nn.Sequential:
    return copy.deepcopy(trained)


@pytest.fixture
def rdr(model, images):
    return RelaxedDecisionRegion(model, model[2]).fit(images, show_progress=False)


@pytest.fixture
def region(rdr) -> Region:
    return rdr.attribute_members([4])[0]


def margin(model: nn.Sequential, region: Region, x: Tensor) -> Tensor:
    """The concept's score, by hand."""
    activations = model[:3](x).flatten(1)[:, region.neurons]
    return torch.where(region.states, activations, -activations).mean(1)


# --- the mask as an attribution ---


def test_noise_tunnel_averages_the_masks_of_noisy_inputs(rdr, images):
    mask = rdr.attribute(images[:2], return_regions=False)
    tunnel = NoiseTunnel(rdr)
    options = {"nt_samples": 3, "return_regions": False}
    still = tunnel.attribute(images[:2], stdevs=0.0, **options)
    assert still.allclose(mask)
    torch.manual_seed(3)
    smooth = tunnel.attribute(images[:2], stdevs=0.5, **options)
    torch.manual_seed(3)
    repeated = images[:2].repeat_interleave(3, 0)
    noisy = torch.normal(repeated, 0.5)
    by_hand = rdr.attribute(noisy, return_regions=False).reshape(2, 3, *mask.shape[1:])
    assert smooth.allclose(by_hand.mean(1), atol=1e-6)
    assert not smooth.allclose(mask)


def test_noise_tunnel_passes_the_methods_own_arguments(rdr, images):
    smooth = NoiseTunnel(rdr).attribute(
        images[:2],
        nt_samples=2,
        stdevs=0.0,
        n_neighbors=4,
        n_neurons=3,
        return_regions=False,
    )
    assert (smooth != 0).flatten(1).sum(1).tolist() == [3, 3]


def test_sensitivity_is_the_relative_change_of_the_mask(rdr, images):
    def explain(inputs):
        return (rdr.attribute(inputs, return_regions=False),)

    def other_cluster(inputs):
        first = inputs[0] if isinstance(inputs, tuple) else inputs
        return (images[45 : 45 + len(first)],)

    (before,), (after,) = explain(images[:2]), explain(images[45:47])
    expected = (before - after).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
    found = captum_sensitivity_max(
        explain, images[:2], perturb_func=other_cluster, n_perturb_samples=1
    )
    assert found.allclose(expected)
    still = captum_sensitivity_max(explain, images[:2], perturb_radius=0.0)
    assert still.tolist() == [0, 0]


def test_sensitivity_of_a_bare_tensor_fails_in_captum(rdr, images):
    """When this fails, Captum has changed, and the tuple is no longer needed."""
    with pytest.raises((RuntimeError, IndexError)):
        captum_sensitivity_max(
            lambda x: rdr.attribute(x, return_regions=False),
            images[:2],
            n_perturb_samples=2,
        )


def test_the_mask_is_interpolated_to_the_input(rdr, images):
    mask, _ = rdr.attribute(images[:2])
    found = LayerAttribution.interpolate(mask, (8, 8), "bilinear")
    assert found.equal(F.interpolate(mask, (8, 8), mode="bilinear"))


def test_ablating_the_region_with_the_mask(rdr, model, images):
    mask, _ = rdr.attribute(images[:2])
    groups = (mask != 0).long()
    found = LayerFeatureAblation(model, model[2]).attribute(
        images[:2], target=0, layer_mask=groups
    )
    activations = model[:3](images[:2])
    head = model[3:]
    for group in (0, 1):
        without = activations.masked_fill(groups == group, 0)
        change = (head(activations) - head(without))[:, 0]
        for one in range(2):
            of_group = found[one][groups[one] == group]
            assert of_group.allclose(change[one].expand_as(of_group), atol=1e-5)


def test_selectors_reach_each_principal_neuron(model, images, region):
    neurons = region.unravel()
    signs = [1 if state else -1 for state in region.states]
    x = images[4:5].clone().requires_grad_()
    each = [
        NeuronGradient(model, model[2]).attribute(x, neuron_selector=neuron)
        for neuron in neurons
    ]
    mean = sum(s * gradient for s, gradient in zip(signs, each, strict=True)) / len(
        signs
    )
    (by_hand,) = torch.autograd.grad(margin(model, region, x).sum(), x)
    assert mean.allclose(by_hand, atol=1e-6)
    whole = NeuronGradient(model, model[2]).attribute(
        x,
        neuron_selector=lambda output: torch.stack(
            [s * output[:, *n] for s, n in zip(signs, neurons, strict=True)]
        ).mean(0),
    )
    assert whole.allclose(by_hand, atol=1e-6)


def test_integrated_gradients_of_one_principal_neuron(model, images, region):
    neuron = region.unravel()[0]
    x = images[4:5]
    found = NeuronIntegratedGradients(model, model[2]).attribute(
        x, neuron_selector=neuron, n_steps=200
    )
    ends = model[:3](torch.cat([torch.zeros_like(x), x])).detach()[:, *neuron]
    assert found.sum().allclose(ends[1] - ends[0], atol=0.02)


# --- the concept's score as a forward function ---


def test_integrated_gradients_are_complete(rdr, model, images, region):
    score = rdr.concept_score(region)
    x = images[4:7]
    found, delta = IntegratedGradients(score).attribute(
        x, n_steps=200, return_convergence_delta=True
    )
    expected = margin(model, region, x) - margin(model, region, torch.zeros_like(x))
    assert found.flatten(1).sum(1).allclose(expected, atol=0.02)
    assert delta.abs().max() < 0.02


def test_saliency_is_the_gradient(rdr, model, images, region):
    x = images[4:7].clone().requires_grad_()
    found = Saliency(rdr.concept_score(region)).attribute(x, abs=False)
    (expected,) = torch.autograd.grad(margin(model, region, x).sum(), x)
    assert found.allclose(expected, atol=1e-6)


def test_occlusion_and_ablation_are_differences_of_scores(rdr, model, images, region):
    score = rdr.concept_score(region)
    x = images[4:6]
    expected = torch.empty_like(x)
    for row in range(0, 8, 2):
        for column in range(0, 8, 2):
            without = x.clone()
            without[..., row : row + 2, column : column + 2] = 0
            change = margin(model, region, x) - margin(model, region, without)
            expected[..., row : row + 2, column : column + 2] = change[
                :, None, None, None
            ]
    found = Occlusion(score).attribute(x, (1, 2, 2), (1, 2, 2))
    assert found.allclose(expected, atol=1e-5)
    blocks = torch.arange(16).reshape(1, 1, 4, 4)
    blocks = blocks.repeat_interleave(2, 2).repeat_interleave(2, 3)
    ablated = FeatureAblation(score).attribute(x, feature_mask=blocks)
    assert ablated.allclose(expected, atol=1e-5)


def test_grad_cam_of_an_earlier_layer(rdr, model, images, region):
    x = images[4:6]
    found = LayerGradCam(rdr.concept_score(region), model[0]).attribute(x)
    activations = model[0](x).detach().requires_grad_()
    behind = nn.Sequential(model[1], nn.ReLU())(activations).flatten(1)
    picked = behind[:, region.neurons]
    score = torch.where(region.states, picked, -picked).mean(1)
    (gradients,) = torch.autograd.grad(score.sum(), activations)
    weights = gradients.mean((2, 3), keepdim=True)
    assert found.allclose((weights * activations).sum(1, keepdim=True), atol=1e-6)


def test_infidelity_of_a_linear_concept_is_zero():
    """Of a linear score Integrated Gradients tell every change exactly."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 12)
    data = torch.randn(60, 6)
    rdr = RelaxedDecisionRegion(layer, layer).fit(data, show_progress=False)
    (region,) = rdr.attribute_members([0], 4, 3)
    score = rdr.concept_score(region)
    attributions = IntegratedGradients(score).attribute(data[:5])

    @infidelity_perturb_func_decorator(True)
    def blurred(inputs):
        return inputs + 0.1 * torch.randn_like(inputs)

    right = infidelity(score, blurred, data[:5], attributions)
    wrong = infidelity(score, blurred, data[:5], -attributions)
    assert right.max() < 1e-8
    assert wrong.min() > 1e-4


# --- members as a concept ---


@pytest.mark.filterwarnings("ignore")  # those of Captum's default classifier
def test_a_regions_concept_moves_its_class(rdr, model, images, region, tmp_path):
    """Against random regions: as many rows, drawn from the bank."""
    cluster = LABELS[region.members]
    assert bool((cluster == cluster[0]).all())
    dataset = TensorDataset(images, LABELS)
    generator = torch.Generator().manual_seed(0)
    size = len(region.members)

    def random_region() -> Region:
        rows = torch.randperm(90, generator=generator)[:size]
        return replace(region, members=rows.sort().values)

    concept = region.to_concept(dataset, 0, "region")
    controls = [
        random_region().to_concept(dataset, i, f"random {i}") for i in range(1, 9)
    ]
    random.seed(0)  # Captum's default classifier shuffles with it
    tcav = TCAV(model, ["5"], save_path=str(tmp_path))

    def shares(experiments, target: int) -> list[float]:
        scores = tcav.interpret(images[LABELS.eq(target)], experiments, target=target)
        return [one["5"]["sign_count"][0].item() for one in scores.values()]

    own = int(cluster[0])
    against_chance = [[concept, control] for control in controls]
    among_chance = list(zip(controls[::2], controls[1::2], strict=True))
    assert min(shares(against_chance, own)) > 0.8
    assert min(shares(among_chance, own)) < 0.5
    for target in {0, 1, 2} - {own}:
        assert sum(shares(against_chance, target)) / 8 < 0.5
