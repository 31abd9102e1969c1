"""Recording layers, and leaving everything as it was."""

import contextlib
import functools
import random
import threading
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.model.fingerprint import weights_digest
from captum_rdr.model.hooks import evaluating, undisturbed
from captum_rdr.model.inputs import ForwardArguments
from captum_rdr.model.reader import LayerReader, Record


class Counting(nn.Module):
    """Passes its input on and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x


class Shared(nn.Module):
    """Calls one ReLU three times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.relu = nn.Linear(4, 5), nn.Linear(5, 5), nn.ReLU()
        self.unused = nn.Linear(4, 5)

    def forward(self, x):
        x = self.relu(self.first(x))
        x = self.relu(self.second(x) - 1)
        return self.relu(self.second(x) + 1)


class Writing(nn.Module):
    """Writes its buffers even in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 6)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.full((2,), float("nan")))

    def forward(self, x):
        self.calls += 1
        self.last = x[:2, 0].detach().clone()
        return self.linear(x)


class Failing(nn.Module):
    """Fails from the second batch on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 1:
            raise RuntimeError("broken")
        return x


def picture(model: nn.Module):
    """Everything that must not change."""
    return {
        "state": {k: v.clone() for k, v in model.state_dict().items()},
        "grads": [
            None if p.grad is None else p.grad.clone() for p in model.parameters()
        ],
        "requires": [p.requires_grad for p in model.parameters()],
        "training": [m.training for m in model.modules()],
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in model.modules()
        ],
        "random": (
            torch.get_rng_state(),
            random.getstate(),
            np.random.get_state()[1].tolist(),
        ),
        "enabled": torch.is_grad_enabled(),
    }


def assert_same(one, other) -> None:
    for name, tensor in one["state"].items():
        left = tensor.contiguous().reshape(-1).view(torch.uint8)
        assert left.equal(
            other["state"][name].contiguous().reshape(-1).view(torch.uint8)
        )
    for left, right in zip(one["grads"], other["grads"], strict=True):
        assert (left is None and right is None) or left.equal(right)
    assert one["random"][0].equal(other["random"][0])
    assert one["random"][1:] == other["random"][1:]
    for name in ("requires", "training", "hooks", "enabled"):
        assert one[name] == other[name]


@pytest.fixture
def used_net(net, images):
    """A network with gradients, frozen parameters and batch statistics."""
    net(images).sum().backward()
    net[0].weight.requires_grad_(False)
    return net


def test_model_is_left_as_found(used_net, images):
    before = picture(used_net)
    loader = DataLoader(TensorDataset(images), batch_size=20)
    rdr = RelaxedDecisionRegion(used_net, [used_net[2], used_net[6]])
    rdr.fit(loader, show_progress=False)
    assert_same(before, picture(used_net))
    _, regions = rdr.attribute(images[:3])
    rdr.contains([one[0] for one in regions], images)
    assert_same(before, picture(used_net))


@pytest.mark.parametrize("to_input", [False, True])
def test_model_is_left_as_found_after_failures(used_net, images, to_input):
    used_net.insert(3, Failing())
    before = picture(used_net)
    rdr = RelaxedDecisionRegion(used_net, used_net[4])

    def fit(data):
        rdr.fit(data, attribute_to_layer_input=to_input, show_progress=False)

    with pytest.raises(RuntimeError, match="broken"):
        fit(images.split(20))
    assert_same(before, picture(used_net))
    assert rdr.bank is None

    used_net[3].calls = 0
    fit(images[:40].split(40))
    bank = rdr.bank
    with pytest.raises(RuntimeError, match="broken"):
        rdr.attribute(images[:2], attribute_to_layer_input=to_input)
    assert_same(before, picture(used_net))
    with pytest.raises(ValueError, match="n_neurons=0"):
        rdr.attribute(images[:2], n_neurons=0, attribute_to_layer_input=to_input)
    assert_same(before, picture(used_net))
    with pytest.raises(RuntimeError, match="broken"):
        fit(images)
    assert_same(before, picture(used_net))
    assert rdr.bank is bank


def test_buffers_that_a_forward_pass_writes_are_restored():
    model, x = Writing(), torch.randn(9, 4)
    before = picture(model)
    last = model.last
    rdr = RelaxedDecisionRegion(model, model.linear)
    rdr.fit(x, show_progress=False)
    assert_same(before, picture(model))
    assert model.last is last


def test_the_pass_ends_at_the_last_wanted_layer(net, images):
    counter = Counting()
    model = nn.Sequential(net[0], net[1], net[2], counter)
    rdr = RelaxedDecisionRegion(model, [model[2], model[0]])
    rdr.fit(images.split(30), show_progress=False)
    assert counter.calls == 1  # the first batch, which looks for a second call
    rdr.attribute(images[:2])
    assert counter.calls == 1


def test_a_models_except_does_not_swallow_the_early_end(images):
    class Guarded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.after = nn.Flatten(), Counting()

        def guarded(self, x):
            try:
                return self.inner(x)
            except Exception:
                raise AssertionError("swallowed") from None

        def forward(self, x):
            return self.after(self.guarded(x))

    model = Guarded()
    rdr = RelaxedDecisionRegion(model, model.inner).fit(
        images.split(30), show_progress=False
    )
    assert len(rdr.bank) == 90
    assert model.after.calls == 1


def test_a_layer_that_fires_several_times():
    model, x = Shared(), torch.randn(30, 4)
    rdr = RelaxedDecisionRegion(model, model.relu)
    with pytest.raises(
        ValueError, match=r"layer 'relu' fired 3 times .*call_index=-3 to 2"
    ):
        rdr.fit(x, show_progress=False)
    with torch.no_grad():
        first = model.relu(model.first(x))
        second = model.relu(model.second(first) - 1)
        third = model.relu(model.second(second) + 1)
    calls = {0: first, 1: second, 2: third, -1: third, -2: second, -3: first}
    for call_index, activations in calls.items():
        rdr = RelaxedDecisionRegion(model, model.relu, call_index=call_index)
        rdr.fit(x.split(10), show_progress=False)
        assert rdr.bank.states().equal(activations > 0)
    for call_index in (3, -4):
        rdr = RelaxedDecisionRegion(model, model.relu, call_index=call_index)
        with pytest.raises(
            ValueError, match=r"fired 3 times .*call_index=.*call_index=-3 to 2"
        ):
            rdr.fit(x, show_progress=False)


def test_a_loaded_bank_does_not_hide_a_layer_that_fires_several_times():
    model, x = Shared(), torch.randn(30, 4)
    bank = (
        RelaxedDecisionRegion(model, model.relu, call_index=0)
        .fit(x, show_progress=False)
        .bank
    )
    bank.fingerprint = ""
    rdr = RelaxedDecisionRegion(model, model.relu, bank=bank)
    with pytest.raises(ValueError, match="fired 3 times"):
        rdr.attribute(x[:2], n_neurons=2)


def test_a_layer_that_never_fires():
    model = Shared()
    rdr = RelaxedDecisionRegion(model, model.unused)
    with pytest.raises(ValueError, match=r"layer 'unused' did not fire .*_orig_mod"):
        rdr.fit(torch.randn(3, 4), show_progress=False)


def _skips_hooks(model, layer, x):
    fired = []
    handle = layer.register_forward_hook(lambda *_: fired.append(True))
    with torch.no_grad():
        model(x)
    handle.remove()
    return not fired


def test_a_compiled_model_that_was_traced_before_the_hooks():
    """Newer versions of PyTorch skip the hooks, older ones trace again: never no bank."""
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU()).eval()
    compiled, x = torch.compile(model, backend="eager"), torch.randn(9, 4)
    with torch.no_grad():
        compiled(x)
    with contextlib.ExitStack() as stack:
        rdr = RelaxedDecisionRegion(compiled, model[1])
        if _skips_hooks(compiled, model[1], x):
            said = r"layer '.*1' did not fire .*_orig_mod"
            stack.enter_context(pytest.raises(ValueError, match=said))
        rdr.fit(x, show_progress=False)
        assert rdr.bank.states().equal(model(x) > 0)
    rdr = RelaxedDecisionRegion(compiled._orig_mod, model[1]).fit(
        x, show_progress=False
    )
    assert rdr.bank.states().equal(model(x) > 0)


def test_an_in_place_operation_after_the_layer_does_not_change_its_states(net, images):
    rdr = RelaxedDecisionRegion(net, net[1]).fit(
        images, keep_features=True, show_progress=False
    )
    net.eval()
    with torch.no_grad():
        expected = net[1](net[0](images))
    assert rdr.bank.states().equal((expected > 0).flatten(1))
    assert rdr.bank.features.equal(expected.flatten(1))
    assert not bool((rdr.bank.features >= 0).all())


def test_layer_input(net, images):
    rdr = RelaxedDecisionRegion(net, net[6])
    rdr.fit(images, attribute_to_layer_input=True, show_progress=False)
    net.eval()
    with torch.no_grad():
        expected = net[:6](images)
    assert rdr.bank.states().equal(expected > 0)
    with pytest.raises(
        ValueError, match=r"attribute_to_layer_input=False, but .*fitted with True"
    ):
        rdr.attribute(images[:2])
    mask, (region, _) = rdr.attribute(images[:2], attribute_to_layer_input=True)
    assert mask.shape == (2, 20)
    assert bool(rdr.contains(region, images)[region.members].all())


def test_layer_input_given_as_keyword():
    class Inner(nn.Module):
        def forward(self, *, x):
            return x + 1

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x):
            return self.inner(x=x)

    model = Outer()
    rdr = RelaxedDecisionRegion(model, model.inner)
    x = torch.randn(9, 4)
    rdr.fit(x, attribute_to_layer_input=True, show_progress=False)
    assert rdr.bank.states().equal(x > 0)


class Wrapper:
    """Something callable that holds a model, or hides it."""

    def __init__(self, model, hidden=False) -> None:
        self.model = [model] if hidden else model

    def __call__(self, x):
        model = self.model[0] if isinstance(self.model, list) else self.model
        return model(x).softmax(1)

    def method(self, x):
        return self(x)


def test_functions_that_refer_to_a_model(used_net, images):
    expected = RelaxedDecisionRegion(used_net, used_net[1]).fit(
        images, show_progress=False
    )
    before = picture(used_net)
    wrapper = Wrapper(used_net)
    for function in (
        lambda x: used_net(x).softmax(1),
        used_net.forward,
        functools.partial(lambda model, x: model(x), used_net),
        functools.partial(used_net.forward),
        wrapper,
        wrapper.method,
    ):
        rdr = RelaxedDecisionRegion(function, used_net[1]).fit(
            images, show_progress=False
        )
        assert rdr.bank.rows.equal(expected.bank.rows)
        assert rdr.bank.fingerprint == expected.bank.fingerprint
        assert_same(before, picture(used_net))


def test_a_function_whose_container_holds_its_model(used_net, images):
    before = picture(used_net)
    rdr = RelaxedDecisionRegion(Wrapper(used_net, hidden=True), used_net[1])
    rdr.fit(images, show_progress=False)
    assert_same(before, picture(used_net))
    plain = RelaxedDecisionRegion(used_net, used_net[1]).fit(
        images, show_progress=False
    )
    assert rdr.bank.rows.equal(plain.bank.rows)
    assert rdr.bank.fingerprint == plain.bank.fingerprint


def hidden(model):
    """A function from which no reference leads to its model."""
    found = weakref.ref(model)
    return lambda x: found()(x)


def test_a_function_that_hides_its_model(net, images):
    rdr = RelaxedDecisionRegion(hidden(net), net[1])
    with pytest.raises(
        ValueError, match=r"'BatchNorm2d' is in training mode; call .eval\(\)"
    ):
        rdr.fit(images, show_progress=False)
    net.eval()
    rdr.fit(images, show_progress=False)
    plain = RelaxedDecisionRegion(net, net[1]).fit(images, show_progress=False)
    assert rdr.bank.rows.equal(plain.bank.rows)


def recorded(net, layer, device_ids):
    reader = LayerReader(net, [layer], device_ids, [None], None)
    return Record(reader, lambda _, output: (output,), False, False)


def test_parts_of_a_data_parallel_batch_are_put_in_order(net, images):
    """What two devices record, simulated by one that claims to be two."""
    parts = {
        torch.device("cuda", 0): images[60:],
        torch.device("cuda", 1): images[:60],
    }
    for device_ids in ([1, 0], None):
        record = recorded(net, net[1], device_ids)
        for device, part in parts.items():
            record._calls[0][device] = [(part,)]
        if device_ids:
            (together,) = record._value(0, "1")
            assert together.equal(images)
    with pytest.raises(ValueError, match=r"2 devices.*pass device_ids"):
        record._value(0, "1")


def test_data_parallel_on_one_device(net, images):
    plain = RelaxedDecisionRegion(net, net[2]).fit(images, show_progress=False)
    parallel = RelaxedDecisionRegion(nn.DataParallel(net), net[2]).fit(
        images, show_progress=False
    )
    assert plain.bank.rows.equal(parallel.bank.rows)


def test_replicas_in_threads_do_not_leave_early(net, images):
    reader = LayerReader(net, [net[2]], [0, 1], [None], None)
    counter, found = Counting(), []
    net.append(counter)
    with reader.reading(lambda _, output: (output.clone(),)) as read:

        def run():
            found.append(read(ForwardArguments((images,), {}), "", leave_early=True))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert counter.calls == 1
    assert found[0][0][0].shape == (90, 4, 6, 6)


def test_inside_inference_mode(net, images):
    with torch.inference_mode():
        rdr = RelaxedDecisionRegion(net, net[2]).fit(images, show_progress=False)
        mask, _ = rdr.attribute(images[:2])
    assert mask.shape == (2, 4, 6, 6)


def test_users_own_hooks_still_run(net, images):
    seen = []
    handle = net[0].register_forward_hook(lambda *_: seen.append(1))
    RelaxedDecisionRegion(net, net[2]).fit(images, show_progress=False)
    assert len(seen) == 2
    handle.remove()


def test_a_model_on_the_meta_device_is_left_as_found(net):
    net.to("meta")
    buffers = dict(net.named_buffers())
    with undisturbed([], net):
        assert net(torch.empty(2, 1, 8, 8, device="meta")).is_meta
    assert net[0].training
    assert all(dict(net.named_buffers())[name] is one for name, one in buffers.items())


def test_fused_transformer_layers_are_read_as_without_fusing():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.randn(30, 5, 8), torch.zeros(30, 5, dtype=torch.bool)
    padding[:, 4] = True
    for module in (model.layers[0], model.layers[1].linear1, model):
        rdr = RelaxedDecisionRegion(model, module)
        rdr.fit(x, (None, padding[:1].expand(64, -1)[:30]), show_progress=False)
        _, (region,) = rdr.attribute(x[:1], 4, 4, (None, padding[:1]))
        score = rdr.concept_score(region)
        with_gradients = score(x[:1], None, padding[:1])
        with torch.no_grad():
            assert score(x[:1], None, padding[:1]).allclose(with_gradients, atol=1e-6)
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.filterwarnings("ignore")
def test_buffers_of_any_layout():
    model = nn.Linear(3, 4)
    model.register_buffer("graph", torch.eye(3).to_sparse())
    model.register_buffer("rows", torch.eye(3).to_sparse_csr())
    model.register_buffer("wave", torch.ones(2, dtype=torch.complex64).conj())
    model.register_buffer(
        "whole", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    )
    model.register_buffer("empty", torch.empty(0))
    before = weights_digest([model])
    with evaluating(model):
        model.graph = torch.zeros(3, 3).to_sparse()
    assert weights_digest([model]) == before
    x = torch.randn(9, 3)
    bank = RelaxedDecisionRegion(model, model).fit(x, show_progress=False).bank
    assert bank.states().equal(model(x) > 0)
