"""The report as text; `test_report_browser.py` opens it."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from drawing import FAILED, PASSED, fitted, hidden, outcome, shapes
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.image import imread

from captum_rdr.method.region import Significance
from captum_rdr.report import write_report
from captum_rdr.report.images import figure_uri, thumbnail_uri
from captum_rdr.visualization import Reference

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(2)> ' & {{ 7 * 7 }} </style></title>",
]


class Page(HTMLParser):
    """Elements of a page with their attributes, and its visible text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self._within = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._within.append(tag)

    def handle_endtag(self, tag):
        while self._within and self._within.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"style", "script"} & set(self._within):
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def data():
    return shapes(60, 3)


def written(path, *args, **kwargs):
    write_report(path, *args, show_progress=False, **kwargs)
    return Page(path.read_text())


def test_everything_is_in_the_page(data, tmp_path):
    rdr = hidden(data, keep_features=True)
    labels, predictions = [i % 2 for i in range(60)], [0] * 60
    regions = rdr.attribute_members([4, 5, 6], 5, 4, tolerance=1)
    regions = [outcome(regions[0], PASSED), outcome(regions[1], FAILED), regions[2]]
    pyplot.close("all")
    page = written(
        tmp_path / "report.html",
        rdr,
        [4, 5, 6],
        Reference(data, labels, predictions, ["lying", "standing"]),
        regions=regions,
        method=lambda score: Saliency(score).attribute,
        title="Bars",
    )
    assert pyplot.get_fignums() == []
    articles = page.all("article")
    assert [one["data-significance"] for one in articles] == [
        "significant",
        "not significant",
        "not tested",
    ]
    assert [one["data-label"] for one in articles] == ["0", "1", "0"]
    assert [one["data-prediction"] for one in articles] == ["0"] * 3
    for wanted in (
        "Bars",
        "3 queries in the layer 4. 1 is significant, 1 is not significant, 1 is not tested.",
        "The model is wrong on 1, most often it takes standing for lying (1).",
        described(regions[1], labels, 30),
        "Row 5 : standing , predicted lying (wrong) not significant".replace(" ,", ","),
        "Significant: adjusted p=0.008, effect 4",
        "Not significant: p=0.3 (level 0.01), so this may be a chance find",
        "Nearest by cosine distance",
        "Principal neurons",
        "Where the concept is",
    ):
        assert re.sub(r"\W", "", wanted) in re.sub(r"\W", "", page.text), wanted
    options = [one["value"] for one in page.all("option")][
        5:
    ]  # behind those of sorting
    outcomes = [
        "significant",
        "not significant",
        "a mixture",
        "not testable",
        "not tested",
    ]
    assert options == ["", "0", "1", "", "0", "", *outcomes]
    images = page.all("img")
    assert len(images) == 1 + 3  # a map; where the concept of each is
    assert all(one["alt"] and one["loading"] == "lazy" for one in images)
    pictures = [a for a in page.all("button") if "data-i" in a]
    assert all(one["aria-label"] for one in pictures)
    numbers = {int(re.search(r"t(\d+)", one["class"])[1]) for one in pictures}
    source = (tmp_path / "report.html").read_text()
    stored = source.count("background-image:url(data:")
    assert numbers <= set(range(stored))
    assert stored == len({one[5] for one in instances(source)})
    assert len(pictures) > len(numbers)  # the same picture is stored once
    tags = [tag for tag, _ in page.elements]
    for landmark in ("header", "main", "footer", "form", "h1", "table"):
        assert landmark in tags
    assert ("html", {"lang": "en"}) in page.elements
    assert {one["for"] for one in page.all("label")} == {
        one["id"] for one in [*page.all("select"), *page.all("input")]
    }


def instances(source):
    """What a page knows of each instance, the number of its picture last."""
    return json.loads(re.search(r"const instances = (.*);", source)[1])


def described(region, labels, n_errors):
    """What a report says of a region in which every standing bar is an error."""
    standing = sum(labels[row] for row in region.members)
    lying = len(region.members) - standing
    counts = sorted([(standing, "standing"), (lying, "lying")], reverse=True)
    parts = [f"{count} {name}" for count, name in counts if count]
    return (
        f"{len(region.members)} members: {', '.join(parts)}. {standing} of the {n_errors} "
        "errors are in this region."
    )


def test_names_and_all_members(data, tmp_path):
    rdr = hidden(data)
    new = data[:2] * 0.9
    files = [f"bars/{row}.png" for row in range(60)]
    names = {"query_names": ["first.png", "second.png"], "names": files}
    regions = rdr.attribute(new, 5, 4, tolerance=2)[1]
    page = written(
        tmp_path / "report.html", rdr, new, data, regions=regions, n_members=3, **names
    )
    assert "first.png" in page.text
    assert "bars/" in str(page.all("button"))
    assert "New input" not in page.text
    shown = instances((tmp_path / "report.html").read_text())
    for region, part in zip(regions, page.all("article"), strict=True):
        more = [one for one in page.all("button") if one.get("class") == "more"]
        assert f"{len(region.members)} members" in part["data-text"]
    assert len(more) == 2
    for region, button in zip(regions, more, strict=True):
        rows = {shown[int(one)][1] for one in button["data-more"].split()}
        assert rows == set(region.members.tolist()) - set(region.neighbors.tolist())
        assert shown[int(button["data-more"].split()[0])][0].startswith("bars/")
    with pytest.raises(ValueError, match="names has 1 items, but row"):
        write_report(tmp_path / "r.html", rdr, [4], data, names=["one"])
    with pytest.raises(ValueError, match="query_names has 1 items for 2 queries"):
        write_report(tmp_path / "r.html", rdr, new, data, query_names=["one"])


def test_the_page_needs_nothing_from_elsewhere(data, tmp_path):
    rdr = hidden(data)
    page = written(tmp_path / "report.html", rdr, [4], data)
    for tag, attributes in page.elements:
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (
                tag,
                attributes,
            )
    source = (tmp_path / "report.html").read_text()
    assert "http:" not in source
    assert "https:" not in source
    assert "@import" not in source
    (policy,) = [a for a in page.all("meta") if "http-equiv" in a]
    assert policy["content"].startswith("default-src 'none'; img-src data:;")


def test_names_from_outside_are_escaped(data, tmp_path):
    rdr = hidden(data)
    labels = [i % 2 for i in range(60)]
    reference = Reference(data, labels, labels[::-1], HOSTILE)
    page = written(tmp_path / "report.html", rdr, [4, 5], reference, title=HOSTILE[1])
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == tags.count("style") == tags.count("title") == 1
    assert page.all("img")
    assert all(image["src"].startswith("data:") for image in page.all("img"))
    assert not any("onerror" in attributes for _, attributes in page.elements)
    for name in HOSTILE:
        assert name.replace("\n", " ") in page.text
    source = (tmp_path / "report.html").read_text()
    assert "<script>alert" not in source
    assert "49" not in re.findall(r"<title>.*?</title>", source)[0]


def test_several_layers_and_new_inputs(data, tmp_path):
    both = fitted(data)
    new = (data[:3] * 0.9 + 0.03).clamp(0, 1)
    page = written(
        tmp_path / "report.html",
        both,
        new,
        data,
        query_labels=torch.tensor([1, -1, 0]),
        query_predictions=[1, 1, None],
        n_members=3,
    )
    assert "New input 2 : unknown , predicted 1" in page.text.replace(
        ":", " :"
    ).replace(",", " ,").replace("  ", " ")
    assert page.text.count("Members in common (Jaccard index)") == 3
    layers = [
        a for a in page.all("section") if a.get("aria-label", "").startswith("Lay")
    ]
    assert [one["aria-label"] for one in layers] == ["Layer 1", "Layer 4"] * 3
    assert [one["data-label"] for one in page.all("article")] == ["1", "2", "0"]
    options = re.findall(
        r"<option value=\"\d\">(\w+)", (tmp_path / "report.html").read_text()
    )
    assert options == ["0", "1", "unknown", "1", "unknown"]


def test_a_failed_layer_makes_a_failed_query(data, tmp_path):
    both = fitted(data)
    found = both.attribute_members([4, 5], 5, 4)
    found[0] = [outcome(one, PASSED) for one in found[0]]
    found[1][1] = outcome(found[1][1], FAILED)
    page = written(tmp_path / "report.html", both, [4, 5], data, regions=found)
    outcomes = [one["data-significance"] for one in page.all("article")]
    assert outcomes == ["significant", "not significant"]


def test_mixtures_and_what_cannot_be_tested_are_told_apart(data, tmp_path):
    rdr = hidden(data)
    found = rdr.attribute_members([4, 5], 5, 4)
    found[0] = outcome(found[0], replace(PASSED, coherence=0.2))
    found[1] = outcome(found[1], Significance(1.0, 0.0, 0, untestable="no member"))
    page = written(tmp_path / "report.html", rdr, [4, 5], data, regions=found)
    outcomes = [one["data-significance"] for one in page.all("article")]
    assert outcomes == ["a mixture", "not testable"]
    assert "A mixture: coherence 0.2, adjusted p=0.008, so members need" in page.text
    assert "Not testable: no member" in page.text


def test_a_report_replaces_the_old_one_whole_or_not_at_all(data, tmp_path):
    rdr = hidden(data)
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ValueError, match="dataset has 2 items"):
        write_report(path, rdr, [4], data[:2], show_progress=False)
    assert path.read_text() == "old"
    write_report(str(path), rdr, [4], data, show_progress=False)
    assert path.read_text().startswith("<!doctype html>")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(OSError, match="folder"):
        write_report(folder, rdr, [4], data, show_progress=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["folder", "report.html"]


def test_reports_that_cannot_be_written(data, tmp_path):
    rdr, path = hidden(data), tmp_path / "report.html"
    regions = rdr.attribute_members([4, 5], 5, 4)
    with pytest.raises(ValueError, match="queries is empty"):
        write_report(path, rdr, [], data)
    with pytest.raises(
        ValueError, match=r"regions has \[2\] items for 1 queries in 1 lay"
    ):
        write_report(path, rdr, [4], data, regions=regions)
    with pytest.raises(ValueError, match="query_labels has 1 items for 2 queries"):
        write_report(path, rdr, data[:2], data, query_labels=[1])
    with pytest.raises(
        ValueError, match="query_labels is for inputs, but queries are b"
    ):
        write_report(path, rdr, [4], data, query_labels=[1])
    with pytest.raises(ValueError, match="queries go from 60 to 60"):
        write_report(path, rdr, [60], data)
    with pytest.raises(ValueError, match="n_members=0 is too small"):
        write_report(path, rdr, [4], data, n_members=0)
    assert list(tmp_path.iterdir()) == []


def decoded(uri):
    kind, text = re.match(r"data:image/(\w+);base64,(.*)", uri).groups()
    return kind, imread(io.BytesIO(base64.b64decode(text)), format=kind)


def test_small_pictures_are_exact_and_large_ones_averaged():
    generator = np.random.default_rng(0)
    small = np.round(generator.random((7, 5, 3)) * 255) / 255
    kind, image = decoded(thumbnail_uri(small))
    assert kind == "png"
    assert np.allclose(image[..., :3], small, atol=1e-3)
    # Four pixels of each become one, so a checkerboard becomes gray.
    board = np.indices((224, 448)).sum(0) % 2
    kind, image = decoded(thumbnail_uri(np.stack([board] * 3, -1).astype(float)))
    assert (kind, image.shape) == ("jpeg", (56, 112, 3))
    assert np.abs(image / 255 - 0.5).max() < 0.02
    kind, image = decoded(thumbnail_uri(np.zeros((90, 30, 3))))
    assert (kind, image.shape) == ("jpeg", (90, 30, 3))


def test_figures_are_whole():
    fig = Figure(figsize=(2, 1))
    kind, image = decoded(figure_uri(fig))
    assert (kind, image.shape) == ("webp", (110, 220, 4))
    assert not image[..., 3].any()  # the page is their ground


def test_ink_of_figures_reads_on_light_and_dark():
    fig = Figure(figsize=(1, 1))
    fig.text(0.1, 0.4, "█" * 9, size=30)
    _, image = decoded(figure_uri(fig, on_any=True))
    ink = np.median(image[image[..., 3] == image[..., 3].max()], 0)[:3]
    assert ink.min() > 100
    assert ink.max() < 160
