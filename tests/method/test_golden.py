"""Cases computed with the original algorithm must come out identical."""

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from torch import nn

from captum_rdr import ConfigurationBank, Region, RelaxedDecisionRegion

pytestmark = pytest.mark.filterwarnings("ignore:.*fewer unanimous neurons")


@pytest.fixture(params=GOLDEN, ids=lambda path: path.stem)
def case(request):
    return dict(np.load(request.param))


def check(region: Region, case) -> None:
    assert sorted(region.neighbors.tolist()) == sorted(case["neighbors"].tolist())
    assert region.neurons.tolist() == case["neurons"].tolist()
    assert region.states.tolist() == case["states"].tolist()
    assert region.members.tolist() == case["members"].tolist()


def test_from_packed_rows(case):
    n_neurons, query = int(case["n_neurons_total"]), int(case["query"])
    bank = ConfigurationBank((n_neurons,))
    bank.append(torch.from_numpy(case["bits"]))
    assert bank.rows.equal(torch.from_numpy(case["bits"]))
    distances = bank.distances(bank.rows[query])
    assert distances.tolist() == case["distances"].tolist()
    nearest = bank.nearest(bank.rows[query], int(case["k"]))
    assert sorted(nearest.rows[0].tolist()) == sorted(case["neighbors"].tolist())

    layer = nn.Identity()
    rdr = RelaxedDecisionRegion(layer, layer, bank=bank)
    (region,) = rdr.attribute_members([query], int(case["k"]), int(case["t"]))
    check(region, case)
    assert region.query == query
    assert region.distances.tolist() == [
        case["distances"][row] for row in region.neighbors.tolist()
    ]


def test_through_a_model(case):
    n_neurons, query = int(case["n_neurons_total"]), int(case["query"])
    bits = np.unpackbits(case["bits"], axis=1, count=n_neurons, bitorder="little")
    activations = torch.from_numpy(bits).float() - 0.5
    model = nn.Sequential(nn.Identity(), nn.Linear(n_neurons, 2))
    rdr = RelaxedDecisionRegion(model, model[0]).fit(activations, show_progress=False)
    mask, (region,) = rdr.attribute(
        activations[query : query + 1], int(case["k"]), int(case["t"])
    )
    check(region, case)
    signs = torch.where(region.states, 1, -1)
    assert mask[0].sign()[region.neurons].equal(signs.float())
    assert (mask[0] != 0).nonzero().flatten().equal(region.neurons)
    assert bool(rdr.contains(region, activations)[region.members].all())
    assert int(rdr.contains(region, activations).sum()) == len(region.members)
