"""Every public name is documented to the end, and its examples are executed."""

import dataclasses
import doctest
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import captum_rdr

ROOT = Path(__file__).parent.parent
MODULES = ["captum_rdr.axes", "captum_rdr.distributed", "captum_rdr.pooling"]
"""Modules that users import from, without an ``__all__`` of their own."""

PUBLISHED = {
    "ConfigurationBank",
    "Region",
    "RelaxedDecisionRegion",
    "ablation",
    "atlas",
    "clamping",
    "compare",
    "coverage",
    "purity",
    "significance",
    "subclasses",
    "visualize_plane",
}
"""Names that have a source, which their docstrings must name."""


def packages():
    yield captum_rdr
    for info in pkgutil.iter_modules(captum_rdr.__path__, "captum_rdr."):
        package = import_module(info.name)
        if info.ispkg and "Not public." not in (package.__doc__ or ""):
            yield package


def public():
    """Public names with what they stand for."""
    for package in packages():
        for name in package.__all__:
            yield f"{package.__name__}.{name}", getattr(package, name)
    for module in map(import_module, MODULES):
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__
            if own and not name.startswith("_") and callable(value):
                yield f"{module.__name__}.{name}", value


NAMES = dict(public())
CLASSES = {name: one for name, one in NAMES.items() if inspect.isclass(one)}
METHODS = {
    f"{name}.{method}": getattr(one, method)
    for name, one in CLASSES.items()
    for method, function in vars(one).items()
    if not method.startswith("_")
    and (inspect.isfunction(function) or isinstance(function, staticmethod))
    and not (issubclass(one, tuple) and method in dir(tuple))
}
FUNCTIONS = METHODS | {
    name: one for name, one in NAMES.items() if inspect.isfunction(one)
}


def section(documentation: str, title: str) -> str:
    """The text of a section of a docstring, empty where there is none."""
    found = re.search(rf"^{title}:\n((?:[ ]+.*\n|\n)*)", documentation + "\n", re.M)
    return "" if found is None else textwrap.dedent(found.group(1))


def described(text: str) -> set[str]:
    """The names that a section describes."""
    lines = re.findall(r"^\*{0,2}([\w, ]+):", text, re.MULTILINE)
    return {name.strip() for line in lines for name in line.split(",")}


def examples(documentation: str) -> list[str]:
    return [one.source for one in doctest.DocTestParser().get_examples(documentation)]


def parameters(function) -> list[str]:
    names = inspect.signature(function).parameters.values()
    collected = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        one.name
        for one in names
        if one.name not in ("self", "cls") and one.kind not in collected
    ]


def raises(function) -> bool:
    """Whether a function's own code raises, for the user to see."""
    return bool(re.search(r"^\s+raise \w+Error\(", inspect.getsource(function), re.M))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_and_methods(name):
    function = inspect.unwrap(FUNCTIONS[name])
    documentation = inspect.getdoc(function) or ""
    assert documentation
    arguments = described(section(documentation, "Args"))
    is_short = name in METHODS and len(parameters(function)) < 2
    for parameter in parameters(function):
        assert parameter in arguments or is_short, f"{parameter} is not described"
    returns = inspect.signature(function).return_annotation
    # A result of its own class is described there, and a context gives nothing.
    is_told = returns in (None, Iterator[None], *CLASSES.values())
    if not is_told and not is_short:
        assert section(documentation, "Returns") or section(documentation, "Yields")
    if raises(function):
        assert section(documentation, "Raises")


@pytest.mark.parametrize("name", CLASSES)
def test_classes(name):
    one = CLASSES[name]
    documentation = inspect.getdoc(one) or ""
    given = described(section(documentation, "Args"))
    given |= described(section(documentation, "Attributes"))
    if dataclasses.is_dataclass(one):
        wanted = [field.name for field in dataclasses.fields(one)]
    else:
        wanted = getattr(one, "_fields", None) or parameters(one.__init__)
    for parameter in wanted:
        assert parameter in given, f"{parameter} is not described"


def results() -> dict[str, list[str]]:
    """For each class of a result, the functions that return it, or a sequence of it."""
    found = {}
    for name, one in CLASSES.items():
        holders = {one.__name__} | {
            other.__name__
            for other in CLASSES.values()
            if one.__name__ in str(getattr(other, "__orig_bases__", ""))
            or one.__name__ in str(getattr(other, "__annotations__", ""))
        }
        found[name] = [
            made
            for made, function in FUNCTIONS.items()
            if holders
            & set(
                re.findall(r"\w+", str(inspect.signature(function).return_annotation))
            )
        ]
    return found


RESULTS = results()


def documentation_of(name: str) -> list[str]:
    """Where an example of a name may stand.

    Its own docstring, for a method also its class's, and for the class of a result also
    that of a function that returns it.
    """
    values = [(NAMES | METHODS)[name], CLASSES.get(name.rpartition(".")[0])]
    values += [FUNCTIONS[made] for made in RESULTS.get(name, [])]
    return [inspect.getdoc(inspect.unwrap(value)) or "" for value in values if value]


@pytest.mark.parametrize(
    "name", [name for name, value in (NAMES | METHODS).items() if callable(value)]
)
def test_an_example_is_executed(name):
    texts = documentation_of(name)
    used = [one for text in texts for one in examples(text)]
    short = name.rpartition(".")[2]
    is_result = bool(RESULTS.get(name))
    assert [one for one in used if is_result or short in one], (
        f"no example uses {short}"
    )


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_source_is_named(name):
    named = (NAMES | METHODS).items()
    (value,) = {id(v): v for k, v in named if k.endswith(f".{name}")}.values()
    assert re.search(r"Source: +\w", inspect.getdoc(value) or "")


def test_the_reference_lists_every_public_module():
    pages = (ROOT / "docs" / "api").glob("*.md")
    found = [re.findall(r"automodule:: ([\w.]+)", page.read_text()) for page in pages]
    listed = {name for names in found for name in names}
    assert listed == {package.__name__ for package in packages()} | set(MODULES)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_code_block_is_executed(page):
    """Python stands in examples that pytest runs, or in the tutorials."""
    blocks = re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.M | re.S)
    for language, block in blocks:
        if language in ("", "python", "pycon"):
            assert block.lstrip().startswith(">>>"), block
        assert ".py" not in language  # code stands where it is read, on a forge too


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Pages of the gallery are made when the documentation is built."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        if link.startswith("gallery/"):
            assert (ROOT / "examples" / f"{Path(link).name}.ipynb").exists(), link
        elif not link.startswith("https://"):
            assert (page.parent / link).exists(), link


def test_the_readme_is_short_and_begins_with_a_picture():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 500
    assert text.split("\n\n")[1].startswith("![")
