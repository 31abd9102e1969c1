"""The example with real weights, and the table of all models."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from zoo_table import row  # noqa: E402


def run(*arguments):
    return subprocess.run(
        [sys.executable, ROOT / "examples" / "pretrained_photos.py", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_photos(tmp_path):
    result = run("--out", tmp_path, "--crops", "8")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "  chelsea: predicted tiger cat" in lines
    assert "  flower: predicted daisy" in lines
    assert "10 photos and 8 crops of each make 90 pictures" in result.stdout
    (finding,) = [line for line in lines if line.startswith("Finding: ")]
    last, first, chance, pooled = map(int, re.findall(r"(\d+)%", finding))
    assert chance == 9
    assert chance < first < last < pooled
    assert pooled > 70
    assert len(list(tmp_path.glob("*.png"))) == 10


def test_an_empty_folder(tmp_path):
    result = run("--photos", tmp_path)
    assert result.returncode == 1
    assert "holds 0 photos; give two or more" in result.stderr


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1", "vit_b_32", "r3d_18"])
def test_the_table_in_the_documentation(name):
    assert row(name) in (ROOT / "docs" / "models.md").read_text().splitlines()
