"""The page of an atlas as text; `test_report_browser.py` opens it."""

import re

import pytest
import torch
from drawing import fitted, hidden, shapes
from test_report import Page

from captum_rdr import RelaxedDecisionRegion
from captum_rdr.discovery import Atlas, atlas
from captum_rdr.report import write_atlas
from captum_rdr.visualization import Reference

LABELS, PREDICTIONS = (
    [row % 2 for row in range(80)],
    [row % 2 * (row > 40) for row in range(80)],
)


@pytest.fixture(scope="module")
def made():
    """Bars that lie and bars that stand, seen by a convolution."""
    data = shapes(80, 3)
    both = fitted(data)
    rdr = RelaxedDecisionRegion(both.forward_func, both.layer[0], threshold="median")
    rdr = rdr.fit(data, keep_features=True, show_progress=False)
    found = atlas(
        rdr, n_concepts=2, labels=LABELS, predictions=PREDICTIONS, show_progress=False
    )
    return data, found


def written(path, *args, **kwargs):
    write_atlas(path, *args, show_progress=False, **kwargs)
    return Page(path.read_text())


def test_everything_is_in_the_page(made, tmp_path):
    data, found = made
    names = [f"bars/{row}.png" for row in range(80)]
    page = written(
        tmp_path / "atlas.html",
        found,
        Reference(data, LABELS, PREDICTIONS, ["lying", "standing"]),
        names=names,
        title="Bars",
    )
    assert "2 concepts of 80 rows in the layer 1" in page.text
    for number, concept in enumerate(found):
        common, count = concept.labels.most_common(1)[0]
        name = ["lying", "standing"][common]
        assert f"Concept {number} : {name}".replace(" :", ":") in page.text.replace(
            " :", ":"
        )
        assert f"{len(concept.rows)} rows: {count} {name}" in page.text
        assert f"told {concept.told:.2f}" in page.text
        assert f"{concept.errors.n_wrong} wrong: " in page.text
    articles = page.all("article")
    assert [int(one["data-rows"]) for one in articles] == [
        len(one.rows) for one in found
    ]
    assert [one["data-significance"] for one in articles] == [
        one.region.significance.verdict for one in found
    ]
    pictures = [one for one in page.all("button") if "data-i" in one]
    rows = [int(re.search(r"bars/(\d+)", one["aria-label"])[1]) for one in pictures]
    n_exemplars = len(found[0].exemplars)
    assert rows[:n_exemplars] == found[0].exemplars.tolist()
    assert len(pictures) == 2 * (n_exemplars + 10 * 4)
    # Where the layer has places, each exemplar knows where in it the concept lies.
    veils = [one for one in page.all("img") if one["class"] == "veil"]
    assert len(veils) == 2 * n_exemplars
    assert sum("background-position" in one.get("style", "") for one in pictures) == 80
    neurons = found[0].region.named(10)
    channel, height, width = found[0].region.unravel()[neurons[0]]
    assert f"Channel {channel}, height {height}, width {width}" in page.text
    for tag, attributes in page.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), tag


def test_what_is_not_known_is_left_out(tmp_path):
    data = shapes(60, 3)
    rdr = hidden(data)  # neither places nor features
    found = atlas(rdr, n_concepts=2, test=False, show_progress=False)
    page = written(tmp_path / "atlas.html", found, data)
    assert "not tested" in page.text
    assert "wrong against" not in page.text
    assert not page.all("img")
    assert "Row " in str(page.all("button"))
    ids = {one["id"] for one in [*page.all("select"), *page.all("input")]}
    assert {"sort", "significance", "find", "rows"} <= ids
    assert not {"errs", "label"} & ids
    nothing = Atlas((), torch.arange(60), torch.full((60,), -1), 0.0, rdr)
    page = written(tmp_path / "none.html", nothing, data)
    assert "0 concepts of 60 rows" in page.text
    assert "No concept was found." in page.text


def test_files_of_a_folder_are_called_by_their_names(made, tmp_path):
    data, found = made

    class Folder(torch.utils.data.TensorDataset):
        samples = tuple((f"/photos/bars/{row}.png", 0) for row in range(80))

    page = written(tmp_path / "atlas.html", found, Folder(data))
    assert f"bars/{found[0].exemplars[0]}.png, larger" in str(page.all("button"))
    assert "/photos" not in (tmp_path / "atlas.html").read_text()


def test_atlases_that_cannot_be_written(made, tmp_path):
    data, found = made
    path = tmp_path / "atlas.html"
    with pytest.raises(ValueError, match="names has 1 items, but row"):
        write_atlas(path, found, data, names=["one"])
    with pytest.raises(ValueError, match="dataset has 1 items, but row"):
        write_atlas(path, found, data[:1])
    assert not path.exists()
