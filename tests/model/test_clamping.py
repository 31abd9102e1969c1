"""Neurons fixed to values while a model runs."""

import copy
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from captum_rdr import ConfigurationBank, RelaxedDecisionRegion
from captum_rdr.model.states import binarize
from captum_rdr.pooling import spatial_mean


def fitted(model, layer, data, **choices) -> RelaxedDecisionRegion:
    into = choices.pop("attribute_to_layer_input", False)
    rdr = RelaxedDecisionRegion(model, layer, **choices)
    return rdr.fit(
        data,
        attribute_to_layer_input=into,
        keep_features=True,
        show_progress=False,
    )


def by_hand(net: nn.Sequential, cut: int, x: Tensor, neurons: Tensor, values) -> Tensor:
    """Run up to a layer, write the values, run the rest."""
    modules = copy.deepcopy(net).eval()
    with torch.no_grad():
        inner = modules[: cut + 1](x).clone()
        flat = inner.flatten(1)
        flat[:, neurons] = torch.as_tensor(values, dtype=flat.dtype)
        return modules[cut + 1 :](flat.reshape(inner.shape))


@pytest.mark.parametrize("layer", [0, 1, 2, 5])
def test_clamped_logits_are_those_by_hand(net, images, layer):
    rdr = fitted(net, net[layer], images)
    neurons = torch.tensor([7, 0, 19])
    values = torch.tensor([5.0, -1.0, 2.0])
    with torch.no_grad(), rdr.clamping(neurons, values):
        found = net(images[:6])
    assert found.equal(by_hand(net, layer, images[:6], neurons, values))


def test_a_channels_last_and_half_precision_layer(net, images):
    rdr = fitted(net, net[0], images)
    last = images[:4].to(memory_format=torch.channels_last)
    neurons = torch.tensor([3, 100])
    expected = by_hand(net, 0, images[:4], neurons, 0.5)
    with torch.no_grad(), rdr.clamping(neurons, 0.5):
        assert net(last).allclose(expected, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert net(images[:4]).float().allclose(expected, atol=0.05)


def test_the_input_of_a_layer(net, images):
    rdr = fitted(net, net[5], images, attribute_to_layer_input=True)
    neurons = torch.tensor([4, 143])
    with torch.no_grad(), rdr.clamping(neurons, 3.0):
        found = net(images[:6])
    assert found.equal(by_hand(net, 4, images[:6], neurons, 3.0))


class Keyword(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x):
        return self.inner(input=x) * 2


def test_a_layer_input_that_is_a_keyword():
    model, data = Keyword(), torch.ones(3, 2)
    rdr = fitted(model, model.inner, data, attribute_to_layer_input=True)
    with rdr.clamping(torch.tensor([1]), 5.0):
        assert model(data).tolist() == [[2.0, 10.0]] * 3


def test_several_layers_and_membership_at_a_later_one(net, images):
    rdr = fitted(net, [net[2], net[6]], images)
    first, second = torch.tensor([0, 1]), torch.tensor([2])
    later = fitted(net, net[6], images)
    with torch.no_grad(), rdr.clamping([first, second], [0.0, torch.tensor([9.0])]):
        net(images[:2])
        (region,) = later.attribute_members([0], 2, 3)
        inside = later.contains(region, images)
    middle = by_hand(net[:6], 2, images, first, 0.0)
    states = F.relu(middle)
    states[:, 2] = 9.0
    assert inside.equal(region.contains(states > 0))


class Shared(nn.Module):
    """One ReLU called three times, in place, its return value unused the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = x + 0
        self.relu(x)
        x = self.relu(x - 1)
        return self.relu(x - 1)


@pytest.mark.parametrize(("call", "expected"), [(0, 8.0), (1, 9.0), (2, 10.0)])
def test_one_call_of_several(call, expected):
    model, data = Shared(), torch.full((2, 2), 5.0)
    rdr = fitted(model, model.relu, data, call_index=call)
    for _ in range(2):  # calls are counted anew in each pass
        with torch.no_grad(), rdr.clamping(torch.tensor([1]), 10.0):
            assert model(data).tolist() == [[3.0, expected]] * 2
            assert model(data).tolist() == [[3.0, expected]] * 2
    fourth = RelaxedDecisionRegion(model, model.relu, bank=rdr.bank, call_index=3)
    with (
        pytest.raises(ValueError, match="did not fire call 3"),
        fourth.clamping(torch.tensor([1]), 0.0),
    ):
        model(data)


def test_gradients_pass_the_free_neurons(net, images):
    rdr = fitted(net, net[5], images)
    with rdr.clamping(torch.arange(19), 0.0):
        net(images[:2]).sum().backward()
    grad = net[5].weight.grad
    assert grad is not None
    assert not bool(grad[:19].any())
    assert bool(grad[19].any()) or bool((net[5](net[:5](images[:2]))[:, 19] <= 0).all())


def snapshot(net):
    return (
        [module.training for module in net.modules()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()],
        {name: value.clone() for name, value in net.state_dict().items()},
    )


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_found(net, images, fails):
    rdr = fitted(net, [net[2], net[6]], images)
    modes, hooks, values = snapshot(net)
    neurons = [torch.tensor([0]), torch.tensor([1])]
    try:
        with rdr.clamping(neurons, 0.0):
            assert not any(module.training for module in net.modules())
            net(images[:2])
            if fails:
                raise KeyError("in the body")
    except KeyError:
        assert fails
    now_modes, now_hooks, now_values = snapshot(net)
    assert (now_modes, now_hooks) == (modes, hooks)
    assert all(value.equal(now_values[name]) for name, value in values.items())


def test_what_is_refused(net, images):
    rdr = fitted(net, net[2], images)
    one = torch.tensor([0])

    def clamp(explainer, neurons, values):
        with explainer.clamping(neurons, values):
            net(images[:2])

    with pytest.raises(ValueError, match="no bank yet; call fit"):
        clamp(RelaxedDecisionRegion(net, net[2]), one, 0.0)
    with pytest.raises(ValueError, match=r"read through a pool.*without pool"):
        clamp(fitted(net, net[2], images, pool=spatial_mean), one, 0.0)
    with pytest.raises(ValueError, match=r"go from 0 to 144.*from 0 to 143"):
        clamp(rdr, torch.tensor([0, 144]), 0.0)
    with pytest.raises(TypeError, match=r"neurons is torch.float32 of .*; give flat"):
        clamp(rdr, one.float(), 0.0)
    with pytest.raises(TypeError, match=r"neurons is list of .*; give flat"):
        clamp(rdr, [[0]], 0.0)
    with pytest.raises(TypeError, match=r"neurons is .*of shape \(1, 1\); give flat"):
        clamp(rdr, one[None], 0.0)
    with pytest.raises(ValueError, match=r"values has shape \(2,\) for 1 neurons"):
        clamp(rdr, one, torch.zeros(2))
    with pytest.raises(ValueError, match="neurons has 2 items for 1 layers"):
        clamp(rdr, [one, one], 0.0)
    with (
        pytest.raises(ValueError, match="layer '2' did not fire inside clamping"),
        rdr.clamping(one, 0.0),
    ):
        pass
    last = RelaxedDecisionRegion(net, net[2], bank=rdr.bank, call_index=-1)
    with pytest.raises(
        ValueError, match=r"call_index=-1 cannot be told.*count from the first"
    ):
        clamp(last, one, 0.0)
    with (
        pytest.raises(ValueError, match=r"layer '2' gave shape \(4, 4, 4\)"),
        rdr.clamping(one, 0.0),
    ):
        net[:3](images[:2, :, :6, :6])


def test_a_function_whose_model_is_unknown(net, images):
    net.eval()
    bank = fitted(net, net[2], images).bank
    found = weakref.ref(net)
    function = lambda x: found()(x)  # noqa: E731
    rdr = RelaxedDecisionRegion(function, net[2], bank=bank)
    with torch.no_grad(), rdr.clamping(torch.tensor([0]), 4.0):
        found = function(images[:2])
    assert found.equal(by_hand(net, 2, images[:2], torch.tensor([0]), 4.0))
    chosen = RelaxedDecisionRegion(function, net[2], bank=bank, call_index=0)
    with (
        pytest.raises(ValueError, match="pass the model itself as forward_func"),
        chosen.clamping(torch.tensor([0]), 4.0),
    ):
        pass


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 1000), st.sampled_from([torch.float32, torch.float16]), st.data())
def test_values_bring_about_their_states(seed, dtype, data):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(data.draw(st.integers(1, 9)), 6, generator=generator)
    features = (features * 10).to(dtype)
    threshold = data.draw(st.sampled_from(["zero", "median"]))
    theta = torch.tensor(0.0) if threshold == "zero" else features.median(0).values
    bank = ConfigurationBank((6,), theta)
    bank.append(features > theta, features)
    states = torch.rand(6, generator=generator) < 0.5
    neurons = torch.arange(6)
    found = bank.state_means(neurons, states)
    assert (found.to(dtype) > theta).equal(states)
    for i in range(6):
        column = [float(v) for v in features[:, i]]
        bound = float(theta.expand(6)[i])
        having = [v for v in column if (v > bound) == bool(states[i])]
        if having:
            assert float(found[i]) == pytest.approx(sum(having) / len(having))
        mean = sum(column) / len(column)
        assert float(bank.neuron_means(neurons)[i]) == pytest.approx(mean)


@pytest.mark.parametrize("kind", ["zero", "one", "each"])
def test_values_bring_about_their_states_in_bfloat16(kind):
    """Such a layer's features are kept as float32, and its values rounded."""
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        layer = (torch.randn(6, 40, generator=generator) / 64 + 1).bfloat16()
        layer = layer - 1 if kind == "zero" else layer
        ordered = layer.float().sort(0).values
        theta = {
            "zero": torch.tensor(0.0),
            "one": torch.tensor(1.003, dtype=torch.float64),
            "each": (ordered[2] + ordered[3]) / 2,
        }[kind]
        bank = ConfigurationBank((40,), theta)
        bank.append(binarize(layer, bank.threshold), layer.float())
        for states in (torch.ones(40).bool(), torch.zeros(40).bool()):
            found = bank.state_means(torch.arange(40), states)
            clamped = binarize(found.bfloat16()[None], bank.threshold)[0]
            assert clamped.equal(states)


def test_means_need_features():
    bank = ConfigurationBank((2,))
    bank.append(torch.ones(1, 2, dtype=torch.bool))
    for function in (
        lambda: bank.neuron_means(torch.tensor([0])),
        lambda: bank.state_means(torch.tensor([0]), torch.tensor([True])),
    ):
        with pytest.raises(ValueError, match="fit with keep_features=True"):
            function()
