"""The region of one query over layers, against plain sets."""

import math

import numpy as np
import pytest
import torch
from clustered import clusters
from torch import nn

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery import layerwise


def two_layers():
    """The second layer has other neurons than the first."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 9), nn.ReLU())
    data = clusters(4, 15, 12)
    return RelaxedDecisionRegion(model, [model[1], model[3]]), data


def test_layerwise_against_plain_sets():
    rdr, data = two_layers()
    rdr.fit(data, show_progress=False)
    labels = torch.arange(4).repeat_interleave(15)
    found = layerwise(rdr, 20, labels, n_neighbors=6, show_progress=False)
    assert [stage.layer for stage in found] == ["1", "3"]
    before, here = (set(stage.region.members.tolist()) for stage in found)
    assert found[0].jaccard is None
    assert found[1].jaccard == pytest.approx(len(before & here) / len(before | here))
    assert set(found[1].left.tolist()) == before - here
    assert set(found[1].joined.tolist()) == here - before
    for stage in found:
        others = [row for row in stage.region.members.tolist() if row != 20]
        same = np.mean([int(labels[row]) == 1 for row in others])
        assert stage.purity == pytest.approx(same)
    (expected,) = rdr.attribute_members(
        [20], 6, 9, weighting="evidence", show_progress=False
    )[1]
    assert torch.equal(found[1].region.members, expected.members)


def test_pieces_are_the_components_of_the_links():
    rdr, data = two_layers()
    rdr.fit(data, show_progress=False)
    first, last = layerwise(rdr, 20, n_neighbors=6, show_progress=False)
    members = first.region.members.tolist()
    regions = rdr.attribute_members(
        members, 6, 9, weighting="evidence", show_progress=False
    )[1]
    pieces = [{row} for row in members]
    for row, region in zip(members, regions, strict=True):
        linked = {row, *(set(region.members.tolist()) & set(members))}
        touched = [piece for piece in pieces if piece & linked]
        pieces = [piece for piece in pieces if not piece & linked]
        pieces.append(set().union(*touched))
    assert [set(piece.tolist()) for piece in last.pieces] == sorted(
        pieces, key=lambda piece: (-len(piece), min(piece))
    )


def test_layerwise_of_a_new_input():
    rdr, data = two_layers()
    rdr.fit(data, keep_features=True, show_progress=False)
    labels = torch.arange(4).repeat_interleave(15)
    found = layerwise(rdr, data[20:21] + 0.01, labels, show_progress=False)
    assert found[0].region.query is None
    members = labels[found[0].region.members]
    assert found[0].purity == pytest.approx(
        int(members.bincount().max()) / len(members)
    )
    assert "splits at" in repr(found)
    with pytest.raises(ValueError, match="query holds 2 instances"):
        layerwise(rdr, data[:2])
    with pytest.raises(ValueError, match=r"labels has 3 items for 60 instances"):
        layerwise(rdr, 0, [1, 2, 3])
    with pytest.raises(TypeError, match=r"labels has dtype torch.float32"):
        layerwise(rdr, 0, torch.rand(60))


def test_purity_of_a_lone_query():
    model = nn.Sequential(nn.Identity(), nn.Identity())
    rdr = RelaxedDecisionRegion(model, [model[0], model[1]])
    rdr.fit(torch.tensor([[1.0, 1], [-1, -1]]), show_progress=False)
    found = layerwise(rdr, 0, [0, 1], n_neighbors=1, show_progress=False)
    assert math.isnan(found[0].purity)
    assert found.splits == []
    choices = {"weighting": "uniform", "n_neurons": 2, "show_progress": False}
    strange = torch.tensor([[1.0, -1]])
    nobody = layerwise(rdr, strange, [0, 1], n_neighbors=1, **choices)
    assert len(nobody[0].region.members) == 0
    assert math.isnan(nobody[0].purity)


def test_layers_of_a_bank_that_was_forced():
    """An explainer of one of the layers accepts what that of all was told to accept."""
    torch.manual_seed(0)
    data = torch.randn(60, 4)
    first, second = (
        nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 12)) for _ in range(2)
    )
    fitted = RelaxedDecisionRegion(first, [first[1], first[2]])
    banks = fitted.fit(data, show_progress=False).bank
    choices = {"bank": banks, "force": True}
    forced = RelaxedDecisionRegion(second, [second[1], second[2]], **choices)
    found = layerwise(forced, data[:1], show_progress=False)
    assert [stage.layer for stage in found] == ["1", "2"]


def test_explainers_that_do_not_fit():
    layers = nn.Sequential(nn.Identity(), nn.Identity())
    several = RelaxedDecisionRegion(layers, [layers[0], layers[1]])
    single = RelaxedDecisionRegion(layers, layers[0])
    with pytest.raises(ValueError, match="rdr explains one layer"):
        layerwise(single, 0)
    with pytest.raises(ValueError, match="no bank yet"):
        layerwise(several, 0)
    with pytest.raises(TypeError, match="rdr is a str"):
        layerwise("rdr", 0)
