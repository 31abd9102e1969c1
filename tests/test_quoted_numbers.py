"""README and docs quote what the benchmarks printed: ``benchmarks/results/NAME.txt``."""

import re
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = [path.read_text() for path in (ROOT / "benchmarks" / "results").glob("*.txt")]
PRINTED = {" ".join(line.split()) for text in RESULTS for line in text.splitlines()}
PAGES = ["benchmarks", "choose-k-and-t", "how-it-compares", "scale"]


def rows(text: str) -> list[str]:
    """Rows of tables that have a number with decimals."""
    found = re.findall(r"^\|.*\|$", text, re.MULTILINE)
    return [row for row in found if re.search(r"\d\.\d", row)]


def outputs(text: str) -> list[str]:
    """Lines of blocks of output."""
    blocks = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [" ".join(line.split()) for block in blocks for line in block.splitlines()]


def cells(row: str) -> list[str]:
    """The cells of a row of a table, without what stands in parentheses."""
    found = row.strip("|").split("|")
    return [re.sub(r" \(.*\)", "", cell.strip()) for cell in found]


def is_part(row: list[str], whole: list[str]) -> bool:
    """Whether a row is another one with columns left out."""
    rest = iter(whole)
    return row[0] == whole[0] and all(cell in rest for cell in row)


def test_the_readme_quotes_columns_of_what_was_printed():
    quoted = rows((ROOT / "README.md").read_text())
    printed = [cells(line) for line in PRINTED if line.startswith("|")]
    assert len(quoted) > 5
    for row in quoted:
        assert any(is_part(cells(row), whole) for whole in printed), row


@pytest.mark.parametrize("name", PAGES)
def test_a_page_quotes_what_was_printed(name):
    text = (ROOT / "docs" / f"{name}.md").read_text()
    quoted = rows(text) + outputs(text)
    assert quoted
    for line in quoted:
        assert line in PRINTED, line


def test_every_result_is_of_a_command():
    """`make NAME` prints the file anew."""
    makefile = (ROOT / "Makefile").read_text()
    recorded = re.findall(r"^(\w+):.*\n\t.*\$\(RECORD\)$", makefile, re.MULTILINE)
    files = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.txt")}
    assert files <= set(recorded)
    assert not list(chain(*(re.findall(r"/(?:home|work|tmp)/", t) for t in RESULTS)))
