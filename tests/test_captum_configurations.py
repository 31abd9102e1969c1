"""Captum's own test configurations and patterns, applied to RelaxedDecisionRegion.

Captum tests that its attributions remove their hooks, whether they succeed, are called
with a bad argument, or run a module that fails, and that a DataParallel model gives the
same attributions as the plain one. Its package ships the models, layers and arguments of
those tests.
"""

import copy

import pytest
import torch
from captum.testing.attr.helpers.gen_test_utils import (
    get_target_layer,
    parse_test_config,
)
from captum.testing.attr.helpers.test_config import config
from captum.testing.helpers.basic import BaseTest, assertTensorTuplesAlmostEqual
from torch import Tensor, nn

from captum_rdr import RelaxedDecisionRegion


def _layer_configurations():
    """One of Captum's configurations for each of its models, layers and inputs."""
    found = {}
    for one in config:
        _, _, arguments, layer, _, _ = parse_test_config(one)
        if layer is None or "input_wrapper" in one["name"]:
            continue
        shapes = [tuple(value.shape) for value in _as_tuple(arguments["inputs"])]
        found.setdefault((type(one["model"]).__name__, str(layer), str(shapes)), one)
    return list(found.values())


def _as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def _first_tensor(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return _as_tuple(output)[0]


class ErrorModule(nn.Module):
    """Takes the place of a module and fails."""

    def forward(self, *_):
        raise RuntimeError("Expected")


class Case:
    """A configuration of Captum's, with a model of its own."""

    def __init__(self, configuration) -> None:
        _, model, self.arguments, self.layer_name, _, _ = parse_test_config(
            configuration
        )
        self.model = copy.deepcopy(model)
        self.inputs = _as_tuple(self.arguments["inputs"])
        self.further = self.arguments.get("additional_forward_args")

    def rdr(self, model: nn.Module | None = None, **kwargs) -> RelaxedDecisionRegion:
        layer = get_target_layer(self.model, self.layer_name)
        return RelaxedDecisionRegion(
            model or self.model, layer, pool=_first_tensor, **kwargs
        )

    def fit(self, rdr: RelaxedDecisionRegion) -> RelaxedDecisionRegion:
        return rdr.fit([(self.inputs,)], self.further, show_progress=False)

    def mask(self, rdr: RelaxedDecisionRegion, n_neurons: int = 1):
        """Masks of all layers, from S of one instance: every neuron is unanimous."""
        masks = rdr.attribute(
            self.inputs, 1, n_neurons, self.further, return_regions=False
        )
        return tuple(masks) if isinstance(masks, list) else (masks,)

    def break_last_leaf(self) -> str:
        """Replace the last module that the model calls, and return its name."""
        called = []
        handles = [
            module.register_forward_pre_hook(
                lambda _, args, name=name: called.append(name)
            )
            for name, module in self.model.named_modules()
            if not list(module.children())
        ]
        self.model(*self.inputs, *(_as_tuple(self.further) if self.further else ()))
        for handle in handles:
            handle.remove()
        parent, _, name = called[-1].rpartition(".")
        setattr(self.model.get_submodule(parent), name, ErrorModule())
        return called[-1]

    def assert_no_hooks(self) -> None:
        for name, module in self.model.named_modules():
            assert not module._forward_hooks, name
            assert not module._backward_hooks, name
            assert not module._forward_pre_hooks, name


@pytest.fixture(
    params=_layer_configurations(), ids=lambda configuration: configuration["name"]
)
def case(request) -> Case:
    return Case(request.param)


def test_hooks_are_gone_afterwards(case):
    masks = case.mask(case.fit(case.rdr()))
    case.assert_no_hooks()
    for mask in masks:
        assert len(mask) == len(case.inputs[0])
        assert bool(((mask != 0).flatten(1).sum(1) == 1).all())


def test_hooks_are_gone_after_a_bad_argument(case):
    rdr = case.fit(case.rdr())
    with pytest.raises(ValueError, match="n_neurons=9999 is more than the layer's"):
        case.mask(rdr, n_neurons=9999)
    case.assert_no_hooks()
    with pytest.raises(
        ValueError, match="fired 1 times in one pass, and call_index=99"
    ):
        case.fit(case.rdr(call_index=99))
    case.assert_no_hooks()


def test_hooks_are_gone_after_a_failing_module(case):
    rdr = case.fit(case.rdr())
    bank = rdr.bank
    case.break_last_leaf()
    with pytest.raises(RuntimeError, match="Expected"):
        case.fit(rdr)
    case.assert_no_hooks()
    assert rdr.bank is bank  # the earlier bank stays


def test_data_parallel_gives_the_same(case):
    plain = case.mask(case.fit(case.rdr()))
    wrapped = case.rdr(nn.DataParallel(case.model))
    assertTensorTuplesAlmostEqual(BaseTest(), case.mask(case.fit(wrapped)), plain)
    case.assert_no_hooks()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("device_ids", [[0, 1], [1, 0]])
def test_data_parallel_on_two_devices_gives_the_same(case, device_ids):
    plain = case.mask(case.fit(case.rdr()))
    case.model.to(f"cuda:{device_ids[0]}")
    wrapped = case.rdr(nn.DataParallel(case.model, device_ids))
    on_devices = tuple(mask.cpu() for mask in case.mask(case.fit(wrapped)))
    assertTensorTuplesAlmostEqual(BaseTest(), on_devices, plain)
    case.assert_no_hooks()


def test_configurations_cover_every_layer_of_captums_own():
    """Should Captum's format change, no test may vanish silently."""
    cases = [Case(one) for one in _layer_configurations()]
    assert len(cases) >= 8
    kinds = {type(one.layer_name) for one in cases}
    assert kinds == {str, list}
    assert any(len(one.inputs) > 1 for one in cases)
    assert any(one.further is not None for one in cases)
