"""Results that people use elsewhere: in JSON, tables and notebooks; and what names mean."""

import json
import re
import warnings
from urllib.error import URLError

import pytest
import torch

from captum_rdr import RelaxedDecisionRegion, regions_to_frame
from captum_rdr.metrics import significance
from captum_rdr.report import write_report


@pytest.fixture
def world():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3), torch.nn.ReLU(), torch.nn.Flatten()
    )
    data = torch.randn(80, 1, 6, 6)
    rdr = RelaxedDecisionRegion(model, model[1])
    return rdr.fit(data, keep_features=True, show_progress=False), data


def some_regions(rdr, data):
    yield from rdr.attribute_members([3, 5], 6, 4)
    yield from rdr.attribute(data[:2] + 0.5, weighting="evidence")[1]
    yield from rdr.attribute_members([1], 6, neighbors="cosine", tolerance=1)
    yield from rdr.attribute_members([1], neighbors=torch.arange(5))


@pytest.mark.filterwarnings("ignore:.*unanimous")
def test_a_region_as_json(world):
    rdr, data = world
    regions = list(some_regions(rdr, data))
    for region in [*regions, *significance(regions[:3], rdr.bank, show_progress=False)]:
        found = region.to_dict()
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        assert found["members"] == region.members.tolist()
        assert found["coordinates"] == [list(one) for one in region.unravel()]
        assert found["states"] == region.states.tolist()
        assert found["layer_shape"] == [6, 4, 4]
        assert found["query"] == region.query
        assert found["rule"]["n_neurons"] == region.rule.n_neurons
        tested = region.significance
        assert (found["significance"] is None) == (tested is None)
        if tested:
            assert found["significance"]["p_value"] == tested.p_value


@pytest.mark.filterwarnings("ignore:.*unanimous")
def test_regions_in_a_table(world, monkeypatch):
    pytest.importorskip("pandas")
    rdr, data = world
    regions = list(some_regions(rdr, data))
    frame = regions_to_frame(regions)
    assert len(frame) == len(regions)
    assert frame["query"].isna().tolist() == [one.query is None for one in regions]
    assert frame["query"].dropna().tolist() == [3, 5, 1, 1]
    assert frame["members"].tolist() == [len(one.members) for one in regions]
    assert frame["member rows"].tolist() == [one.members.tolist() for one in regions]
    assert frame["verdict"].isna().all()
    tested = significance(regions, rdr.bank, show_progress=False)
    verdicts = [one.significance.verdict for one in tested]
    assert regions_to_frame(tested)["verdict"].tolist() == verdicts
    assert len(regions_to_frame([])) == 0
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match="pandas"):
        regions_to_frame(regions)


def test_what_an_explainer_is(world):
    rdr, data = world
    assert repr(rdr) == (
        "RelaxedDecisionRegion(model: Sequential; layer 1: threshold 0, pool None, "
        f"{rdr.bank!r})"
    )
    model = rdr.forward_func
    from captum_rdr.pooling import spatial_mean

    several = RelaxedDecisionRegion(
        model,
        [model[0], model[1]],
        pool=[spatial_mean, None],
        threshold=["median", 0.5],
    )
    assert repr(several) == (
        "RelaxedDecisionRegion(model: Sequential; layer 0: threshold median, pool "
        "spatial_mean, no bank yet; layer 1: threshold 0.5, pool None, no bank yet)"
    )
    several.fit(data, show_progress=False)
    assert "layer 0: threshold a number a neuron, pool spatial_mean" in repr(several)
    function = RelaxedDecisionRegion(lambda x: model(x), model[1])
    assert "model: Sequential" in repr(function)


def test_notebooks_show_tables(world):
    rdr, _ = world
    (region,) = rdr.attribute_members([3], 6, 4)
    for one, told in [
        (rdr, "<th>layer 1</th>"),
        (rdr.bank, "<tr><th>instances</th><td>80</td></tr>"),
        (region, f"<tr><th>members</th><td>{len(region.members)}</td></tr>"),
    ]:
        html = one._repr_html_()
        assert told in html
        assert re.fullmatch(r"<table>.*</table>", html)
    assert (
        "&lt;lambda&gt;"
        in RelaxedDecisionRegion(
            rdr.forward_func, rdr.layer, pool=lambda x: x
        )._repr_html_()
    )


def test_a_flat_concept_score_is_told():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 30), torch.nn.ReLU())
    data = torch.randn(300, 4)
    rdr = RelaxedDecisionRegion(model, model[1]).fit(data, show_progress=False)
    regions = rdr.attribute_members(range(60), 8, 3, show_progress=False)
    flat = [one for one in regions if not one.states.any()]
    fine = [one for one in regions if one.states.any()]
    assert flat
    assert fine
    with pytest.warns(UserWarning, match="attribute_to_layer_input=True"):
        score = rdr.concept_score(flat[0])(data[flat[0].members])
    assert not score.any()
    before = RelaxedDecisionRegion(model, model[1])
    before.fit(data, attribute_to_layer_input=True, show_progress=False)
    (same,) = before.attribute_members([flat[0].query], 8, 3)
    assert same.members.equal(flat[0].members)
    with warnings.catch_warnings(action="error"):
        rdr.concept_score(fine[0])(data)
        assert before.concept_score(same)(data[same.members]).std() > 0


@pytest.mark.filterwarnings("ignore:.*unanimous")
def test_reports_test_regions_that_they_make(world, tmp_path):
    rdr, data = world
    write_report(
        tmp_path / "page.html", rdr, [3, 5], data.sigmoid(), show_progress=False
    )
    page = (tmp_path / "page.html").read_text()
    regions = rdr.attribute_members([3, 5])
    tested = significance(regions, rdr.bank, show_progress=False)
    for one in tested:
        assert one.significance.verdict in page
    assert "those that were not tested may be chance finds" not in page.lower()
    assert "<dt>principal neurons</dt>" in page
    regions = rdr.attribute_members([3, 5])
    write_report(tmp_path / "page.html", rdr, [3, 5], data.sigmoid(), regions=regions)
    page = (tmp_path / "page.html").read_text()
    assert "those that were not tested may be chance finds" in page.lower()


def test_weights_that_cannot_be_downloaded(monkeypatch):
    pytest.importorskip("torchvision")
    from captum_rdr.zoo import explain

    def offline(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision._internally_replaced_utils.load_state_dict_from_url",
                        offline)  # fmt: skip
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    told = r"'alexnet' cannot be downloaded.*no route.*put alexnet-owt-.*\.pth into .*"
    with pytest.raises(ConnectionError, match=told + r"checkpoints'.*weights=None"):
        explain("alexnet")


def test_names_that_are_nearly_right(world):
    pytest.importorskip("torchvision")
    from captum_rdr.zoo import explain

    rdr, _ = world
    with pytest.raises(ValueError, match="did you mean 'evidence'"):
        rdr.attribute_members([3], 6, 4, weighting="evidense")
    with pytest.raises(ValueError, match="did you mean 'resnet50'"):
        explain("resnet5O")
    with pytest.raises(ValueError, match="did you mean 'IMAGENET1K_V2'"):
        explain("resnet50", "IMAGENET_V2")
    with pytest.raises(ValueError, match=r"did you mean 'features\.12'"):
        explain("squeezenet1_1", None, "feature.12")


def test_a_decoder_that_pads_on_the_left():
    transformers = pytest.importorskip("transformers")
    from captum_rdr.pooling import last_token

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=40, n_positions=20, n_embd=32, n_layer=2, n_head=2
    )
    model = transformers.GPT2Model(config).eval()
    short = torch.randint(40, (12, 5))
    mask = torch.ones_like(short)

    def batch(n_padded):
        ids = torch.nn.functional.pad(short, (n_padded, 0))
        attended = torch.nn.functional.pad(mask, (n_padded, 0))
        positions = (attended.cumsum(-1) - 1).clamp(min=0)
        return {"input_ids": ids, "attention_mask": attended}, positions

    rdr = RelaxedDecisionRegion(model, model.h[1], pool=last_token)
    inputs, positions = batch(0)
    rdr.fit([{**inputs, "position_ids": positions}], show_progress=False)
    states = rdr.bank.states()
    assert rdr.states(inputs).equal(states)
    inputs, positions = batch(7)
    assert not rdr.states(inputs).equal(states)
    assert rdr.states({**inputs, "position_ids": positions}).equal(states)
