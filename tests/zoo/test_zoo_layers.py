"""The table of layers and the choice of one, for networks of all kinds."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from zoo_models import as_found

from captum_rdr import RelaxedDecisionRegion, zoo
from captum_rdr.zoo.flow import Flow


def row(table, name):
    return next(info for info in table if info.name == name)


def recommended(model, inputs):
    return [info.name for info in zoo.layers(model, inputs) if info.recommended]


class Residual(nn.Module):
    """A block whose ReLU, shared or functional, comes after the sum."""

    def __init__(self, width: int, functional: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.functional = functional

    def forward(self, x):
        y = self.conv2(self.act(self.norm1(self.conv1(x))))
        y += x
        return F.relu(y, inplace=True) if self.functional else self.act(y)


class Inverted(nn.Module):
    """Expansion, activation, squeeze and excitation, and a linear projection."""

    def __init__(self, width: int, act: type[nn.Module]) -> None:
        super().__init__()
        self.expand = nn.Conv2d(width, 4 * width, 1)
        self.act = act()
        self.fc1, self.fc2 = nn.Conv2d(4 * width, 2, 1), nn.Conv2d(2, 4 * width, 1)
        self.project = nn.Conv2d(4 * width, width, 1)

    def forward(self, x):
        y = self.act(self.expand(x))
        gate = F.relu(self.fc1(F.adaptive_avg_pool2d(y, 1)))
        return x + self.project(y * torch.sigmoid(self.fc2(gate)))


class Swish(nn.Module):
    """Without the function that computes it at once."""

    def forward(self, x):
        return x * torch.sigmoid(x)


class Shared(nn.Module):
    """A layer that fires twice, one that never does, and one that gives a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.flat = nn.Linear(4, 4)
        self.head = nn.Linear(4, 4)

    def forward(self, x):
        x, _ = self.lstm(torch.relu(self.twice(torch.relu(self.twice(x)))))
        rows = torch.relu(self.flat(x.flatten(0, 1))).unflatten(0, x.shape[:2])
        return torch.sigmoid(self.head(rows.mean(1)))


def test_a_residual_block_is_read_behind_its_relu():
    for functional in (False, True):
        net = nn.Sequential(*(Residual(4, functional) for _ in range(2)))
        table = zoo.layers(net, (4, 8, 8))
        assert recommended(net, (4, 8, 8)) == ["1"]
        assert row(table, "1").reason == "ends in relu: active where positive"
        assert row(table, "0.norm1").reason == "feeds relu: active where positive"
        assert row(table, "1.conv2").reason.startswith("linear")
        assert row(table, "0.act").usable is functional


@pytest.mark.parametrize(
    "act", [nn.ReLU6, Swish, nn.GELU, nn.Hardswish, nn.ELU, nn.Mish, nn.LeakyReLU]
)
def test_a_linear_bottleneck_is_read_at_its_expansion(act):
    net = nn.Sequential(*(Inverted(4, act) for _ in range(2)))
    table = zoo.layers(net, (4, 8, 8))
    assert recommended(net, (4, 8, 8)) == ["1.expand"]
    assert row(table, "1").reason.startswith("linear")
    assert row(table, "1").kind == "Inverted"
    squeeze = row(table, "1.fc1")
    assert (squeeze.stage, squeeze.usable) == (None, True)


@pytest.mark.parametrize("act", [nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.ReLU6])
def test_states_before_and_behind_a_nonlinearity_are_the_same(act):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 9), act())
    data = torch.randn(50, 4)
    before, behind = (
        RelaxedDecisionRegion(net, net[i]).fit(data, show_progress=False).bank
        for i in (0, 1)
    )
    rows = torch.arange(50)
    same = before.states(rows) == behind.states(rows)
    # Hard-swish is 0 from -3 down, which is inactive as well.
    assert bool(same.all())
    assert zoo.layer(net, -1, (4,)) is net[0]


def test_stages_begin_at_every_resolution():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(150, 7),
        nn.ReLU(),
        nn.Linear(7, 2),
    )
    table = zoo.layers(net, (3, 16, 16))
    stages = {info.name: info.stage for info in table}
    assert stages == {
        **dict.fromkeys(("0", "1"), 0),
        **dict.fromkeys(("4", "5", "6", "7"), 1),
        **dict.fromkeys(("3", "9", "10", "11")),
    }
    assert zoo.layer(net, 0, (3, 16, 16)) is net[0]
    assert zoo.layer(net, -1, (3, 16, 16)) is net[6]
    assert zoo.layer(net, "9", (3, 16, 16)) is net[9]


def test_a_norm_at_a_blocks_entry_belongs_to_what_came_before():
    class PreActivation(nn.Sequential):
        """As DenseNet's transitions and ResNetV2's blocks."""

    widths = [(4, 4), (4, 8), (8, 8)]
    net = nn.Sequential(
        *(
            PreActivation(
                nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, b, 3, 2, padding=1)
            )
            for a, b in widths
        )
    )
    table = zoo.layers(net, (4, 32, 32))
    assert [i.shape[1:] for i in table if i.recommended] == [(32, 32), (16, 16), (8, 8)]
    assert recommended(net, (4, 32, 32)) == ["0.0", "1.0", "2.0"]


def test_why_a_layer_cannot_be_used():
    table = zoo.layers(Shared(), (5, 4))
    reasons = {info.name: info.reason for info in table if not info.usable}
    assert reasons == {
        "unused": "did not fire: trains only, or is used as a function",
        "twice": "fires 2 times: choose one call with call_index",
        "flat": "first dimension 10 is not the batch of 2: use pool",
    }
    with pytest.raises(ValueError, match=r"'twice' cannot be used.*fires 2 times"):
        zoo.layer(Shared(), "twice", (5, 4))
    with pytest.raises(ValueError, match="no usable layer of the model"):
        zoo.layer(Shared(), -1, (5, 4))


def test_a_sigmoid_has_no_states_at_zero():
    table = zoo.layers(nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()), (4,))
    assert not row(table, "1").usable
    assert "sigmoid, never negative: use threshold" in row(table, "1").reason
    assert row(table, "0").reason.startswith("linear")


def test_a_model_may_be_named_after_norms():
    class NormalizedNet(nn.Sequential):
        """Its name and its attribute are those of a norm."""

        num_features = 4

    body = NormalizedNet(*(Residual(4) for _ in range(2)))
    table = zoo.layers(nn.Sequential(body, nn.Flatten(), nn.Linear(256, 2)), (4, 8, 8))
    assert [info.name for info in table if info.recommended] == ["0.1"]


def test_attention_gives_a_tuple():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    table = zoo.layers(nn.TransformerEncoder(layer, 2), (5, 8))
    kinds = {info.name: info.kind for info in table}
    assert kinds["layers.0"] == "TransformerEncoderLayer"
    assert row(table, "layers.1.self_attn").reason.startswith("gives a tuple")
    assert recommended(nn.TransformerEncoder(layer, 2), (5, 8)) == ["layers.1.linear1"]
    assert row(table, "layers.1.linear1").has_tokens


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (1, r"stage=1 but the model has 1 stages; use -1 to 0"),
        (-2, r"stage=-2 but the model has 1 stages"),
        ("7", r"layer '7' is not in the table; .* e.g. '0'"),
    ],
)
def test_no_such_layer(stage, message):
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with pytest.raises(ValueError, match=message):
        zoo.layer(net, stage, (4,))


def test_wrong_arguments():
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with pytest.raises(TypeError, match=r"stage=0\.5 is a float"):
        zoo.layer(net, 0.5, (4,))
    with pytest.raises(ValueError, match=r"cannot run on \{0: \(2, 5\)\}.*pass inputs"):
        zoo.layers(net, (5,))
    with pytest.raises(TypeError, match="inputs is a str"):
        zoo.layers(net, "abc")
    with pytest.raises(ValueError, match="'resnet5' is not one of torchvision"):
        zoo.layers("resnet5")


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_found(net, fails):
    before = as_found(net)
    inputs = (1, 8, 8) if not fails else (2, 8, 8)
    if fails:
        with pytest.raises(ValueError, match="cannot run"):
            zoo.layers(net, inputs)
    else:
        zoo.layers(net, inputs)
    assert as_found(net) == before


def test_on_the_meta_device(net):
    table = zoo.layers(net, (1, 8, 8))
    assert zoo.layers(net.to("meta"), (1, 8, 8)) == table


def test_the_table_is_easy_to_read(net):
    lines = repr(zoo.layers(net, (1, 8, 8))).splitlines()
    assert lines[0].split()[:4] == ["name", "stage", "kind", "shape"]
    assert lines[2].split() == (
        [
            "*",
            "1",
            "0",
            "BatchNorm2d",
            "4x6x6",
            "144",
            "feeds",
            "relu:",
            "active",
            "where",
            "positive",
        ]
    )
    assert len(lines) == 1 + len(zoo.layers(net, (1, 8, 8)))


def test_inputs_of_several_kinds(net):
    tables = [
        zoo.layers(net, given)
        for given in (
            (1, 8, 8),
            torch.zeros(3, 1, 8, 8),
            (torch.zeros(3, 1, 8, 8),),
            {"input": torch.zeros(3, 1, 8, 8)},
        )
    ]
    assert all(table == tables[0] for table in tables)


def follow(function, x):
    """Names of the gates that take ``x``, and of the one that the result is of."""
    taken = []
    with Flow() as flow:
        flow.watch(x, lambda gate: taken.append(gate.name))
        gate = flow.gate(function(x))
    return taken, gate and gate.name


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x.relu(), (["relu"], "relu")),
        (lambda x: torch.relu_(x), (["relu"], "relu")),
        (lambda x: F.relu(input=x), (["relu"], "relu")),
        (lambda x: F.leaky_relu(x, 0.1), (["leaky_relu"], "leaky_relu")),
        (lambda x: x.flatten(1).t().relu(), (["relu"], "relu")),
        (lambda x: (x + 1).relu(), ([], "relu")),
        (lambda x: x.add_(1).relu_(), ([], "relu")),
        (lambda x: torch.cat([x, x]).relu(), (["relu", "relu"], "relu")),
        (lambda x: torch.cat([x.relu(), x.tanh()]), (["relu", "tanh"], "relu/tanh")),
        (lambda x: torch.cat([x.relu(), x]), (["relu"], None)),
        (lambda x: x.relu().chunk(2)[0].view(-1), (["relu"], "relu")),
        (lambda x: x.chunk(2)[0].relu(), ([], "relu")),
        (lambda x: F.max_pool1d(x.relu(), 2), (["relu"], "relu")),
        (lambda x: x.relu() * 2, (["relu"], None)),
        (lambda x: x.softmax(1), ([], "softmax")),
        (lambda x: x, ([], None)),
    ],
)
def test_the_flow_of_values(function, expected):
    assert follow(function, torch.randn(2, 4)) == expected


def test_parts_put_together_are_another_gate():
    x = torch.randn(2, 4)
    with Flow() as flow:
        y = x.relu()
        assert flow.gate(y.view(-1)) == flow.gate(y)
        assert flow.gate(torch.cat([y, y])) != flow.gate(y)
        y[0] = 1
        assert flow.gate(y) is None
