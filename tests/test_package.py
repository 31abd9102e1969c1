"""The package as a whole: examples, names and documentation."""

import inspect
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import captum_rdr

ROOT = Path(__file__).parent.parent


def modules():
    found = pkgutil.walk_packages(captum_rdr.__path__, "captum_rdr.")
    return [import_module(info.name) for info in found]


def test_public_names():
    assert captum_rdr.__all__ == [
        "ConfigurationBank",
        "Region",
        "RelaxedDecisionRegion",
        "__version__",
        "regions_to_frame",
    ]


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_public_names_are_documented(module):
    assert module.__doc__
    for name, value in vars(module).items():
        own = getattr(value, "__module__", None) == module.__name__
        if name.startswith("_") or not own or not callable(value):
            continue
        assert inspect.getdoc(value), name
        if inspect.isclass(value):
            for method, function in vars(value).items():
                if not method.startswith("_") and inspect.isfunction(function):
                    assert function.__doc__, f"{name}.{method}"


def sources(name):
    """The text of a module, or of all modules of a subpackage."""
    path = ROOT / "captum_rdr" / name
    files = path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]
    return "\n".join(file.read_text() for file in files)


def test_data_flows_one_way():
    """A module imports only what stands before it in CONTRIBUTING's order."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    flow = text[text.index("`_arguments`") : text.index("- `model/`")]
    order = re.findall(r"`(\w+)`", flow)
    found = {info.name for info in pkgutil.iter_modules(captum_rdr.__path__)}
    assert set(order) == found - {"version"}
    for position, name in enumerate(order):
        source = sources(name)
        imported = {
            other
            for other in order
            if re.search(rf"from captum_rdr\.{other}[. ]", source)
            or re.search(rf"from captum_rdr import .*\b{other}\b", source)
        }
        assert imported - {name} <= set(order[:position]), name


def test_importing_is_quiet_and_draws_nothing_in():
    program = (
        "import sys, captum, captum.attr, captum.concept; before = set(sys.modules)\n"
        "import captum_rdr\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new & {'sklearn', 'torchvision', 'mlxtend', 'pandas'}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert (result.stdout.strip(), result.stderr) == ("[]", "")
