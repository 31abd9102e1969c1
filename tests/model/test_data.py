"""Reference data of other libraries, and data that is not what it seems."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader, TensorDataset

from captum_rdr import RelaxedDecisionRegion


def fit(model, data):
    rdr = RelaxedDecisionRegion(model, model)
    return rdr.fit(data, show_progress=False)


class Columns:
    """As `datasets.Dataset`: by number and iterable, a dict of lists an instance."""

    def __init__(self, length=70) -> None:
        self.tokens = torch.randn(length, 5).tolist()

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index):
        return {"x": self.tokens[index], "label": 3, "path": f"{index}.png"}

    def __iter__(self):
        return (self[index] for index in range(len(self)))


class Taking(nn.Module):
    def forward(self, x):
        return x


def test_map_style_objects_are_data_sets():
    data = Columns()
    with pytest.warns(UserWarning, match=r"columns \['label', 'path'\], so they are"):
        bank = fit(Taking(), data).bank
    assert bank.states().equal(torch.tensor(data.tokens) > 0)


def test_columns_that_forward_does_not_take():
    x = torch.randn(9, 5)
    with pytest.warns(UserWarning, match=r"does not take the columns \['idx'\]"):
        bank = fit(Taking(), [{"x": x, "idx": torch.arange(9)}]).bank
    assert len(bank) == 9


def test_a_loader_out_of_order():
    loader = DataLoader(TensorDataset(torch.randn(9, 5)), num_workers=1, in_order=False)
    with pytest.raises(
        ValueError, match=r"in_order=False.*build the DataLoader .*in_order=True"
    ):
        fit(Taking(), loader)


def test_what_is_no_batch():
    x = torch.randn(3, 8, 8)
    with pytest.raises(TypeError, match=r"PackedSequence; give .*padded sequences"):
        fit(Taking(), [(pack_sequence([torch.ones(3, 2)]), 1)])
    with pytest.raises(
        TypeError, match=r"a list that begins with one image \(3, 8, 8\).*of one size"
    ):
        fit(Taking(), [[x, x, x, x]])
    with pytest.raises(
        TypeError, match=r"a tuple that begins with one image \(3, 8, 8\)"
    ):
        fit(Taking(), [(x, 7), (x, 8)])
