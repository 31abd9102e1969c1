"""Cases that a review found broken."""

import functools
import pickle

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam, Saliency
from conftest import bank_of, random_states
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from captum_rdr import ConfigurationBank, Region, RelaxedDecisionRegion
from captum_rdr.model.fingerprint import weights_digest
from captum_rdr.model.hooks import evaluating


def test_an_interrupted_refit_does_not_make_a_stale_bank_pass(net, images):
    rdr = RelaxedDecisionRegion(net, net[6]).fit(images, show_progress=False)
    with torch.no_grad():
        net[0].weight.add_(1)

    def interrupted():
        yield images[:20]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rdr.fit(interrupted(), show_progress=False)
    with pytest.raises(ValueError, match="fingerprint"):
        rdr.attribute(images[:2], 4, 2)


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


@pytest.mark.parametrize("metric", ["cosine", "centered_cosine", "euclidean"])
def test_single_images_of_the_bank_are_recognized(net, images, metric):
    rdr = RelaxedDecisionRegion(net, net[2])
    rdr.fit(images, keep_features=True, show_progress=False)
    members = rdr.attribute_members(range(12), 5, 4, neighbors=metric)
    for index, member in enumerate(members):
        _, (alone,) = rdr.attribute(images[index : index + 1], 5, 4, neighbors=metric)
        assert alone.query == index
        assert alone.neurons.equal(member.neurons)
        assert alone.members.equal(member.members)


def test_collinear_and_zero_rows_are_recognized():
    features = torch.tensor([[1.0, 0, 1], [2, 0, 2], [0, 0, 0], [3, 1, 0]])
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank_of(features > 0, features))
    _, found = rdr.attribute(features, 2, 1, neighbors="cosine")
    assert [region.query for region in found] == [0, 1, 2, 3]


@pytest.mark.filterwarnings("ignore:.*fewer unanimous neurons")
def test_regions_with_nothing_in_them_are_saved(tmp_path):
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank_of(random_states(30, 12)))
    alone = rdr.attribute(torch.randn(1, 12), 1, 3)[1][0]
    whole = rdr.attribute_members([0], 30, 12)[0]
    for region in (alone, whole):
        region.save(tmp_path / "region")
        assert repr(Region.load(tmp_path / "region")) == repr(region)


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


def test_regions_of_other_layers_of_the_same_shape_are_refused(net, images):
    one = RelaxedDecisionRegion(net, net[5]).fit(images, show_progress=False)
    other = RelaxedDecisionRegion(net, net[6]).fit(images, show_progress=False)
    (region,) = one.attribute_members([0], 4, 3)
    for call in (
        lambda: other.contains(region, images),
        lambda: other.concept_score(region),
    ):
        with pytest.raises(ValueError, match="region has fingerprint"):
            call()
    for wrong in (None, "region", [region, None]):
        with pytest.raises(TypeError, match=r"region is a .*; give a Region"):
            one.contains(wrong, images)
    with pytest.raises(ValueError, match="2 items for 1 layers"):
        one.contains([region, region], images)


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


def test_an_iterator_of_indices_serves_every_layer(net, images):
    rdr = RelaxedDecisionRegion(net, [net[2], net[6]]).fit(images, show_progress=False)
    assert [len(one) for one in rdr.attribute_members(iter([0, 1]), 4, 3)] == [2, 2]
    for indices in (3, None, "12", [[1], [2, 3]]):
        with pytest.raises(TypeError, match="indices="):
            rdr.attribute_members(indices)


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


class Nested(nn.Module):
    def forward(self, x):
        return torch.nested.as_nested_tensor(list(x))


@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_nested_outputs_are_refused():
    model = Nested()
    with pytest.raises(TypeError, match="gave a nested tensor"):
        RelaxedDecisionRegion(model, model).fit(torch.randn(3, 4), show_progress=False)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16))
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return self.head(checkpoint(self.body, x, use_reentrant=False))


def test_concept_score_of_a_checkpointed_model_and_under_later_layers():
    torch.manual_seed(0)
    model, x = Checkpointed(), torch.randn(50, 4)
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


def test_infinite_activations(net, images):
    x = torch.randn(20, 5)
    x[3, 2] = float("inf")
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer)
    assert rdr.fit(x, show_progress=False).bank.states().equal(x > 0)
    with pytest.raises(
        ValueError, match=r"layer '.*' gave infinity.*neighbors=\"config"
    ):
        rdr.fit(x, keep_features=True, show_progress=False)
    x[:, 2] = float("-inf")
    with pytest.raises(ValueError, match=r"the median of layer .* is infinite"):
        RelaxedDecisionRegion(layer, layer, threshold="median").fit(
            x, show_progress=False
        )


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


def test_room_is_made_for_what_is_read():
    data = TensorDataset(torch.randn(5000, 8))
    loader = DataLoader(data, batch_size=10, sampler=range(50))
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer).fit(loader, show_progress=False)
    assert rdr.bank._rows.capacity == 50
    roomy = ConfigurationBank((8,), reserve=100_000)
    roomy.append(random_states(5, 8))
    again = pickle.loads(pickle.dumps(roomy))
    assert again.rows.equal(roomy.rows)
    assert len(pickle.dumps(roomy)) < 5000


def test_packed_queries_are_not_taken_for_one_instance():
    states = random_states(5, 3)
    bank = ConfigurationBank((3, 1))
    bank.append(states)
    assert bank.distances(bank.rows[:3]).shape == (3, 5)
    assert bank.distances(states[0].reshape(3, 1)).shape == (5,)
    row = ConfigurationBank((1, 3))
    row.append(states)
    assert row.distances(states[:1]).shape == (1, 5)


def test_late_disorder_and_generators_of_samplers():
    data = TensorDataset(torch.randn(12_000, 1))
    late = [*range(10_000), *range(11_999, 9_999, -1)]
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer)
    with pytest.raises(ValueError, match="in the order of a list"):
        rdr.fit(DataLoader(data, sampler=late, batch_size=100), show_progress=False)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    sampler = torch.utils.data.RandomSampler(data, generator=generator)
    with pytest.raises(ValueError, match="RandomSampler"):
        rdr.fit(DataLoader(data, sampler=sampler), show_progress=False)
    assert generator.get_state().equal(before)


def test_no_inputs(net, images):
    rdr = RelaxedDecisionRegion(net, net[2]).fit(images, show_progress=False)
    mask, found = rdr.attribute(images[:0])
    assert mask.shape == (0, 4, 6, 6)
    assert found == []


def test_given_neighbors_make_n_neighbors_idle():
    states = random_states(5, 12)
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank_of(states))
    (member,) = rdr.attribute_members([1], 8, 3, neighbors=torch.tensor([0, 1]))
    _, (new,) = rdr.attribute(states[1:2].float(), 8, 3, neighbors=torch.tensor([0, 1]))
    assert new.query == 1
    assert new.neurons.equal(member.neurons)
    for rows, message in ((np.array([1]), "ndarray"), ([1], "list")):
        with pytest.raises(TypeError, match=f"neighbors is a {message}"):
            rdr.attribute_members([1], 2, 3, neighbors=rows)


def test_fingerprints_tell_pools_apart_and_see_through_wrappers(net, images):
    mean = functools.partial(torch.mean, dim=(2, 3))
    highest = functools.partial(torch.amax, dim=(2, 3))
    bank = (
        RelaxedDecisionRegion(net, net[2], pool=mean)
        .fit(images, show_progress=False)
        .bank
    )
    with pytest.raises(ValueError, match="pool"):
        RelaxedDecisionRegion(net, net[2], pool=highest, bank=bank).attribute(
            images[:2], 4, 2
        )
    parallel = nn.DataParallel(net)
    rdr = RelaxedDecisionRegion(parallel, net[2], pool=mean, bank=bank)
    rdr.attribute(images[:2], 2, 1)


def test_evidence_without_neurons_is_warned_of():
    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer)
    rdr.fit(torch.ones(9, 4), show_progress=False)
    with pytest.warns(UserWarning, match="1 of 1 regions have fewer weighty neurons"):
        rdr.attribute_members([0], 3, 2, weighting="evidence")


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
            r"no tensor with a batch dimension, but \['int', 'int'\]",
        ),
        (
            lambda: rdr.attribute(images[:1], tolerance=None, weighting="evidence"),
            TypeError,
            "tolerance=None is a NoneType",
        ),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
    (region,) = rdr.attribute_members([0], 4, 3)
    with pytest.raises(TypeError, match="dataset is a list_iterator without a length"):
        region.to_concept(iter([1]), 0, "x")
