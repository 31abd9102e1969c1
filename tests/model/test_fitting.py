"""Data, batches, thresholds and pools."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
)
from torch.utils.data.distributed import DistributedSampler

from captum_rdr import ConfigurationBank, RelaxedDecisionRegion, pooling
from captum_rdr.bank.writers import MemoryWriter
from captum_rdr.model import states as neurons
from captum_rdr.model.fitting import LayerIndex
from captum_rdr.model.states import MedianSample, sampled_median_error

identity = nn.Identity()


def fit(data, layer=identity, model=identity, **kwargs) -> ConfigurationBank:
    """Fit on an identity, quietly."""
    own = {k: kwargs.pop(k) for k in ("threshold", "pool", "call_index") if k in kwargs}
    return (
        RelaxedDecisionRegion(model, layer, **own)
        .fit(data, show_progress=False, **kwargs)
        .bank
    )


def test_any_batch_size_workers_and_threads_give_the_same_bank(net, images):
    dataset = TensorDataset(images, torch.arange(90))
    expected = fit(images, net[2], net)
    for batch_size in (1, 7, 64, 90):
        bank = fit(DataLoader(dataset, batch_size=batch_size), net[2], net)
        assert bank.rows.equal(expected.rows)
        assert bank.active_counts.equal(expected.active_counts)
    workers = fit(DataLoader(dataset, batch_size=16, num_workers=2), net[2], net)
    assert workers.rows.equal(expected.rows)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert fit(images, net[2], net).rows.equal(expected.rows)
    finally:
        torch.set_num_threads(threads)


class Items(Dataset):
    def __init__(self, items) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Stream(IterableDataset):
    def __init__(self, items) -> None:
        self.items = items

    def __iter__(self):
        return iter(self.items)


def test_kinds_of_data():
    x = torch.randn(70, 5)
    expected = (x > 0).tolist()
    for data in (
        x,
        Items(x),
        TensorDataset(x, torch.arange(70)),
        Stream(x),
        DataLoader(Stream(x), batch_size=9),
        DataLoader(Items(x), batch_size=8, sampler=SequentialSampler(Items(x))),
        Subset(Items(x), range(70)),
        [x[:30], x[30:]],
        iter([x[:30], x[30:]]),
        [(x[:30], 1), [x[30:], 2]],
        [((x[:30],), 1), ((x[30:],), 2)],
        DataLoader(Items([{"input": row} for row in x]), batch_size=9),
        DataLoader(TensorDataset(x), batch_size=9, drop_last=True, sampler=range(70)),
    ):
        bank = fit(data)
        assert bank.states().tolist() == expected[: len(bank)]
        assert len(bank) >= 63


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, left, right, scale=1.0):
        return self.layer(left - scale * right)


def test_several_inputs_and_additional_arguments():
    model = TwoInputs()
    left, right = torch.randn(20, 4), torch.randn(20, 4)
    batches = [((left[:12], right[:12]), 0), ((left[12:], right[12:]), 0)]
    by_tuple = fit(batches, model.layer, model, additional_forward_args=2.0)
    assert by_tuple.states().equal(left - 2 * right > 0)
    by_name = fit([{"right": right, "left": left, "scale": 2.0}], model.layer, model)
    assert by_name.rows.equal(by_tuple.rows)

    rdr = RelaxedDecisionRegion(model, model.layer)
    rdr.fit(batches, additional_forward_args=2.0, show_progress=False)
    one = rdr.attribute((left, right), 2, 2, additional_forward_args=(2.0,))[0]
    other = rdr.attribute({"left": left, "right": right, "scale": 2.0}, 2, 2)[0]
    listed = rdr.attribute([left, right], 2, 2, additional_forward_args=2.0)[0]
    assert one.equal(other)
    assert one.equal(listed)


@pytest.mark.parametrize(
    "sampler",
    [
        lambda d: RandomSampler(d),
        lambda d: torch.utils.data.WeightedRandomSampler([1.0] * len(d), len(d)),
        lambda d: torch.utils.data.SubsetRandomSampler(range(len(d))),
        lambda d: list(range(len(d)))[::-1],
        lambda d: DistributedSampler(d, num_replicas=2, rank=0, shuffle=False),
    ],
)
def test_shuffling_is_refused(sampler):
    data = TensorDataset(torch.randn(40, 3))
    loader = DataLoader(data, batch_size=8, sampler=sampler(data))
    with pytest.raises(
        ValueError, match=r"row i of the bank would not be item i.*shuffle=False"
    ):
        fit(loader)


def test_shuffling_by_a_batch_sampler_or_without_batches_is_refused():
    data = TensorDataset(torch.randn(40, 3))
    with pytest.raises(ValueError, match="shuffle=False"):
        fit(DataLoader(data, batch_sampler=[[3, 2], [1, 0]]))
    with pytest.raises(ValueError, match="shuffle=False"):
        fit(DataLoader(data, batch_size=None, sampler=[1, 0]))
    assert len(fit(DataLoader(data, batch_sampler=[[0, 1], [2, 3]]))) == 4
    assert len(fit(DataLoader(data, batch_sampler=iter([[0, 1], [2]])))) == 3
    whole = DataLoader(Items([torch.randn(2, 3)]), batch_size=None, sampler=range(1))
    assert len(fit(whole)) == 2


def test_bad_data():
    for data in ("images", 3, {"x": torch.zeros(2)}):
        with pytest.raises(TypeError, match=r"data is a .*pass a DataLoader"):
            fit(data)
    for data in ([], torch.zeros(0, 3), [torch.zeros(0, 3)]):
        with pytest.raises(ValueError, match="data is empty"):
            fit(data)
    with pytest.raises(RuntimeError, match="at least a 1-dimensional tensor"):
        fit(torch.tensor(1.0))
    with pytest.raises(TypeError, match="data gave an empty batch"):
        fit([()])
    with pytest.raises(TypeError, match="inputs is a str"):
        fit([("text", 1)])
    with pytest.raises(TypeError, match="no tensor with a batch dimension"):
        fit([{"a": 1}])


def test_nan_names_layer_and_batch(net, images):
    images[50, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"layer '2' in batch 2 gave NaN"):
        fit(images.split(20), net[2], net)


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor")
def test_unusable_outputs():
    class Odd(nn.Module):
        def __init__(self, make) -> None:
            super().__init__()
            self.make = make

        def forward(self, x):
            return self.make(x)

    x = torch.randn(6, 4)
    cases = [
        (lambda x: (x, x), TypeError, r"gave a tuple.*pool=lambda output: output\[0\]"),
        (lambda x: {"a": x}, TypeError, "gave a dict"),
        (lambda x: None, TypeError, "gave a NoneType"),
        (lambda x: x.to_sparse(), TypeError, "dense"),
        (lambda x: x.to(torch.complex64), TypeError, "real"),
        (
            lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
            TypeError,
            "dequantize",
        ),
        (lambda x: x.T, ValueError, r"gave shape \(4, 6\) for 6 inputs.*transpose"),
        (lambda x: x.sum(), ValueError, r"gave shape \(\) for 6 inputs"),
        (lambda x: x[:, :0], ValueError, "holds no neuron"),
    ]
    for make, error, message in cases:
        layer = Odd(make)
        with pytest.raises(error, match=message):
            fit(x, layer, layer)
    for make, pool in (
        (lambda x: (x, x), lambda output: output[0]),
        (lambda x: {"a": x}, lambda output: output["a"]),
        (lambda x: x.T, lambda output: output.T),
    ):
        layer = Odd(make)
        assert fit(x, layer, layer, pool=pool).states().equal(x > 0)


def test_shapes_that_vary():
    with pytest.raises(
        ValueError, match=r"gave shape \(4,\) an instance, but \(3,\) before"
    ):
        fit([torch.ones(2, 3), torch.ones(1, 4)])


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32]
)
def test_dtypes(dtype):
    x = (4 * torch.randn(30, 6)).to(dtype)
    assert fit(x).states().equal(x > 0)
    bank = fit(x, keep_features=True)
    assert bank.features.dtype == {
        torch.bfloat16: torch.float32,
        torch.int32: torch.float32,
    }.get(dtype, dtype)
    assert bank.features.equal(x.to(bank.features.dtype))
    theta = torch.linspace(-1, 1, 6)
    assert fit(x, threshold=theta).states().equal(x.double() > theta)


def test_small_and_odd_banks():
    assert len(fit(torch.randn(1, 3))) == 1
    assert fit(torch.randn(5)).layer_shape == (1,)
    constant = fit(torch.ones(6, 4))
    assert constant.active_counts.tolist() == [6] * 4
    last = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    assert fit(last).states().equal((last > 0).flatten(1))


def test_thresholds(images):
    x = images.flatten(1)[:, :6]
    assert fit(x, threshold=0.3).states().equal(x > 0.3)
    theta = torch.randn(6)
    assert fit(x, threshold=theta).states().equal(x > theta)
    grid = fit(x.reshape(-1, 2, 3), threshold=theta.reshape(2, 3))
    assert grid.states().equal(x > theta)
    cases = [
        ("mean", TypeError, 'a real tensor of the layer\'s shape, or "median"'),
        (True, TypeError, "threshold=True is a bool"),
        (torch.ones(6, dtype=torch.bool), TypeError, "a real tensor of the layer"),
        (float("nan"), ValueError, "threshold holds NaN or infinity"),
        (torch.tensor([1.0, float("inf")]), ValueError, "NaN or infinity"),
        (
            torch.zeros(5),
            ValueError,
            r"threshold has shape \(5,\), but the layer has shape \(6,\)",
        ),
    ]
    for threshold, error, message in cases:
        with pytest.raises(error, match=message):
            fit(x, threshold=threshold)
    assert fit(x, threshold=torch.zeros(6, dtype=torch.int64)).states().equal(x > 0)


@pytest.mark.parametrize("n", [1, 2, 31, 90])
def test_exact_median(images, n):
    x = images[:n].flatten(1)
    ordered = np.sort(x.double().numpy(), axis=0)
    middle = (n - 1) // 2
    above = ordered[middle + 1] if n > 1 else ordered[middle]
    expected = ordered[middle] + (above - ordered[middle]) / 2
    for keep_features in (False, True):
        bank = fit(x.split(7), threshold="median", keep_features=keep_features)
        assert bank.threshold.tolist() == expected.tolist()
        assert bank.states().equal(x > torch.from_numpy(ordered[middle]))
        assert (bank.features is not None) == keep_features
    assert bank.features.equal(x)


@pytest.mark.filterwarnings("ignore:.*different configurations")
def test_sampled_median(monkeypatch):
    x = torch.randn(900, 5, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(neurons, "MEDIAN_BYTES", 200 * 5 * 4)
    with pytest.warns(
        UserWarning, match=r"more than 4000 bytes.*read off 200 instances"
    ):
        bank = fit(x.split(64), threshold="median", keep_features=True)
    error = sampled_median_error(200, 5)
    below = (x <= bank.threshold).float().mean(0)
    assert bool(((below - 0.5).abs() <= error).all())
    assert bank.states().equal(x > bank.threshold)
    assert bank.features.equal(x)
    with pytest.warns(UserWarning, match="read off 200"):
        again = fit(x.split(13), threshold="median")
    assert again.threshold.equal(bank.threshold)
    with (
        pytest.warns(UserWarning, match="read off"),
        pytest.raises(ValueError, match="gone through only once"),
    ):
        fit(iter(x.split(64)), threshold="median")


def test_the_stated_error_of_a_sampled_median_holds():
    x = torch.rand(3000, 40, generator=torch.Generator().manual_seed(0))
    sample = MedianSample(300 * 40 * 4)
    sample.add(x)
    assert not sample.is_complete
    ranks = (x <= sample.median()).float().mean(0)
    assert float((ranks - 0.5).abs().max()) < sampled_median_error(300, 40)


@given(st.integers(1, 200), st.integers(1, 30))
def test_the_sample_does_not_depend_on_batches(n, batch):
    x = torch.arange(n).float().unsqueeze(1)
    whole, parts = MedianSample(80), MedianSample(80)
    whole.add(x)
    for part in x.split(batch):
        parts.add(part)
    assert sorted(r.item() for r in whole.rows) == sorted(r.item() for r in parts.rows)
    assert len(whole.rows) == min(n, 20)


def test_one_threshold_and_pool_for_each_layer(net, images):
    rdr = RelaxedDecisionRegion(
        net,
        [net[2], net[6]],
        threshold=["median", 0.0],
        pool=[pooling.spatial_mean, None],
    ).fit(images, show_progress=False)
    assert [bank.layer_shape for bank in rdr.bank] == [(4,), (20,)]
    assert [bank.threshold.dim() for bank in rdr.bank] == [1, 0]
    mask, regions = rdr.attribute(images[:3], 3, 2)
    assert [m.shape for m in mask] == [(3, 4), (3, 20)]
    assert [len(r) for r in regions] == [3, 3]
    with pytest.raises(ValueError, match="pool has 1 items for 2 layers"):
        RelaxedDecisionRegion(net, [net[2], net[6]], pool=[None])


def test_progress_can_be_turned_off(capsys):
    rdr = RelaxedDecisionRegion(identity, identity)
    rdr.fit(torch.randn(9, 4), show_progress=False)
    assert capsys.readouterr().err == ""
    rdr.fit(torch.randn(9, 4))
    assert "Indexing: 100%" in capsys.readouterr().err


def test_spatial_pools():
    x = torch.randn(3, 4, 2, 5)
    assert pooling.spatial_mean(x).allclose(x.mean((2, 3)))
    assert pooling.spatial_max(x).equal(x.amax((2, 3)))
    for pool in (pooling.spatial_mean, pooling.spatial_max):
        with pytest.raises(
            ValueError, match=r"needs an output of shape \(B, C, \*spatial\)"
        ):
            pool(torch.ones(3, 4))


def test_token_pools():
    x = torch.randn(3, 4, 2)
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]])
    assert pooling.class_token(x).equal(x[:, 0])
    assert pooling.last_token(x).equal(x[:, -1])
    assert pooling.last_token(x, mask).equal(torch.stack([x[0, 1], x[1, 3], x[2, 3]]))
    assert pooling.token_mean(x).equal(x.mean(1))
    x[0, 3] = float("nan")
    expected = torch.stack([x[0, :2].mean(0), x[1, 2:].mean(0), x[2].mean(0)])
    assert pooling.token_mean(x, mask).allclose(expected)
    for pool in (pooling.class_token, pooling.last_token, pooling.token_mean):
        with pytest.raises(ValueError, match=r"needs an output of shape \(B, T, E\)"):
            pool(torch.ones(3, 4))
    for pool in (pooling.last_token, pooling.token_mean):
        with pytest.raises(ValueError, match=r"attention_mask has shape \(3, 2\)"):
            pool(x, mask[:, :2])
        with pytest.raises(ValueError, match="all padding"):
            pool(x, mask * torch.tensor([[1], [1], [0]]))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(20, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, input_ids, attention_mask=None):
        return self.block(
            self.embed(input_ids), src_key_padding_mask=attention_mask == 0
        )


@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_a_pool_sees_the_attention_mask_however_it_is_passed():
    model = Encoder()
    ids = torch.randint(1, 20, (30, 6), generator=torch.Generator().manual_seed(0))
    lengths = torch.arange(30) % 5 + 2
    mask = (torch.arange(6) < lengths.unsqueeze(1)).long()
    rdr = RelaxedDecisionRegion(model, model.block, pool=pooling.last_token)
    rdr.fit([{"input_ids": ids, "attention_mask": mask}], show_progress=False)
    with torch.no_grad():
        output = model.eval()(ids, mask)
    expected = output[torch.arange(30), lengths - 1] > 0
    assert rdr.bank.states().equal(expected)
    by_tuple = rdr.attribute((ids, mask), 4, 3)[0]
    by_args = rdr.attribute(ids, 4, 3, additional_forward_args=mask)[0]
    by_name = rdr.attribute({"input_ids": ids, "attention_mask": mask}, 4, 3)[0]
    assert by_tuple.equal(by_args)
    assert by_tuple.equal(by_name)


def test_a_pool_that_asks_for_what_is_not_there():
    with pytest.raises(TypeError, match=r"missing 1 .* argument: 'mask'"):
        fit(torch.ones(3, 4), pool=lambda output, mask: output * mask)
    assert len(fit(torch.ones(3, 4), pool=torch.relu)) == 3


def test_a_layer_index_names_the_layer():
    index = LayerIndex("layer4", None, "", False, False, MemoryWriter(), lambda _: None)
    index.keep(torch.ones(2, 3))
    with pytest.raises(ValueError, match="layer 'layer4' gave shape"):
        index.keep(torch.ones(2, 4))


class Nested(nn.Module):
    def forward(self, x):
        return torch.nested.as_nested_tensor(list(x))


@pytest.mark.filterwarnings("ignore:.*nested tensors")
def test_nested_outputs_are_refused():
    model = Nested()
    with pytest.raises(TypeError, match="gave a nested tensor"):
        RelaxedDecisionRegion(model, model).fit(torch.randn(3, 4), show_progress=False)


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


def test_instances_that_look_alike_are_warned_of():
    x = torch.rand(400, 3) + 1
    with pytest.warns(
        UserWarning, match="400 different instances have only 1 .*median"
    ):
        fit(x)
    fit(x[:200])
    fit(x[:1].expand(400, 3).clone())
    fit(torch.randn(400, 12))


@pytest.mark.parametrize("batch_size", [3, 64])
def test_data_that_are_augmented_are_told(batch_size):
    class Flipped(torch.utils.data.Dataset):
        def __init__(self, share):
            self.share = share

        def __len__(self):
            return 40

        def __getitem__(self, index):
            row = torch.arange(5.0) + index
            return (row.flip(0) if torch.rand(()) < self.share else row), 0

    model = nn.Identity()
    before = torch.get_rng_state()
    loader = torch.utils.data.DataLoader(Flipped(0.5), batch_size)
    with pytest.warns(UserWarning, match="fit without random augmentation"):
        RelaxedDecisionRegion(model, model).fit(loader, show_progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    loader = torch.utils.data.DataLoader(Flipped(0.0), batch_size)
    RelaxedDecisionRegion(model, model).fit(loader, show_progress=False)
