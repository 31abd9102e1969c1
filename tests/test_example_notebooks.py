"""The tutorials: scripts, the notebooks made of them, and what they find."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
DOCS = EXAMPLES.parent / "docs"
sys.path += [str(EXAMPLES), str(DOCS)]

import gallery  # noqa: E402
from notebooks import TUTORIALS, figures, notebook_of, printed, run  # noqa: E402


@pytest.mark.parametrize("name", TUTORIALS)
def test_notebook_is_made_from_the_script(name):
    committed = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    made = notebook_of(EXAMPLES / f"{name}.py")
    assert [(cell.cell_type, cell.source) for cell in committed.cells] == [
        (cell.cell_type, cell.source) for cell in made.cells
    ], "run `make notebooks`"
    assert (EXAMPLES / f"{name}.ipynb").stat().st_size < 500_000


@pytest.mark.parametrize("name", TUTORIALS)
def test_a_page_begins_with_a_picture_and_the_finding(name):
    page = gallery.page_of(name)
    committed = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    (finding,) = re.findall(r"Finding: (.*)", printed(committed))
    title, picture, found, links, *text = page.cells[0].source.split("\n\n")
    assert title.startswith("# ")
    assert picture.startswith("![")
    assert gallery.picture(page, gallery.PAGES[name].figure).startswith(b"\x89PNG")
    assert found == f"> {finding}"
    for suffix in ("py", "ipynb"):
        assert f"<../../examples/{name}.{suffix}>" in links
    assert "Colab" not in links
    assert text
    assert (
        "Colab" in gallery.page_of(name, "https://github.com/me/mine").cells[0].source
    )


def test_the_page_of_the_atlas_quotes_its_tutorial():
    text = (DOCS / "atlas.md").read_text().replace("\n> ", " ")
    assert gallery.finding(gallery.page_of("atlas")) in " ".join(text.split())


def test_every_tutorial_is_in_the_gallery():
    assert list(gallery.PAGES) == TUTORIALS
    index = (DOCS / "index.md").read_text()
    assert re.findall(r"^gallery/(\w+)$", index, re.MULTILINE) == TUTORIALS


@pytest.mark.parametrize("name", TUTORIALS)
def test_notebooks_install_what_they_import(name):
    notebook = notebook_of(EXAMPLES / f"{name}.py")
    (install,) = (c for c in notebook.cells if c.source.startswith("%pip"))
    assert install.metadata["tags"] == ["skip-execution"]
    code = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
    packages = {"sklearn": "scikit-learn", "skimage": "scikit-image"}
    own = {"PIL", "captum", "matplotlib", "numpy", "torch"}  # those that we require
    for module in set(re.findall(r"^(?:from|import) (\w+)", code, re.MULTILINE)):
        package = packages.get(module, module).replace("_", "-")
        if module not in own | sys.stdlib_module_names:
            assert package in install.source.replace("_", "-")


def executed(name, folder, n_figures):
    """A tutorial, run as a notebook."""
    notebook = notebook_of(EXAMPLES / f"{name}.py")
    run(notebook, folder)
    assert len(figures(notebook)) == n_figures
    return notebook


def found_numbers(notebook) -> list[float]:
    """The numbers in a tutorial's finding."""
    (finding,) = re.findall(r"Finding: (.*)", printed(notebook))
    finding = finding.replace(",", "") if "4,000" in finding else finding
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", finding)]


def test_quickstart(tmp_path):
    members, n_rows, same, n_queries, on_average = found_numbers(
        executed("quickstart", tmp_path, 2)
    )
    assert (n_rows, n_queries) == (4000, 200)
    assert members > 16
    assert same > 90
    assert on_average > 80


def test_misclassification(tmp_path):
    """The planted flaw is found."""
    errors, of, marked, caught, cured = found_numbers(
        executed("misclassification", tmp_path, 3)
    )
    assert 50 < errors < of
    assert min(marked, caught) > 80
    assert cured > 80
    assert (tmp_path / "demo" / "misclassification.html").exists()


def test_vision_transformer(tmp_path):
    by_class, by_all, n_neurons, _, of_patches = found_numbers(
        executed("vision_transformer", tmp_path, 3)
    )
    assert by_class > 75
    assert by_all > 65
    assert n_neurons == 200
    assert of_patches > 50


def test_digits(tmp_path):
    """What ``make demo`` runs."""
    notebook = executed("digits", tmp_path, 4)
    lines = printed(notebook).splitlines()
    assert sum(line.startswith("held-out digit") for line in lines) == 4
    assert len(list((tmp_path / "demo").glob("digit_*.png"))) == 4
    read_right, misread, predicted = found_numbers(notebook)
    assert read_right > 75
    assert misread < 60
    assert predicted < 60


def test_photo(tmp_path):
    n_crops, members, same, chance = found_numbers(executed("photo", tmp_path, 3))
    assert (n_crops, chance) == (240, 17)
    assert members > 16
    assert same > 85


def test_atlas(tmp_path):
    share, n_concepts, of_photos, n_photos = found_numbers(
        executed("atlas", tmp_path, 2)
    )
    assert share > 70
    assert n_concepts >= 10
    assert of_photos > 85
    assert 8 <= n_photos <= 12


def test_text(tmp_path):
    by_topic, by_word = found_numbers(executed("text", tmp_path, 1))
    assert by_topic > 3
    assert by_word > 15


def test_tabular(tmp_path):
    missed, benign, telling, of, malignant, share = found_numbers(
        executed("tabular", tmp_path, 1)
    )
    assert 0 < missed < 15
    assert benign + malignant == missed
    assert benign > malignant
    assert telling >= 10
    assert of == 12
    assert share > 90
    assert (tmp_path / "demo" / "tabular.png").exists()


def test_time_series(tmp_path):
    rattle, drift, rattle_late, drift_late, at_fault, chance = found_numbers(
        executed("time_series", tmp_path, 1)
    )
    assert min(rattle, drift) > 60
    assert max(rattle_late, drift_late) < 60
    assert at_fault > 80
    assert chance == 28
