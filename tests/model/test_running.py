"""Forward passes: batches, modes, hooks of the user's, buffers, checkpoints, interrupts."""

import contextlib
import sys
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.model import hooks, states
from captum_rdr.model.hooks import evaluating, undisturbed
from captum_rdr.pooling import spatial_max, spatial_mean


def fit(function, layer, x, **choices) -> RelaxedDecisionRegion:
    rdr = RelaxedDecisionRegion(function, layer, **choices)
    return rdr.fit(x, show_progress=False)


class Sized(nn.Module):
    """Notes the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.sizes = nn.Linear(5, 30), []

    def forward(self, x, shift, scale=1.0):
        self.sizes.append(len(x))
        return self.linear(x + shift) * scale


@pytest.fixture
def x():
    return torch.randn(150, 5, generator=torch.Generator().manual_seed(2))


def test_inputs_are_run_in_batches(x, capsys):
    model = Sized()
    shift = torch.randn(150, 1)
    rdr = RelaxedDecisionRegion(model, model.linear)
    rdr.fit([{"x": x, "shift": shift}], show_progress=False)
    whole = (model.linear(x + shift) > 0).detach()
    for given in ((x, shift), {"x": x, "shift": shift}):
        for size, wanted in ((None, [64, 64, 22]), (100, [100, 50]), (150, [150])):
            choices = {"internal_batch_size": size}
            model.sizes.clear()
            assert rdr.states(given, **choices).equal(whole)
            assert model.sizes[-len(wanted) :] == wanted
            masks, regions = rdr.attribute(given, 3, 2, **choices)
            inside = rdr.contains(regions[0], given, **choices)
            assert inside.nonzero().flatten().equal(regions[0].members)
            assert len(masks) == len(regions) == 150
    rdr.states(x, shift)
    assert capsys.readouterr().err == ""
    rdr.states(x, shift, show_progress=True)
    assert "3/3" in capsys.readouterr().err
    for size, error in ((0, ValueError), (2.5, TypeError)):
        with pytest.raises(error, match="internal_batch_size"):
            rdr.states(x, shift, internal_batch_size=size)


def test_forward_functions_in_inference_mode(x):
    net = nn.Sequential(nn.Linear(5, 9), nn.BatchNorm1d(9), nn.ReLU()).eval()
    plain = fit(net, net[2], x, threshold="median")
    run = torch.inference_mode()(lambda x: net(x))
    rdr = fit(run, net[2], x, threshold="median")
    assert rdr.bank.rows.equal(plain.bank.rows)
    assert not rdr.bank.rows.is_inference()
    assert rdr.attribute(x, 3, 2)[0].equal(plain.attribute(x, 3, 2)[0])


class Buffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", None)
        self.register_buffer("sizes", torch.zeros(2))
        self.act = nn.ReLU()

    def forward(self, x):
        self.cache = x.sum()
        self.sizes.resize_(len(x)).fill_(1.0)
        if not hasattr(self, "late"):
            self.register_buffer("late", torch.ones(()))
        return self.act(x * self.late)


def test_buffers_that_a_pass_makes_or_resizes(x):
    model = Buffers()
    rdr = fit(model, model.act, x)
    rdr.attribute(x[:3], 3, 2)
    assert model.cache is None
    assert model.sizes.tolist() == [0.0, 0.0]


def test_a_sampled_median_leaves_the_random_state_alone(x, monkeypatch):
    monkeypatch.setattr(states, "MEDIAN_BYTES", 1000)
    net = nn.Sequential(nn.Linear(5, 9), nn.ReLU())
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match="read off"):
        fit(net, net[1], DataLoader(TensorDataset(x), 16), threshold="median")
    assert torch.get_rng_state().equal(before)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_layers_within_scripts_are_refused(x):
    net = nn.Sequential(nn.Linear(5, 9), nn.ReLU()).eval()
    scripts = [torch.jit.script(net), torch.jit.trace(net, x)]
    for script in (*scripts, torch.jit.freeze(scripts[0])):
        for layer in (net[1], *script.children()):
            with pytest.raises(ValueError, match=r"did not fire.*scripted model pass"):
                fit(script, layer, x)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_model_that_holds_a_script(x):
    frozen = torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Linear(5, 9)).eval()))
    model = nn.Sequential(frozen, nn.ReLU())
    fit(model, model[1], x).attribute(x[:3], 3, 2)


class Ending(nn.Module):
    def __init__(self, how) -> None:
        super().__init__()
        self.first, self.second, self.seen = nn.ReLU(), nn.ReLU(), []
        self.how = how

    def forward(self, x):
        if self.how == "finally":
            return self.with_finally(x)
        return self.second(self.first(x))

    def with_finally(self, x):
        return x


class Finally(Ending):
    def forward(self, x):
        y = None
        try:
            y = self.second(self.first(x))
        finally:
            self.seen.append(y is not None)
        return y


class With(Ending):
    @contextlib.contextmanager
    def noting(self):
        done = []
        try:
            yield done
        finally:
            self.seen.append(bool(done))

    def forward(self, x):
        with self.noting() as done:
            y = self.second(self.first(x))
            done.append(1)
        return y


@pytest.mark.parametrize("kind", [Finally, With])
def test_blocks_at_the_end_see_whole_passes(kind, x):
    model = kind("")
    fit(model, model.first, x).attribute(x, 3, 2)
    assert len(model.seen) >= 6
    assert all(model.seen)


def test_hooks_of_the_user_see_whole_passes(x):
    model = Ending("")
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    fit(model, model.first, x).attribute(x, 3, 2)
    assert len(seen) == 6


class Checkpointed(nn.Module):
    def __init__(self, reentrant, inside) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)
        )
        self.layer = nn.Conv2d(4, 5, 3)
        self.reentrant, self.inside, self.is_plain = reentrant, inside, False

    def forward(self, x):
        if self.is_plain:
            return self.layer(self.before(x))
        body = nn.Sequential(self.before, self.layer) if self.inside else self.before
        y = checkpoint(body, x, use_reentrant=self.reentrant)
        return y if self.inside else self.layer(y)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("pool", [None, spatial_mean, spatial_max])
@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_checkpointed_models(pool, reentrant, inside, training, images):
    model = Checkpointed(reentrant, inside).train(training)
    rdr = fit(model, model.layer, images, pool=pool)
    (region,) = rdr.attribute_members([0], 4, 3)
    score = rdr.concept_score(region)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = images[:3].clone().requires_grad_()
    refused = (reentrant and inside) or training
    if training:
        with pytest.raises(ValueError, match="turn checkpointing off"):
            score(x)
    elif refused:
        with pytest.raises(RuntimeError, match="does not require grad"):
            score(x).sum().backward()
    else:
        score(x).sum().backward()  # reentrant checkpoints know no torch.autograd.grad
        found = x.grad
    model.is_plain = True
    (expected,) = torch.autograd.grad(score(x).sum(), x)
    assert refused or found.allclose(expected, atol=1e-7)
    for name, value in model.state_dict().items():
        assert value.equal(before[name])


class Interrupted(BaseException):
    pass


def interrupt_at(number, function) -> bool:
    """Raise at the n-th line that the package runs; False if it has fewer."""
    left = [number]

    def trace(frame, event, _):
        if "captum_rdr" not in frame.f_code.co_filename:
            is_ours = frame.f_code.co_filename.endswith("contextlib.py")
            if not is_ours:
                return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                sys.settrace(None)
                raise Interrupted
        return trace

    old = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except Interrupted:
        return True
    finally:
        sys.settrace(old)
    return False


def is_free() -> bool:
    """Whether another thread can record."""
    found = []

    def take():
        found.append(hooks._RUNNING.acquire(blocking=False))
        if found[0]:
            hooks._RUNNING.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return found[0]


CONTEXTS = ["undisturbed", "evaluating", "clamping", "attribute", "fit", "score"]


@pytest.mark.parametrize("what", CONTEXTS)
def test_an_interrupt_leaves_nothing_behind(what, images, net):
    small = images[:12]
    rdr = fit(net, net[2], small)
    (region,) = rdr.attribute_members([0], 3, 2)
    score = rdr.concept_score(region)
    neurons = torch.tensor([0, 1])

    def record():
        with undisturbed([net[2]], net):
            pass

    def evaluate():
        with evaluating(net):
            pass

    def clamp():
        with rdr.clamping(neurons, 1.0):
            net(small[:1])

    calls = {
        "undisturbed": record,
        "evaluating": evaluate,
        "clamping": clamp,
        "attribute": lambda: rdr.attribute(small[:1], 3, 2),
        "fit": lambda: fit(net, net[2], small),
        "score": lambda: score(small[:1]),
    }
    modes = [module.training for module in net.modules()]
    number, wrong = 1, []
    while interrupt_at(number, calls[what]):
        found = (
            [module.training for module in net.modules()] == modes,
            not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules()),
            torch.is_grad_enabled(),
            is_free(),
            not nn.modules.module._global_forward_pre_hooks,
            torch.backends.mha.get_fastpath_enabled(),
        )
        if not all(found):
            wrong.append((number, found))
            for module, mode in zip(net.modules(), modes, strict=True):
                module.training = mode
                module._forward_hooks.clear()
                module._forward_pre_hooks.clear()
            nn.modules.module._global_forward_pre_hooks.clear()
            torch.set_grad_enabled(True)
            torch.backends.mha.set_fastpath_enabled(True)
            while not is_free():
                hooks._RUNNING.release()
        number += 1 if what in ("undisturbed", "evaluating", "clamping") else 7
    assert number > 20
    assert wrong == []
