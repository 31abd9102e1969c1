"""Configuration of the documentation, built by ``make docs``."""

import sys
import tomllib
import urllib.request
from pathlib import Path

from captum_rdr.version import __version__

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

import gallery  # noqa: E402

project = "captum-rdr"
author = "the captum-rdr authors"
copyright = f"2026, {author}"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx-mathjax-offline",
]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"captum-rdr {release}"
html_static_path = ["_static"]
html_css_files = ["gallery.css"]

# The gallery: notebooks that are run already.
about = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
repository = about.get("urls", {}).get("Repository")
gallery.write(repository)
nb_execution_mode = "off"

# A copied example is without its prompts and its output.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

# Docstrings write `name` for what is defined in this package.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True}
napoleon_use_ivar = True


def inventories(folder: Path) -> dict[str, tuple[str, str]]:
    """What other projects document, as far as the network gives it, kept for next time."""
    pages = {
        "captum": "https://captum.ai/api/",
        "numpy": "https://numpy.org/doc/stable/",
        "python": "https://docs.python.org/3/",
        "torch": "https://docs.pytorch.org/docs/stable/",
    }
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, page in pages.items():
        file = folder / f"{name}.inv"
        if not file.exists():
            try:
                with urllib.request.urlopen(f"{page}objects.inv", timeout=5) as answer:
                    content = answer.read()
            except OSError:  # no network: the names stay without links
                continue
            if not content.startswith(b"# Sphinx inventory"):
                continue
            file.write_bytes(content)
        found[name] = (page, str(file))
    return found


intersphinx_mapping = inventories(DOCS.parent / "build" / "inventories")
