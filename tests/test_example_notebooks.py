"""The tutorials: scripts, the notebooks made of them, and what they find."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
DOCS = EXAMPLES.parent / "docs"
sys.path.insert(0, str(EXAMPLES))

from notebooks import TUTORIALS, figures, notebook_of, printed, run  # noqa: E402


@pytest.mark.parametrize("name", TUTORIALS)
def test_notebook_is_made_from_the_script(name):
    committed = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    made = notebook_of(EXAMPLES / f"{name}.py")
    assert [(cell.cell_type, cell.source) for cell in committed.cells] == [
        (cell.cell_type, cell.source) for cell in made.cells
    ], "run `make notebooks`"
    assert (EXAMPLES / f"{name}.ipynb").stat().st_size < 200_000


@pytest.mark.parametrize("name", TUTORIALS)
def test_the_page_tells_what_the_notebook_found(name):
    committed = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    (finding,) = re.findall(r"Finding: (.*)", printed(committed))
    page = (DOCS / f"{name.replace('_', '-')}.md").read_text()
    assert finding in " ".join(page.replace("\n> ", " ").split())


def found_numbers(name, folder, n_figures) -> list[float]:
    """Run a tutorial as a notebook and return the numbers in its finding."""
    notebook = notebook_of(EXAMPLES / f"{name}.py")
    run(notebook, folder)
    assert len(figures(notebook)) == n_figures
    (finding,) = re.findall(r"Finding: (.*)", printed(notebook))
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", finding)]


def test_text(tmp_path):
    by_topic, by_word = found_numbers("text", tmp_path, 0)
    assert by_topic > 3
    assert by_word > 15


def test_tabular(tmp_path):
    missed, benign, telling, of, malignant, share = found_numbers(
        "tabular", tmp_path, 1
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
        "time_series", tmp_path, 1
    )
    assert min(rattle, drift) > 60
    assert max(rattle_late, drift_late) < 60
    assert at_fault > 80
    assert chance == 28
