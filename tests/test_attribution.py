"""The arguments and the state of `RelaxedDecisionRegion`."""

import numpy as np
import pytest
import torch
from conftest import bank_of, random_states
from torch import Tensor, nn

from captum_rdr import ConfigurationBank, RelaxedDecisionRegion


@pytest.fixture
def rdr(net, images):
    return RelaxedDecisionRegion(net, net[6]).fit(images[:12], show_progress=False)


BAD = [
    (
        {"n_neighbors": 20},
        ValueError,
        "n_neighbors=20 is more than the bank's 12 instances; lower",
    ),
    ({"n_neighbors": 0}, ValueError, "n_neighbors=0 is too small; use 1 or more"),
    ({"n_neighbors": 2.0}, TypeError, "n_neighbors=2.0 is a float; use a whole number"),
    ({"n_neighbors": True}, TypeError, "n_neighbors=True is a bool"),
    ({"n_neurons": 21}, ValueError, "n_neurons=21 is more than the layer's 20 neurons"),
    ({"n_neurons": -1}, ValueError, "n_neurons=-1"),
    ({"tolerance": -1}, ValueError, "tolerance=-1 is too small; use 0 or more"),
    ({"tolerance": 0.5}, TypeError, "tolerance=0.5 is a float"),
    ({"tolerance": 10}, ValueError, "tolerance=10 lets all of n_neurons=10 disagree"),
    (
        {"tolerance": -0.5, "weighting": "evidence"},
        ValueError,
        "no finite number of nats",
    ),
    ({"tolerance": float("nan"), "weighting": "evidence"}, ValueError, "tolerance=nan"),
    ({"weighting": "even"}, ValueError, "weighting='even' is unknown"),
    ({"rounds": 0, "weighting": "evidence"}, ValueError, "rounds=0"),
    ({"rounds": 2}, ValueError, 'rounds=2 chooses S anew.*weighting="evidence"'),
    (
        {"neighbors": "manhattan"},
        ValueError,
        r"neighbors='manhattan' is unknown; use one of \('config",
    ),
    (
        {"neighbors": "cosine"},
        ValueError,
        "needs the layer's features.*keep_features=True",
    ),
    (
        {"neighbors": torch.tensor([12])},
        ValueError,
        "from 12 to 12, but .* from 0 to 11",
    ),
    ({"neighbors": torch.tensor([-1])}, ValueError, "from -1 to -1"),
    (
        {"neighbors": torch.tensor([1.0])},
        TypeError,
        "neighbors is a torch.float32",
    ),
    (
        {"neighbors": torch.tensor([[1], [2], [3]])},
        ValueError,
        r"shape \(3, 1\).*\(2, m\)",
    ),
    ({"neighbors": torch.tensor([1, 1])}, ValueError, "holds a bank row twice"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_bad_arguments(rdr, images, arguments, error, message):
    with pytest.raises(error, match=message):
        rdr.attribute(images[:2], **arguments)
    with pytest.raises(error, match=message):
        rdr.attribute_members([0, 1], **arguments)


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        (
            [12],
            ValueError,
            "indices go from 12 to 12, but the bank's rows from 0 to 11",
        ),
        ([-1], ValueError, "indices go from -1"),
        ([0.5], TypeError, "indices has dtype torch.float32"),
        (torch.ones(12, dtype=torch.bool), TypeError, r"mask.nonzero\(\)"),
        (torch.tensor([[1]]), ValueError, r"indices has shape \(1, 1\)"),
    ],
)
def test_bad_indices(rdr, indices, error, message):
    with pytest.raises(error, match=message):
        rdr.attribute_members(indices)


def test_no_indices(rdr):
    assert rdr.attribute_members([]) == []


def test_bad_construction(net):
    with pytest.raises(TypeError, match="forward_func=3 is a int"):
        RelaxedDecisionRegion(3, net[0])
    for layer in ("layer4", [], [net[0], "x"], None):
        with pytest.raises(TypeError, match="neither a module nor a list of modules"):
            RelaxedDecisionRegion(net, layer)
    bank = ConfigurationBank((3,))
    for layer, banks in ((net[0], [bank]), ([net[0]], bank), (net[0], "bank")):
        with pytest.raises(
            TypeError, match="does not fit layer; give a ConfigurationBank"
        ):
            RelaxedDecisionRegion(net, layer, bank=banks)
    with pytest.raises(ValueError, match="bank has 1 items for 2 layers"):
        RelaxedDecisionRegion(net, [net[0], net[2]], bank=[bank])
    with pytest.raises(ValueError, match="threshold has 1 items for 2 layers"):
        RelaxedDecisionRegion(net, [net[0], net[2]], threshold=[0.0])


def test_before_fit(net, images):
    rdr = RelaxedDecisionRegion(net, net[6])
    assert rdr.bank is None
    for call in (
        lambda: rdr.attribute(images),
        lambda: rdr.attribute_members([0]),
        lambda: rdr.contains(None, images),
        lambda: rdr.concept_score(None),
    ):
        with pytest.raises(
            ValueError, match="there is no bank yet; call fit, or pass bank"
        ):
            call()


def test_inputs_of_another_kind_or_size(rdr, images, net):
    with pytest.raises(TypeError, match="inputs is a str; give a tensor"):
        rdr.attribute("image")
    with pytest.raises(TypeError, match="no tensor with a batch dimension"):
        rdr.attribute({})
    conv = RelaxedDecisionRegion(net[:3], net[2]).fit(images, show_progress=False)
    with pytest.raises(
        ValueError, match=r"gave shape \(4, 4, 4\) .*the bank holds \(4, 6, 6\)"
    ):
        conv.attribute(images[:, :, :6, :6])


def test_changed_weights_are_noticed(rdr, net, images):
    rdr.attribute(images[:2], 2, 2)
    with torch.no_grad():
        net[0].weight.add_(0.1)
    with pytest.raises(
        ValueError,
        match=r"bank of layer '6' is out of date: .*it has fingerprint .*fit again",
    ):
        rdr.attribute(images[:2], 2, 2)
    with torch.no_grad():
        net[0].weight.sub_(0.1)
    net[0].weight = nn.Parameter(torch.zeros(4, 1, 3, 3))
    with pytest.raises(ValueError, match="fingerprint"):
        rdr.contains(rdr.attribute_members([0])[0], images)
    rdr.fit(images, show_progress=False).attribute(images[:2], 4, 2)


def test_weights_that_came_back_are_accepted(rdr, net, images):
    state = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        net[5].bias.add_(1)
    net.load_state_dict(state)
    rdr.attribute(images[:2], 4, 2)


def test_a_bank_of_another_layer_or_reading_is_refused(net, images, tmp_path):
    fitted = RelaxedDecisionRegion(net, net[6]).fit(images, show_progress=False)
    fitted.bank.save(tmp_path / "bank")
    bank = ConfigurationBank.load(tmp_path / "bank")
    loaded = RelaxedDecisionRegion(net, net[6], bank=bank)
    one, other = fitted.attribute(images[:3]), loaded.attribute(images[:3])
    assert one[0].equal(other[0])
    with pytest.raises(ValueError, match=r"=True, but the bank was fitted with False"):
        RelaxedDecisionRegion(net, net[6], bank=bank).attribute(
            images[:3], attribute_to_layer_input=True
        )
    with pytest.raises(
        ValueError, match=r"layer '5' is out of date.*it has fingerprint"
    ):
        RelaxedDecisionRegion(net, net[5], bank=bank).attribute(images[:3])
    with pytest.raises(ValueError, match="pool"):
        RelaxedDecisionRegion(net, net[6], pool=torch.relu, bank=bank).attribute(
            images[:3]
        )


def test_batches_of_one_and_repeated_inputs(rdr, images):
    together, _ = rdr.attribute(images[:5], 3, 4)
    for index in range(5):
        alone, regions = rdr.attribute(images[index : index + 1], 3, 4)
        assert len(regions) == 1
        assert alone[0].equal(together[index])
    twice, _ = rdr.attribute(images[:1].expand(2, -1, -1, -1), 3, 4)
    assert twice[0].equal(twice[1])


def test_half_precision_and_channels_last(net, images):
    model = net.bfloat16().to(memory_format=torch.channels_last)
    inputs = images.bfloat16().contiguous(memory_format=torch.channels_last)
    rdr = RelaxedDecisionRegion(model, model[2])
    rdr.fit(inputs, keep_features=True, show_progress=False)
    mask, regions = rdr.attribute(inputs[:2], neighbors="cosine")
    assert mask.dtype == torch.float32
    assert mask.shape == (2, 4, 6, 6)
    assert [region.query for region in regions] == [0, 1]


def test_duplicates_in_the_bank():
    states = random_states(10, 30).repeat(3, 1).float() - 0.5
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer).fit(states, show_progress=False)
    (region,) = rdr.attribute_members([15], 3, 5)
    assert sorted(region.neighbors.tolist()) == [5, 15, 25]
    assert set(region.neighbors.tolist()) <= set(region.members.tolist())


def test_a_list_of_layers_equals_each_layer_alone(net, images):
    layers = [net[2], net[6], net[7]]
    together = RelaxedDecisionRegion(net, layers).fit(images, show_progress=False)
    masks, regions = together.attribute(images[:3], 8, 2)
    members = together.attribute_members(range(3), 8, 2)
    for index, layer in enumerate(layers):
        alone = RelaxedDecisionRegion(net, layer).fit(images, show_progress=False)
        assert alone.bank.rows.equal(together.bank[index].rows)
        mask, found = alone.attribute(images[:3], 8, 2)
        assert mask.equal(masks[index])
        for one, other, third in zip(
            found, regions[index], members[index], strict=True
        ):
            assert one.members.equal(other.members)
            assert one.members.equal(third.members)
    one_item = RelaxedDecisionRegion(net, [net[6]]).fit(images, show_progress=False)
    assert isinstance(one_item.bank, list)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(3, 7, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0][:, -1]


def test_a_recurrent_layer():
    model, x = (
        Recurrent(),
        torch.randn(40, 5, 3, generator=torch.Generator().manual_seed(0)),
    )
    with pytest.raises(TypeError, match="layer 'lstm' in batch 0 gave a tuple"):
        RelaxedDecisionRegion(model, model.lstm).fit(x, show_progress=False)
    rdr = RelaxedDecisionRegion(model, model.lstm, pool=lambda output: output[0])
    mask, _ = rdr.fit(x, show_progress=False).attribute(x[:2], 4, 5)
    assert mask.shape == (2, 5, 7)


def test_a_bank_of_layer_inputs_knows_that_it_is_one(net, images, tmp_path):
    fitted = RelaxedDecisionRegion(net, net[6])
    fitted.fit(images, attribute_to_layer_input=True, show_progress=False)
    fitted.bank.save(tmp_path / "bank")
    bank = ConfigurationBank.load(tmp_path / "bank")
    rdr = RelaxedDecisionRegion(net, net[6], bank=bank)
    (region,) = rdr.attribute_members([0], 4, 3)
    assert rdr.contains(region, images).nonzero().flatten().equal(region.members)
    rdr.attribute(images[:2], 4, 3, attribute_to_layer_input=True)
    with pytest.raises(ValueError, match="pass True or fit again"):
        rdr.attribute(images[:2], 4, 3)
    assert rdr.concept_score(region)(images).equal(fitted.concept_score(region)(images))


def test_numpy_and_torch_numbers(net, images, tmp_path):
    rdr = RelaxedDecisionRegion(
        net, net[6], call_index=np.int64(0), threshold=np.float32(0)
    )
    rdr.fit(images, show_progress=False)
    for tolerance in (np.int64(1), torch.tensor(1)):
        _, found = rdr.attribute(
            images[:1], np.int32(5), np.int64(3), tolerance=tolerance
        )
        found[0].save(tmp_path / "region")
        assert found[0].tolerance == 1
    (region,) = rdr.attribute_members(
        np.array([2]), weighting="evidence", tolerance=np.float32(0.5)
    )
    region.save(tmp_path / "region")


def test_tensors_of_the_right_size_in_the_wrong_shape(net, images):
    with pytest.raises(
        ValueError, match=r"threshold has shape \(6, 6, 4\).*\(4, 6, 6\)"
    ):
        RelaxedDecisionRegion(net, net[2], threshold=torch.zeros(6, 6, 4)).fit(
            images, show_progress=False
        )
    rdr = RelaxedDecisionRegion(net, net[2]).fit(images, show_progress=False)
    (region,) = rdr.attribute_members([0])
    states = rdr.bank.states().reshape(-1, 4, 6, 6)
    with pytest.raises(ValueError, match=r"states has shape \(90, 6, 6, 4\)"):
        region.contains(states.permute(0, 2, 3, 1))
    assert region.contains(states.numpy()).nonzero().flatten().equal(region.members)
    for shape in ((-1, -2), (0,)):
        with pytest.raises(ValueError, match="holds no neuron"):
            ConfigurationBank(shape)


def test_regions_of_other_layers_of_the_same_shape_are_refused(net, images):
    one = RelaxedDecisionRegion(net, net[5]).fit(images, show_progress=False)
    other = RelaxedDecisionRegion(net, net[6]).fit(images, show_progress=False)
    (region,) = one.attribute_members([0], 4, 3)
    for call in (
        lambda: other.contains(region, images),
        lambda: other.concept_score(region),
    ):
        with pytest.raises(ValueError, match="region belongs to a layer"):
            call()
    for wrong in (None, "region", [region, None]):
        with pytest.raises(TypeError, match=r"region is a .*; give a Region"):
            one.contains(wrong, images)
    with pytest.raises(ValueError, match="2 items for 1 layers"):
        one.contains([region, region], images)


def test_an_iterator_of_indices_serves_every_layer(net, images):
    rdr = RelaxedDecisionRegion(net, [net[2], net[6]]).fit(images, show_progress=False)
    assert [len(one) for one in rdr.attribute_members(iter([0, 1]), 4, 3)] == [2, 2]
    for indices in (3, None, "12", [[1], [2, 3]]):
        with pytest.raises(TypeError, match="indices="):
            rdr.attribute_members(indices)


def test_no_inputs(net, images):
    rdr = RelaxedDecisionRegion(net, net[2]).fit(images, show_progress=False)
    mask, found = rdr.attribute(images[:0])
    assert mask.shape == (0, 4, 6, 6)
    assert found == []


def test_warnings_point_at_the_users_line():
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank_of(random_states(40, 12)))
    with pytest.warns(UserWarning, match="fewer unanimous") as of_members:
        rdr.attribute_members([0], 30, 12)
    with pytest.warns(UserWarning, match="fewer unanimous") as of_inputs:
        rdr.attribute(torch.randn(1, 12), 30, 12)
    assert [caught[0].filename for caught in (of_members, of_inputs)] == [__file__] * 2


def test_messages_name_the_argument(net, images):
    rdr = RelaxedDecisionRegion(net, net[6])
    cases = [
        (
            lambda: rdr.fit((images, torch.zeros(90))),
            TypeError,
            "looks like .inputs, labels.",
        ),
        (
            lambda: rdr.fit(images.numpy()),
            TypeError,
            "data is a ndarray.*torch.from_numpy",
        ),
        (lambda: rdr.fit([images.numpy()]), TypeError, "inputs is a ndarray"),
        (
            lambda: RelaxedDecisionRegion(net, net[6], pool="mean"),
            TypeError,
            "pool='mean'",
        ),
        (
            lambda: RelaxedDecisionRegion(net, net[6], call_index=1.5),
            TypeError,
            "call_index=1.5",
        ),
        (
            lambda: RelaxedDecisionRegion(net, net[6], call_index=True),
            TypeError,
            "call_index",
        ),
        (
            lambda: rdr.fit(images, show_progress=False).attribute([1, 2]),
            TypeError,
            r"inputs=\(.*\) hold no tensor with a batch dimension",
        ),
        (
            lambda: rdr.attribute(images[:1], tolerance=None, weighting="evidence"),
            ValueError,
            "tolerance=None is no finite number of nats",
        ),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
    (region,) = rdr.attribute_members([0], 4, 3)
    with pytest.raises(TypeError, match="object of type 'list_iterator' has no len"):
        region.to_concept(iter([1]), 0, "x")
