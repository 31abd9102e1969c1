"""The tutorials: scripts, the notebooks made of them, and what they find."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
DOCS = EXAMPLES.parent / "docs"
PAGES = {"quickstart": "images.md", "time_series": "time-series.md"}
sys.path.insert(0, str(EXAMPLES))

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
def test_the_page_tells_what_the_notebook_found(name):
    committed = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    (finding,) = re.findall(r"Finding: (.*)", printed(committed))
    page = (DOCS / PAGES.get(name, f"{name}.md")).read_text()
    assert finding in " ".join(page.replace("\n> ", " ").split())


def executed(name, folder, n_figures):
    """A tutorial, run as a notebook."""
    notebook = notebook_of(EXAMPLES / f"{name}.py")
    run(notebook, folder)
    assert len(figures(notebook)) == n_figures
    return notebook


def found_numbers(notebook) -> list[float]:
    """The numbers in a tutorial's finding."""
    (finding,) = re.findall(r"Finding: (.*)", printed(notebook))
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", finding)]


def test_quickstart(tmp_path):
    """What ``make demo`` runs."""
    notebook = executed("quickstart", tmp_path, 4)
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
    by_topic, by_word = found_numbers(executed("text", tmp_path, 0))
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
