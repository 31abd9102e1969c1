"""Banks that belong to another model, layer, threshold or data."""

import functools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_rdr import ConfigurationBank, RelaxedDecisionRegion, pooling
from captum_rdr.model.inputs import DataPrint, ForwardArguments


def fitted(net, images, layer=2, **kwargs):
    rdr = RelaxedDecisionRegion(net, net[layer], **kwargs)
    return rdr.fit(images, show_progress=False).bank


PRINTS = r"it has fingerprint \w{12}\.\.\., but model and layer now have \w{12}\.\.\."


def test_a_bank_of_other_weights_layer_or_pool_is_refused(net, images):
    bank = fitted(net, images)
    others = [
        {"bank": fitted(net, images, layer=5)},
        {"bank": fitted(net, images, pool=torch.relu), "pool": torch.tanh},
        {"bank": bank, "call_index": 0},
    ]
    for kwargs in others:
        rdr = RelaxedDecisionRegion(net, net[2], **kwargs)
        with pytest.raises(ValueError, match=PRINTS):
            rdr.attribute(images[:2], 3, 2)
    with torch.no_grad():
        net[0].weight += 0.01
    rdr = RelaxedDecisionRegion(net, net[2], bank=bank)
    with pytest.raises(ValueError, match=PRINTS + ".*pass force=True"):
        rdr.attribute(images[:2], 3, 2)


def test_force_uses_it_all_the_same(net, images):
    bank = fitted(net, images)
    expected = RelaxedDecisionRegion(net, net[2], bank=bank).attribute(images[:2], 3, 2)
    twin = torch.nn.Sequential(torch.nn.Identity(), net)  # other names, the same states
    rdr = RelaxedDecisionRegion(twin, net[2], bank=bank)
    with pytest.raises(ValueError, match=PRINTS):
        rdr.attribute(images[:2], 3, 2)
    rdr = RelaxedDecisionRegion(twin, net[2], bank=bank, force=True)
    mask, regions = rdr.attribute(images[:2], 3, 2)
    assert mask.equal(expected[0])
    assert regions[0].members.equal(expected[1][0].members)
    assert rdr.contains(regions[0], images[:1]).tolist() == [True]


def test_a_threshold_that_is_not_the_banks_is_refused(net, images):
    bank = fitted(net, images, pool=pooling.spatial_mean, threshold=0.25)

    def use(threshold):
        kwargs = {"pool": pooling.spatial_mean, "threshold": threshold}
        return RelaxedDecisionRegion(net, net[2], bank=bank, **kwargs)

    for threshold in (0.0, 0.25, "median"):
        assert len(use(threshold).attribute(images[:2], 3, 2)[1]) == 2
    for threshold in (0.5, torch.full((4,), 0.25)):
        with pytest.raises(ValueError, match=r"threshold=.* is not that of Config"):
            use(threshold)


def test_the_data_is_known_by_its_first_instances(net, images, tmp_path):
    bank = fitted(net, images)
    loader = DataLoader(TensorDataset(images, torch.arange(90)), batch_size=7)
    assert fitted(net, loader).source == bank.source
    bank.save(tmp_path / "bank")
    loaded = ConfigurationBank.load(tmp_path / "bank")
    assert loaded.source == bank.source
    assert loaded.source.first_rows != ""
    assert loaded.source.layer == "2"
    changed = images.clone()
    changed[7, 0, 0, 0] += 1
    for other in (fitted(net, changed), fitted(net, images.flip(0))):
        assert other.source.first_rows != bank.source.first_rows
    assert bank.take(torch.tensor([1])).source == bank.source._replace(first_rows="")


def test_every_input_of_the_first_instances_counts():
    def first_rows(*args, **kwargs):
        prints = DataPrint(0)
        prints.add(ForwardArguments(args, kwargs))
        return prints.first_rows

    x, y = torch.ones(9, 2), torch.zeros(9)
    found = [
        first_rows(x, y),
        first_rows(x),
        first_rows(x, y + 1),
        first_rows(x=x),
        first_rows(y=x),
        first_rows(x.double()),
        first_rows(x.reshape(9, 1, 2)),
    ]
    assert len(set(found)) == len(found)
    assert first_rows(x, 3, torch.ones(2)) == first_rows(x)
    assert first_rows(x[:8]) == first_rows(x)


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
