"""What is released: the wheel in a clean environment, and what importing it costs."""

import os
import re
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import captum_rdr

ROOT = Path(__file__).parent.parent

SMOKE = """
import sys, torch, captum_rdr
from captum_rdr import RelaxedDecisionRegion
from captum_rdr.report import write_report
data = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
model = torch.nn.Flatten()
rdr = RelaxedDecisionRegion(model, model, threshold=0.5).fit(data, show_progress=False)
regions = rdr.attribute_members([0, 3], 3, 2)
rdr.bank.save(sys.argv[1])
write_report(sys.argv[2], rdr, [0, 3], data, regions=regions)
print(captum_rdr.__file__, captum_rdr.__version__)
"""


def run(*command, **options) -> str:
    result = subprocess.run(
        [str(one) for one in command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """A folder of the source distribution and the wheel built from it, as a release is."""
    folder = tmp_path_factory.mktemp("dist")
    run(
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        folder,
        ROOT,
        cwd=folder,
    )
    version = captum_rdr.__version__
    assert {path.name for path in folder.iterdir()} == {
        f"captum_rdr-{version}.tar.gz",
        f"captum_rdr-{version}-py3-none-any.whl",
    }
    return folder


@pytest.fixture(scope="module")
def wheel(dist) -> Path:
    (wheel,) = dist.glob("*.whl")
    return wheel


def test_the_source_distribution_can_be_tested(dist, tmp_path):
    """It holds all that a clone does, and its tests run in it."""
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (root,) = tmp_path.iterdir()
    for folder in ("tests", "docs", "examples", "benchmarks", ".ci", ".github"):
        for path in (ROOT / folder).rglob("*"):
            made = {"__pycache__", "gallery", ".pytest_cache"} & set(path.parts)
            if path.is_file() and not made:
                assert (root / path.relative_to(ROOT)).is_file(), path
    for name in ("Makefile", "setup.cfg", "CHANGELOG.md", "CITATION.cff", "LICENSE"):
        assert (root / name).is_file()
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    some = ["tests/method/test_golden.py", "captum_rdr/axes.py", "README.md"]
    pytest_ = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--no-cov",
        "-p",
        "no:cacheprovider",
    ]
    assert " passed" in run(*pytest_, *some, cwd=root, env=clean)


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    package = {name for name in names if name.startswith("captum_rdr/")}
    sources = ROOT / "captum_rdr"
    assert package == {
        path.relative_to(ROOT).as_posix()
        for path in sources.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name.split("/")[0] for name in names if name not in package} == {
        f"captum_rdr-{captum_rdr.__version__}.dist-info"
    }


def test_the_wheel_in_a_clean_environment(wheel, tmp_path):
    """Dependencies are those of this environment, so that nothing is downloaded."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "clean")
    python = tmp_path / "clean" / "bin" / "python"
    install = ["-m", "pip", "--python", python, "install", "--no-deps", "--quiet"]
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run(sys.executable, *install, "--no-index", wheel, env=clean)
    (site,) = (tmp_path / "clean" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    bank, page = tmp_path / "bank", tmp_path / "page.html"
    where, version = run(
        python, "-c", SMOKE, bank, page, cwd=tmp_path, env=clean
    ).split()
    assert Path(where).is_relative_to(tmp_path / "clean")
    assert version == captum_rdr.__version__
    assert page.read_text().count("<article") == 2
    command = python.with_name("captum-rdr")
    assert "instances: 30" in run(command, "inspect", bank, cwd=tmp_path, env=clean)


def test_the_version_is_stated_once():
    version = re.escape(captum_rdr.__version__)
    assert re.search(version, (ROOT / "captum_rdr" / "version.py").read_text())
    for name in ("pyproject.toml", "docs/conf.py", "setup.cfg"):
        assert not re.search(rf"version.*{version}", (ROOT / name).read_text())


def test_importing_costs_little_more_than_captum():
    """At most 0.2 s of processor time, which another load on the machine leaves alone."""
    program = (
        "import time, captum, captum.attr, captum.concept\n"
        "start = time.process_time()\n"
        "import captum_rdr\n"
        "print(time.process_time() - start)"
    )
    times = [float(run(sys.executable, "-c", program)) for _ in range(3)]
    assert statistics.median(times) < 0.2


def test_lower_bounds_are_those_that_are_tested():
    """The oldest versions: what pyproject.toml promises, and what the pages tell."""
    lines = (ROOT / ".ci" / "oldest.txt").read_text().splitlines()
    oldest = dict(line.split("==") for line in lines if "==" in line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        name, bound = re.match(r"([\w-]+)>=([\d.]+)", requirement).groups()
        assert f"{oldest[name]}.".startswith(f"{bound}."), requirement
    table = (
        (ROOT / "docs" / "limits.md").read_text().lower().replace("pytorch", "torch")
    )
    for name in ("torch", "captum", "numpy", "scipy", "matplotlib", "numkong"):
        assert re.search(rf"\| {name} \| {re.escape(oldest[name])} \|", table), name
