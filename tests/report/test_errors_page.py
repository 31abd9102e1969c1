"""The page of a classifier's errors as text; `test_report_browser.py` opens it."""

import re

import pytest
import torch
from drawing import marked, misled
from test_report import Page, instances
from torch.utils.data import DataLoader, TensorDataset

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery import Misclassification, atlas, misclassification
from captum_rdr.report import write_report
from captum_rdr.visualization import Reference

NAMES = ["lying", "standing"]


@pytest.fixture(scope="module")
def made():
    """A classifier that takes a mark for a class, its reference set, and a test set."""
    model, images, labels = misled()
    rdr = RelaxedDecisionRegion(model, model[1], threshold="median")
    rdr.fit(images, keep_features=True, show_progress=False)
    tested, classes, has_mark = marked(200, 1)
    data = TensorDataset(tested, classes)
    return rdr, Reference(images, labels, class_names=NAMES), data, has_mark


def written(path, *args, **kwargs):
    found = write_report(path, *args, show_progress=False, **kwargs)
    return Page(path.read_text()), found


def test_one_call_from_a_loader_to_the_page(made, tmp_path):
    rdr, reference, data, has_mark = made
    path = tmp_path / "errors.html"
    loader = DataLoader(data, batch_size=30)
    page, (found,) = written(path, rdr, loader, reference, n_members=5, title="Bars")
    assert isinstance(found, Misclassification)
    expected = misclassification(rdr, data, show_progress=False)
    assert [one.rows.tolist() for one in found] == [
        one.rows.tolist() for one in expected
    ]
    # Words first: how many, and the largest groups.
    share = 100 * len(found.rows) / 200
    share = f"{share:.0f}" if share >= 10 else f"{share:.1f}"
    words = f"200 inputs, {len(found.rows)} errors ({share} %) in {len(found)} group"
    assert words in page.text
    group = found[0]
    assert has_mark[group.rows].float().mean() > 0.8
    n = len(group.rows)
    assert f"{n} errors : {group.targets[1]} standing , taken for ".replace(
        " ", ""
    ) in (page.text.replace(" ", ""))
    assert f"{100 * group.errors.rate:.0f} % of the inputs in this region" in page.text
    # A card for each group, each concept, and each explained error.
    cards = {kind: [] for kind in ("group", "concept", "query")}
    for one in page.all("article"):
        cards[one["id"].split("-")[0]].append(one)
    assert [int(one["data-errors"]) for one in cards["group"]] == [
        len(one.rows) for one in found
    ]
    concepts = atlas(rdr, labels=reference.labels, show_progress=False)
    assert len(cards["concept"]) == len(concepts) > 0
    explained = [row for one in found for row in one.rows[:3].tolist()]
    assert len(cards["query"]) == len(explained)
    assert [one["data-name"] for one in cards["query"]] == [
        f"Input {row}" for row in explained
    ]
    # Every error of the group has a picture, the first ones with where it lies.
    shown = instances(path.read_text())
    more = next(one for one in page.all("button") if one.get("class") == "more")
    names = [shown[int(number)][0] for number in more["data-more"].split()]
    assert names == [f"Input {row}" for row in group.rows.tolist()]
    (first,) = {tuple(one[:5]) for one in shown if one[0] == names[0]}
    assert first == (names[0], None, "standing", "lying", True)
    assert any(one["class"] == "veil" for one in page.all("img"))
    # What to look at.
    assert f"{len(group.reference)} reference rows lie in its region" in page.text
    assert "the model may have learned it from these" in page.text
    if len(group.odd):
        assert "Look at the labels:" in page.text
    # One page with unique ids, in which every link leads somewhere.
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {one["href"][1:] for one in page.all("a") if one["href"].startswith("#")}
    assert links <= set(ids)
    controls = [*page.all("select"), *page.all("input")]
    assert {one["for"] for one in page.all("label")} == {one["id"] for one in controls}


def test_the_layer_that_separates_best_makes_the_groups(made, tmp_path):
    rdr, reference, data, _ = made
    model = rdr.forward_func
    both = RelaxedDecisionRegion(model, [model[0], model[1]], threshold="median")
    both.fit(reference.dataset, keep_features=True, show_progress=False)
    page, found = written(tmp_path / "r.html", both, data, reference, atlas=None)
    assert [one.layer for one in found] == ["0", "1"]
    best = max(found, key=lambda one: one.separation())
    assert f"by the layer {best.layer}" in page.text
    assert "Of the layers this one separates errors best: 0 " in page.text
    assert not page.all("svg")
    sections = [one.get("aria-label") for one in page.all("section")]
    assert sections.count("Layer 0") == sections.count("Layer 1") > 0


def test_names_and_labels_of_data_sets_that_know_them(made, tmp_path):
    rdr, reference, data, _ = made

    class Folder(TensorDataset):
        samples = tuple((f"/photos/tested/{row}.png", 0) for row in range(200))

    class Listed(TensorDataset):
        targets = reference.labels

    path = tmp_path / "r.html"
    folder, listed = Folder(*data.tensors), Listed(reference.dataset)
    page, _ = written(path, rdr, folder, Reference(listed, class_names=NAMES))
    names = [one["data-name"] for one in page.all("article") if "data-name" in one]
    assert names
    assert all(re.fullmatch(r"tested/\d+.png", one) for one in names)
    assert "/photos" not in path.read_text()
    assert "lie in its region: " in page.text  # with their labels
    given = [f"<b>{row}" for row in range(200)]
    page, _ = written(path, rdr, folder, reference, query_names=given, atlas=None)
    assert "<b>" in str(page.all("button"))
    assert not page.all("b")
    with pytest.raises(ValueError, match="query_names has 1 items for 200 queries"):
        write_report(path, rdr, data, reference, query_names=["one"], atlas=None)


def test_an_atlas_that_was_found_before(made, tmp_path):
    rdr, reference, data, _ = made
    found = atlas(rdr, n_concepts=2, test=False, show_progress=False)
    for queries in (data, [1, 2]):
        page, _ = written(tmp_path / "r.html", rdr, queries, reference, atlas=found)
        ids = [one["id"] for one in page.all("article")]
        assert [one for one in ids if one.startswith("concept")] == [
            "concept-0",
            "concept-1",
        ]
    page, groups = written(tmp_path / "r.html", rdr, [1, 2], reference)
    assert groups is None
    assert len(page.all("article")) == 2


def test_a_set_without_errors(made, tmp_path):
    rdr, reference, data, _ = made
    images = data.tensors[0][:40]
    with torch.no_grad():
        classes = rdr.forward_func(images).argmax(1)
    right = TensorDataset(images, classes)
    page, (found,) = written(tmp_path / "r.html", rdr, right, reference, atlas=None)
    assert not len(found.rows)
    assert "40 inputs, 0 errors (0 %) in 0 groups" in page.text
    assert "The model makes no error on these inputs." in page.text
    assert not page.all("article")
    # Labels of one's own stand in for those of the set.
    options = {"query_labels": 1 - classes, "atlas": None}
    page, (found,) = written(tmp_path / "r.html", rdr, right, reference, **options)
    assert len(found.rows) == 40


def test_what_is_not_for_a_labeled_set_is_refused(made, tmp_path):
    rdr, reference, data, _ = made
    for name, value in (("regions", []), ("query_predictions", [0] * 200)):
        with pytest.raises(
            ValueError, match=f"{name} is for inputs, but queries are a l"
        ):
            write_report(tmp_path / "r.html", rdr, data, reference, **{name: value})
    loader = DataLoader(data, shuffle=True)
    with pytest.raises(ValueError, match="in the order of a RandomSampler"):
        write_report(tmp_path / "r.html", rdr, loader, reference)
    with pytest.raises(ValueError, match="data gives no labels"):
        write_report(tmp_path / "r.html", rdr, DataLoader(data.tensors[0]), reference)


def test_new_inputs_are_predicted_where_the_model_classifies(made, tmp_path):
    rdr, reference, data, _ = made
    images = data.tensors[0][:4]
    page, _ = written(tmp_path / "r.html", rdr, images, reference)
    with torch.no_grad():
        predicted = [NAMES[one] for one in rdr.forward_func(images).argmax(1)]
    for number, name in enumerate(predicted):
        assert f"New input {number + 1}, predicted {name}" in page.text
    three = Reference(reference.dataset, reference.labels, class_names=[*NAMES, "none"])
    for unknown in (three, reference.dataset):
        page, _ = written(tmp_path / "r.html", rdr, images, unknown)
        assert ", predicted" not in page.text
