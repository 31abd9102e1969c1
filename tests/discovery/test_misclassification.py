"""Errors, their groups and their repairs."""

from collections import Counter

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery import misclassification
from captum_rdr.discovery._evaluated import inputs_at
from captum_rdr.pooling import spatial_mean


def planted(**fit):
    """Two classes of two neurons each, and two shortcuts that decide alone.

    Neurons 6 and 7 fire for class 1 in the reference data. Of the inputs to evaluate the
    first 24 are of class 0 and have neuron 6, the next 24 of class 0 have neuron 7, and
    each comes with neurons of its own that mean nothing.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2).repeat_interleave(160)
    data = 0.3 * torch.randn(320, 40, generator=generator) - 0.5
    data[:160, :3] += 2.0
    data[160:, 3:8] += 2.0
    inputs, targets = data.clone(), labels.clone()
    inputs[:24, 6] += 12.0
    inputs[:24, 10:20] += 3.0
    inputs[24:48, 7] += 12.0
    inputs[24:48, 20:30] += 3.0
    model = nn.Sequential(nn.Identity(), nn.ReLU(), nn.Linear(40, 2))
    with torch.no_grad():
        model[2].bias.zero_()
        model[2].weight.zero_()
        model[2].weight[0, :3] = 1.0
        model[2].weight[1, 3:8] = 1.0
    rdr = RelaxedDecisionRegion(model, model[1])
    rdr.fit(data, show_progress=False, **{"keep_features": True, **fit})
    return rdr, inputs, targets, labels


def found_in(*given, **options):
    return misclassification(*given, show_progress=False, **options)


def test_two_causes_of_one_prediction_are_two_groups():
    rdr, inputs, targets, labels = planted()
    found = found_in(rdr, inputs, targets, labels)
    groups = {tuple(sorted(one.rows.tolist())) for one in found}
    assert groups == {tuple(range(24)), tuple(range(24, 48))}
    for one in found:
        assert one.targets == Counter({0: 24})
        assert one.predictions == Counter({1: 24})
        assert one.errors.p_value < 0.01
        assert one.errors.rate > one.errors.rate_elsewhere
        assert one.found_again > 0.5
        assert one.rate > 0.9
        assert sum(one.reference_labels.values()) == len(one.reference)
    assert found.separation() == 1.0
    assert "48 errors of 320 inputs, 2 groups, 0 errors in none" in repr(found)
    assert len(repr(found[0]).splitlines()) == 1


def test_one_cause_of_two_predictions_is_one_group():
    rdr, inputs, targets, _ = planted()
    model = nn.Sequential(rdr.forward_func, nn.Identity())
    with torch.no_grad():
        model[0][2] = nn.Linear(40, 3)
        model[0][2].bias.zero_()
        model[0][2].weight.zero_()
        model[0][2].weight[0, :3] = 1.0
        model[0][2].weight[1, 3:7] = 1.0
        model[0][2].weight[2, 6] = 1.0
        model[0][2].weight[2, 30] = 5.0
    inputs[24:48] = inputs[60:84]
    inputs[:24:2, 30] += 2.0
    rdr = RelaxedDecisionRegion(model, model[0][1])
    rdr.fit(inputs[48:], show_progress=False)
    found = found_in(rdr, inputs, targets)
    assert sorted(found[0].rows.tolist()) == list(range(24))
    assert len(found[0].predictions) == 2


@pytest.mark.parametrize("batch_size", [7, 64])
def test_a_loader_gives_what_tensors_give(batch_size):
    rdr, inputs, targets, labels = planted()
    loader = DataLoader(TensorDataset(inputs, targets), batch_size=batch_size)
    expected = found_in(rdr, inputs, targets, labels)
    found = found_in(rdr, loader, reference_targets=labels)
    assert repr(found) == repr(expected)
    assert [one.rows.tolist() for one in found] == [
        one.rows.tolist() for one in expected
    ]


def test_one_pass_over_the_data():
    rdr, inputs, targets, _labels = planted()
    seen = []
    rdr.forward_func[2].register_forward_hook(lambda _, x, y: seen.append(len(y)))
    found_in(rdr, inputs, targets)
    assert sum(seen) <= len(inputs) + 8  # the bank's first instances are looked at


def test_several_layers_in_one_pass():
    rdr, inputs, targets, labels = planted()
    model = rdr.forward_func
    both = RelaxedDecisionRegion(model, [model[0], model[1]], threshold="median")
    data = torch.cat([inputs[48:], inputs[:48]])
    both.fit(data, keep_features=True, show_progress=False)
    seen = []
    hook = model[2].register_forward_hook(lambda _, x, y: seen.append(len(y)))
    found_in(both, inputs, targets)
    hook.remove()
    assert sum(seen) <= len(inputs) + 2 * 8  # the banks' first instances are looked at
    found = found_in(both, inputs, targets, labels, repair=1)
    assert [one.layer for one in found] == ["0", "1"]
    for number, one in enumerate(found):
        alone = RelaxedDecisionRegion(model, model[number], threshold="median")
        alone.fit(data, keep_features=True, show_progress=False)
        expected = found_in(alone, inputs, targets, labels, repair=1)
        assert repr(one) == repr(expected)
        assert f"layer '{number}' separates {one.separation():.2f}" in repr(one)
        assert torch.equal(one.bank.rows, expected.bank.rows)
        assert torch.equal(one.outcomes, expected.outcomes)
        wrong = model(inputs).argmax(1) != targets
        assert torch.equal(one.rows, wrong.nonzero().flatten())
        assert torch.equal(one.outcomes[:, 0], targets[wrong])


class Reads(torch.utils.data.Dataset):
    """Inputs and labels, and which were read."""

    def __init__(self, inputs, labels):
        self.inputs, self.labels, self.read = inputs, labels, []

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, row):
        self.read.append(row)
        return self.inputs[row], self.labels[row]


class Stream(torch.utils.data.IterableDataset):
    """The same without numbers."""

    def __init__(self, inputs, labels):
        self.inputs, self.labels = inputs, labels

    def __iter__(self):
        return zip(self.inputs, self.labels, strict=True)


@pytest.mark.parametrize("kind", ["dataset", "loader", "stream", "batches", "tensor"])
def test_some_inputs_are_read_alone_where_they_can_be(kind):
    rdr, inputs, targets, _ = planted()
    dataset = Reads(inputs, targets)
    data = {
        "dataset": dataset,
        "loader": DataLoader(dataset, batch_sampler=[[0, 1, 2], [*range(3, 320)]]),
        "stream": DataLoader(Stream(inputs, targets), batch_size=7),
        "batches": [(inputs[:9], targets[:9]), (inputs[9:], targets[9:])],
        "tensor": inputs,
    }[kind]
    found = dict(inputs_at(rdr, data, [5, 300, 5, 64]))
    assert [*found] == [5, 64, 300]
    for row, given in found.items():
        assert torch.equal(given.args[0], inputs[row : row + 1])
    if kind in ("dataset", "loader"):
        assert dataset.read == [5, 64, 300]


def test_groups_are_judged_on_inputs_that_did_not_choose_them():
    rdr, inputs, targets, _labels = planted()
    found = found_in(rdr, inputs, targets, generator=torch.Generator().manual_seed(3))
    order = torch.randperm(320, generator=torch.Generator().manual_seed(3))
    judging = order.chunk(2)[1]
    for one in found:
        assert one.errors.n_wrong <= int(torch.isin(one.rows, judging).sum())


def test_random_errors_are_no_news():
    """Labels that are wrong at random."""
    significant = 0
    for seed in range(10):
        generator = torch.Generator().manual_seed(seed)
        data = torch.randn(200, 30, generator=generator)
        model = nn.Sequential(nn.Identity(), nn.Linear(30, 2))
        rdr = RelaxedDecisionRegion(model, model[0]).fit(data, show_progress=False)
        with torch.no_grad():
            targets = model(data).argmax(1)
        targets ^= torch.rand(200, generator=generator) < 0.15
        significant += found_in(rdr, data, targets).separation() > 0
    assert significant <= 2


def test_the_smallest_repair():
    rdr, inputs, targets, labels = planted()
    found = found_in(rdr, inputs, targets, labels, labels, repair=3)
    assert "3/3" in repr(found)
    for one in found:
        assert len(one.repairs) == 3
        for error in one.repairs:
            assert error.index in one.rows.tolist()
            values = rdr.bank.state_means(error.neurons, error.states)
            x = inputs[error.index : error.index + 1]
            counts = sorted({1, 2, 4, 8, 16, 32, len(values)})
            repairing = []
            for count in counts:
                with rdr.clamping(error.neurons[:count], values[:count]):
                    if int(rdr.forward_func(x).argmax()) == 0:
                        repairing.append(count)
            assert error.n_repairing == repairing[0]
            assert 0 <= error.by_chance <= 1


class Around(nn.Module):
    """A network whose input also goes around the layer, added or beside it."""

    def __init__(self, inner, way):
        super().__init__()
        self.layer, self.head, self.way = inner[1], inner[2], way

    def forward(self, x):
        seen = self.layer(x)
        if self.way == "added":
            return self.head(seen + 0 * x)
        if self.way == "beside":
            return self.head(torch.cat([seen, x], 1)[:, :40])
        return self.head(seen.reshape(len(x), 40))


@pytest.mark.parametrize("way", ["added", "beside", "counted"])
def test_repairs_where_the_input_goes_around_the_layer(way):
    rdr, inputs, targets, labels = planted()
    model = Around(rdr.forward_func, way)
    other = RelaxedDecisionRegion(model, model.layer)
    other.fit(inputs[48:], keep_features=True, show_progress=False)
    plain = nn.Sequential(model.layer, model.head)
    alone = RelaxedDecisionRegion(plain, plain[0])
    alone.fit(inputs[48:], keep_features=True, show_progress=False)
    found, expected = (
        found_in(one, inputs, targets, labels[48:], repair=3) for one in (other, alone)
    )
    assert any(one.repairs for one in found)
    for one, same in zip(found, expected, strict=True):
        for repair, wanted in zip(one.repairs, same.repairs, strict=True):
            assert repair.n_repairing == wanted.n_repairing is not None
            assert repair.by_chance == wanted.by_chance


def test_the_model_is_left_as_it_was():
    rdr, inputs, targets, labels = planted()
    model = rdr.forward_func
    model.train()
    model[0].eval()
    before = torch.get_rng_state()
    found_in(rdr, inputs, targets, labels, repair=1)
    assert [module.training for module in model] == [False, True, True]
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module._forward_hooks for module in model.modules())


def test_without_errors():
    rdr, inputs, targets, _labels = planted()
    right = found_in(rdr, inputs[60:80], targets[60:80])
    assert len(right) == len(right.rows) == 0
    assert right.separation() == 0.0
    assert "0 errors of 20 inputs" in repr(right)
    one = found_in(rdr, inputs[20:30:9], targets[20:30:9])
    assert "2 errors of 2 inputs" in repr(one)


def test_pooled_layers_and_functions():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 3)
    )
    images, labels = torch.randn(40, 1, 8, 8), torch.arange(40) % 3
    model.eval()
    rdr = RelaxedDecisionRegion(
        lambda x: model(x) + 0, model[1], pool=spatial_mean, threshold="median"
    )
    rdr.fit(images, keep_features=True, show_progress=False)
    with pytest.raises(ValueError, match="read through a pool"):
        found_in(rdr, images, labels, labels, repair=1)
    found = found_in(rdr, images, labels, labels)
    wrong = (model(images).argmax(1) != labels).nonzero().flatten()
    assert torch.equal(found.rows, wrong)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": [[1.0]]}, TypeError, "is a float|give"),
        ({"targets": [0, 1]}, ValueError, "targets"),
        ({"targets": None}, ValueError, "data gives no labels"),
        ({"reference_targets": [0]}, ValueError, r"reference_targets has 1 items for"),
        ({"reference_targets": [1] * 320}, ValueError, "class 0 has an error but no"),
        ({"reference_targets": None}, ValueError, "repair=1 needs reference_targets"),
        ({"repair": -1}, ValueError, "repair=-1 is too small"),
        (
            {"reference_predictions": [0.5] * 320},
            TypeError,
            "reference_predictions has dtype torch.float32",
        ),
    ],
)
def test_bad_arguments(change, error, message):
    rdr, inputs, targets, labels = planted()
    given = {
        "data": inputs,
        "targets": targets,
        "reference_targets": labels,
        "repair": 1,
    }
    with pytest.raises(error, match=message):
        found_in(rdr, **{**given, **change})


def test_a_model_that_is_no_classifier():
    model = nn.Identity()
    rdr = RelaxedDecisionRegion(model, model)
    data = torch.randn(20, 3, 4)
    rdr.fit(data, show_progress=False)
    with pytest.raises(ValueError, match=r"of shape \(20, 3, 4\) for 20 inputs"):
        found_in(rdr, data, torch.zeros(20, dtype=torch.int64))
