"""Banks whose states the model no longer gives, whatever the reason."""

import copy
import functools
import multiprocessing
import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from captum_rdr import ConfigurationBank, RelaxedDecisionRegion
from captum_rdr.pooling import spatial_mean

STALE = r"bank of layer .*(\d+ of \d+ states \(.* %\)|weights, layer).*fit again"


def fit(function, layer, x, **choices) -> RelaxedDecisionRegion:
    rdr = RelaxedDecisionRegion(function, layer, **choices)
    return rdr.fit(x, show_progress=False)


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU())


@pytest.fixture
def x():
    return torch.randn(50, 6, generator=torch.Generator().manual_seed(2))


def refused(rdr, x, match=STALE) -> None:
    with pytest.raises(ValueError, match=match):
        rdr.attribute(x[:2], 3, 2)
    with pytest.raises(ValueError, match=match):
        rdr.states(x[:2])


def fused_step(net, x):
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, fused=True)
    net(x).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def through_numpy(net, x):
    net[0].weight.detach().numpy()[:] *= -1


def one_value_through_numpy(net, x):
    net[0].bias.detach().numpy()[3] += 50


def through_data(net, x):
    net[2].weight.data.neg_()


def another_activation(net, x):
    net[1] = nn.Tanh()


def exchanged_function(net, x):
    net[1].forward = torch.sin


def a_hook_of_the_user(net, x):
    net[2].register_forward_hook(lambda module, args, output: output - 1)


def a_pre_hook_of_the_user(net, x):
    net[2].register_forward_pre_hook(lambda module, args: (-args[0],))


def a_global_hook(net, x):
    def shift(module, args, output):
        return output - 1 if isinstance(module, nn.Linear) else None

    nn.modules.module.register_module_forward_hook(shift)


CHANGES = [
    fused_step,
    through_numpy,
    one_value_through_numpy,
    through_data,
    another_activation,
    exchanged_function,
    a_hook_of_the_user,
    a_pre_hook_of_the_user,
    a_global_hook,
]


@pytest.fixture(autouse=True)
def no_global_hooks():
    yield
    nn.modules.module._global_forward_hooks.clear()


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_no_version(change, x, tmp_path):
    net = mlp()
    rdr = fit(net, net[3], x)
    rdr.bank.save(tmp_path / "bank")
    rdr.attribute(x[:2], 3, 2)
    change(net, x)
    refused(rdr, x)
    bank = ConfigurationBank.load(tmp_path / "bank")
    refused(RelaxedDecisionRegion(net, net[3], bank=bank), x)
    RelaxedDecisionRegion(net, net[3], bank=bank, force=True).attribute(x[:2], 3, 2)


def test_the_error_counts_states(x):
    net = mlp()
    rdr = fit(net, net[3], x)
    net[2].register_forward_hook(lambda module, args, output: output - 0.1)
    before = rdr.bank.states(slice(8))
    expected = int((before != (net(x[:8]) > 0)).sum())
    with pytest.raises(ValueError, match=f"{expected} of 320 states") as caught:
        rdr.attribute(x[:2], 3, 2)
    assert "out of date" in str(caught.value)


def test_inference_tensors(x):
    with torch.inference_mode():
        net = mlp()
        rdr = fit(net, net[3], x)
        rdr.attribute(x[:2], 3, 2)
        net[0].weight.neg_()
    refused(rdr, x)


def test_statistics_without_a_counter(x):
    net = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU())
    net[1].num_batches_tracked = None
    rdr = fit(net, net[2], x)
    net.train()(x * 5 + 3)
    refused(rdr, x)


class Switched(nn.Module):
    """As LoRA layers are: what is added can be switched off, or exchanged."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.base = nn.Linear(6, 30)
        self.added = nn.ModuleDict({"a": nn.Linear(6, 30), "b": nn.Linear(6, 30)})
        self.active, self.disabled, self.scale = ["a"], False, {"a": 2.0, "b": 2.0}
        self.threshold = nn.Threshold(0.0, 0.0)

    def forward(self, x):
        y = self.base(x)
        if not self.disabled:
            y = y + sum(self.scale[n] * self.added[n](x) for n in self.active)
        return self.threshold(y)


def disable(model):
    model.disabled = True


def other_adapter(model):
    model.active[0] = "b"


def other_scale(model):
    model.scale["a"] = -2.0


def threshold_value(model):
    model.threshold.value = 1.0


@pytest.mark.parametrize(
    "change", [disable, other_adapter, other_scale, threshold_value]
)
def test_switches_that_are_no_tensors(change, x):
    model = Switched()
    rdr = fit(model, model.threshold, x)
    rdr.attribute(x[:2], 3, 2)
    change(model)
    refused(rdr, x)


def test_a_slope(x):
    net = nn.Sequential(nn.Linear(6, 20), nn.LeakyReLU(0.1))
    rdr = fit(net, net[1], x, threshold=-0.05)
    net[1].negative_slope = 0.01
    refused(rdr, x)


def decorated(net):
    def noted(function):
        @functools.wraps(function)
        def inner(*args):
            return function(*args)

        return inner

    return noted(lambda x: net(x))


def nested(net):
    def outer(x):
        def inner():
            return net(x)

        return inner()

    return outer


class Holder:
    def __init__(self, net) -> None:
        self.inner = type("Inner", (), {})()
        self.inner.net = net

    def __call__(self, x):
        return self.inner.net(x)


class Slots:
    __slots__ = ("net",)

    def __init__(self, net) -> None:
        self.net = net

    def __call__(self, x):
        return self.net(x)


HIDING = {
    "decorated": decorated,
    "nested": nested,
    "default": lambda net: lambda x, model=net: model(x),
    "dict": lambda net: lambda x, held={"net": net}: held["net"](x),
    "list": lambda net: functools.partial(lambda held, x: held[0](x), [net]),
    "holder": Holder,
    "slots": Slots,
    "compiled": lambda net: torch.compile(lambda x: net(x), backend="eager"),
}


@pytest.mark.parametrize("hide", HIDING)
@pytest.mark.parametrize("keep_probe", [True, False])
def test_models_behind_functions(hide, keep_probe, x):
    net = mlp().eval()
    rdr = RelaxedDecisionRegion(HIDING[hide](net), net[3])
    rdr.fit(x, keep_probe=keep_probe, show_progress=False)
    rdr.attribute(x[:2], 3, 2)
    fused_step(net, x)
    refused(rdr, x)


def test_packed_quantized_weights(x):
    torch.backends.quantized.engine = "fbgemm"
    net, other = mlp(), mlp()
    nn.init.normal_(other[2].weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nets = [
            torch.ao.quantization.quantize_dynamic(one, {nn.Linear}, torch.qint8)
            for one in (net, other)
        ]
    for keep_probe in (True, False):
        rdr = RelaxedDecisionRegion(nets[0], nets[0][3])
        rdr.fit(x, keep_probe=keep_probe, show_progress=False).attribute(x[:2], 3, 2)
        refused(RelaxedDecisionRegion(nets[1], nets[1][3], bank=rdr.bank), x)


class Pool:
    def __init__(self, sign) -> None:
        self.sign = sign

    def __call__(self, output):
        return self.sign * output.flatten(2).amax(2)


def closure(sign):
    return lambda output: sign * output.mean((2, 3))


def linear_pool(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 10))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (closure(1), closure(-1)),
        (Pool(1), Pool(-1)),
        (nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1)),
        (nn.MaxPool2d(2, 2), nn.MaxPool2d(3, 1)),
        (linear_pool(0), linear_pool(1)),
    ],
    ids=["closure", "instance", "overlap", "shape", "weights"],
)
def test_pools_of_one_name(one, other, images):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Identity())
    bank = fit(net, net[1], images, pool=one).bank
    RelaxedDecisionRegion(net, net[1], pool=one, bank=bank).attribute(images[:2], 3, 2)
    rdr = RelaxedDecisionRegion(net, net[1], pool=other, bank=bank)
    with pytest.raises(ValueError, match="out of date"):
        rdr.attribute(images[:2], 3, 2)


class Lazy(nn.Module):
    """Makes a buffer, and repacks its weights, in the first forward pass."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.is_packed = nn.Parameter(torch.randn(20, 6)), False
        self.act = nn.ReLU()

    def forward(self, x):
        if not self.is_packed:
            self.weight = nn.Parameter(self.weight.detach().t().contiguous())
            self.register_buffer("scale", torch.ones(()))
            self.is_packed = True
        return self.act(x @ self.weight * self.scale)


@pytest.mark.parametrize("keep_probe", [True, False])
def test_the_model_that_was_just_fitted_is_taken(keep_probe, x, tmp_path):
    model = Lazy()
    rdr = RelaxedDecisionRegion(model, model.act)
    rdr.fit(x, keep_probe=keep_probe, show_progress=False).attribute(x[:2], 3, 2)
    rdr.bank.save(tmp_path / "bank")
    bank = ConfigurationBank.load(tmp_path / "bank")
    again = Lazy()  # as in another process, where it has not run yet
    RelaxedDecisionRegion(again, again.act, bank=bank).attribute(x[:2], 3, 2)
    if keep_probe:
        RelaxedDecisionRegion(model, model.act, bank=bank).attribute(x[:2], 3, 2)


def test_layers_behind_the_one_explained_may_change(x):
    net = mlp()
    rdr = fit(net, net[1], x)
    fused_step(net[2], torch.randn(3, 40))
    rdr.attribute(x[:2], 3, 2)
    net[2].register_forward_hook(lambda module, args, output: -output)
    rdr.attribute(x[:2], 3, 2)


def test_a_bank_is_kept_by_copies_and_files(x, tmp_path):
    net = mlp()
    bank = fit(net, net[3], x).bank
    bank.save(tmp_path / "bank")
    copies = [
        ConfigurationBank.load(tmp_path / "bank"),
        copy.deepcopy(bank),
        bank.take(torch.arange(9)),
        RelaxedDecisionRegion(net, net[3])
        .fit(x, out=tmp_path / "other", show_progress=False)
        .bank,
    ]
    net[2].register_forward_hook(lambda module, args, output: output - 1)
    for one in copies:
        refused(RelaxedDecisionRegion(net, net[3], bank=one), x)


def test_inputs_can_be_left_out(x, tmp_path):
    net = mlp()
    rdr = RelaxedDecisionRegion(net, net[3])
    rdr.fit(x, keep_probe=False, out=tmp_path / "bank", show_progress=False)
    assert rdr.bank.probe is None
    assert not list((tmp_path / "bank").glob("probe*"))
    with torch.no_grad():
        net[0].weight.add_(1)
    refused(rdr, x, "weights, layer, pool or call_index differ; it has fingerprint .*")


def test_large_and_odd_inputs_are_not_kept(x):
    model = nn.Identity()
    assert fit(model, model, torch.zeros(2, 1 << 20)).bank.probe is not None
    assert fit(model, model, torch.zeros(2, (1 << 20) + 1)).bank.probe is None

    class Taking(nn.Module):
        def forward(self, x, what):
            return x

    taking = Taking()
    rdr = RelaxedDecisionRegion(taking, taking)
    assert rdr.fit(x, (object(),), show_progress=False).bank.probe is None
    assert rdr.fit(x, ("word",), show_progress=False).bank.probe is not None


def test_a_damaged_probe_is_refused(x, tmp_path):
    net = mlp()
    rdr = fit(net, net[3], x)
    rdr.bank.save(tmp_path / "bank")
    (path,) = (tmp_path / "bank").glob("probe*")
    held = bytearray(path.read_bytes())
    held[140] ^= 255
    path.write_bytes(held)
    with pytest.raises(ValueError, match="checksum is another"):
        ConfigurationBank.load(tmp_path / "bank")
    with pytest.raises(ValueError, match="first instances cannot be read"):
        ConfigurationBank.load(tmp_path / "bank", verify=False)


def test_weights_on_meta():
    net = mlp().to("meta")
    for data in (torch.zeros(3, 6), torch.zeros(3, 6, device="meta")):
        with pytest.raises((ValueError, RuntimeError), match="meta"):
            fit(net, net[3], data)


class Offloaded(nn.Module):
    """Loads its weights for each pass, as accelerate's hooks do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(6, 20), nn.ReLU()
        self.held = dict(self.linear.state_dict())
        self.linear.to("meta")

    def forward(self, x):
        return self.act(F.linear(x, self.held["weight"], self.held["bias"]))


def test_offloaded_weights(x):
    model = Offloaded()
    rdr = fit(model, model.act, x)
    rdr.attribute(x[:2], 3, 2)
    model.held["weight"] = -model.held["weight"]
    refused(rdr, x)


def test_tensors_of_a_library(x):
    from torch.testing._internal.two_tensor import TwoTensor

    net = mlp()
    net[0].weight = nn.Parameter(
        TwoTensor(net[0].weight.detach(), net[0].weight.detach().clone())
    )

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net[1:](F.linear(x, self.net[0].weight.a, self.net[0].bias))

    model = Plain()
    rdr = fit(model, net[3], x)
    rdr.attribute(x[:2], 3, 2)
    net[0].weight.a.numpy()[:] *= -1
    refused(rdr, x)


def test_autocast(x):
    net = mlp()
    with torch.autocast("cpu", torch.bfloat16):
        rdr = fit(net, net[2], x * 3, threshold="median")
        rdr.attribute(x[:2], 3, 2)
    with pytest.raises(ValueError, match=r"autocast was torch\.bfloat16 on cpu"):
        rdr.attribute(x[:2], 3, 2)


def test_states_that_depend_on_the_batch_or_on_chance(x):
    norm = nn.Sequential(
        nn.Linear(6, 20), nn.BatchNorm1d(20, track_running_stats=False), nn.ReLU()
    )

    class Noisy(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.5, training=True)

    noisy = Noisy()
    for model, layer in ((norm, norm[2]), (noisy, noisy)):
        rdr = RelaxedDecisionRegion(model, layer)
        with pytest.warns(UserWarning, match="depend on the batch or on chance"):
            rdr.fit(x, show_progress=False)
        rdr.attribute(x[:2], 3, 2)


def test_rounding_is_not_taken_for_a_change(images, net):
    rdr = fit(net, net[2], images, threshold="median")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    net.to(memory_format=torch.channels_last)
    rdr.attribute(images[:2], 3, 2)
    torch.set_num_threads(threads)
    pooled = fit(net, net[0], images, pool=spatial_mean, threshold="median")
    net[6].register_forward_hook(lambda *_: None)
    pooled.attribute(images[:2], 3, 2)


def ask(bank, x, queue):
    net = mlp()
    rdr = RelaxedDecisionRegion(net, net[3], bank=bank)
    queue.put(rdr.attribute(x[:2], 3, 2)[1][0].members.tolist())


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_bank_in_the_arguments_of_a_process(method, x):
    net = mlp()
    rdr = fit(net, net[3], x)
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=ask, args=(rdr.bank, x, queue))
    process.start()
    assert queue.get(timeout=100) == rdr.attribute(x[:2], 3, 2)[1][0].members.tolist()
    process.join()


def test_layer_attributions_of_a_concept_score_may_hook(images, net):
    from captum.attr import LayerIntegratedGradients

    net.eval()
    rdr = fit(net, net[6], images)
    (region,) = rdr.attribute_members([0], 4, 3)
    score = rdr.concept_score(region)
    method = LayerIntegratedGradients(score, net[2])
    assert method.attribute(images[:2], n_steps=4).shape == (2, 4, 6, 6)
    with torch.no_grad():
        net[0].weight.add_(1)
    with pytest.raises(ValueError, match=re.compile("fingerprint")):
        method.attribute(images[:2], n_steps=4)
