"""Make the pages of the gallery from the notebooks in ``examples/``.

Each page begins with a picture that its notebook drew and with what it found, and has links
to the script and the notebook. The pages are made at each build and not committed.
"""

import base64
import re
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

DOCS = Path(__file__).parent
EXAMPLES = DOCS.parent / "examples"
GALLERY = DOCS / "gallery"


class Page(NamedTuple):
    """A page of the gallery: which of its figures stands first, and what its card says."""

    figure: int
    alt: str
    card: str


PAGES = {
    "quickstart": Page(
        0,
        "A handwritten 2, its neighbors in S and the further members of its region",
        "From the import to the first figure.",
    ),
    "photo": Page(
        0,
        "A crop of a cat, its neighbors in S and the further members of its region",
        "A network with ImageNet weights: which crops, which channels, where.",
    ),
    "misclassification": Page(
        2,
        "Where an 8 and marked threes carry the concept: in the mark",
        "A planted flaw, found: errors in groups, their cause, a page to share.",
    ),
    "atlas": Page(
        1,
        "Concepts that the last stage of EfficientNet-Lite0 holds of ten photos",
        "Every concept of a layer, without labels, tested.",
    ),
    "vision_transformer": Page(
        2,
        "Maps of tokens over a 4, and digits that single neurons of tokens respond to",
        "The class token and the patches: which tokens, which neurons.",
    ),
    "text": Page(
        0,
        "Members by the class token share the topic, by the last token the last word",
        "A transformer for sentences: class token and last token.",
    ),
    "time_series": Page(
        0,
        "Members of a rattle's region rattle, those of a drift's drift",
        "What a label hides, and when in the signal it happens.",
    ),
    "tabular": Page(
        0,
        "Measurements of missed tumors lie near those of benign ones",
        "Which measurements make a classifier miss a tumor.",
    ),
    "digits": Page(
        -1,
        "A 7 that was read as a 2, with members of its regions in two layers",
        "Single misread digits, layer by layer.",
    ),
}


def outputs(notebook: Any) -> list[Any]:
    """All that the cells of a notebook put out."""
    return [
        output
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    ]


def finding(notebook: Any) -> str:
    """What a notebook prints behind ``Finding:``, at its end."""
    text = "".join(output.get("text", "") for output in outputs(notebook))
    (found,) = re.findall(r"Finding: (.*)", text)
    return str(found)


def is_prose(cell: Any) -> bool:
    """Whether what a cell prints is sentences, whose lines may break, and no table."""
    text = "".join(output.get("text", "") for output in cell.get("outputs", []))
    plain = [output.get("data", {}) for output in cell.get("outputs", [])]
    text += "".join(one.get("text/plain", "") for one in plain)
    return bool(text) and not re.search(r"\S   ", text)


def picture(notebook: Any, number: int) -> bytes:
    """The PNG image that a notebook shows as its figure of that number."""
    shown = [
        output.data["image/png"]
        for output in outputs(notebook)
        if "image/png" in output.get("data", {})
    ]
    return base64.b64decode(shown[number])


def badge(name: str, repository: str | None) -> str:
    """A link that opens a notebook in Colab, where its repository is known."""
    if repository is None:
        return ""
    path = repository.removeprefix("https://github.com/")
    url = f"https://colab.research.google.com/github/{path}/blob/main/examples/{name}.ipynb"
    return f" · [Open in Colab]({url})"


def page_of(name: str, repository: str | None = None) -> Any:
    """The notebook as it stands in the gallery."""
    notebook = nbformat.read(EXAMPLES / f"{name}.ipynb", as_version=4)
    page = PAGES[name]
    title, _, rest = notebook.cells[0].source.partition("\n")
    links = f"{{download}}`Script <../../examples/{name}.py>` · "
    links += f"{{download}}`Notebook <../../examples/{name}.ipynb>`"
    head = f"![{page.alt}]({name}.png)\n\n> {finding(notebook)}\n\n{links}"
    notebook.cells[
        0
    ].source = f"{title}\n\n{head}{badge(name, repository)}\n\n{rest.strip()}"
    for cell in notebook.cells:
        cell.source = cell.source.replace("](../docs/", "](../")
        if is_prose(cell):
            cell.metadata = {"tags": ["prose"]}
    return notebook


def write(repository: str | None = None) -> None:
    """Write all pages with their pictures, and the cards that lead to them."""
    GALLERY.mkdir(exist_ok=True)
    cards = ["::::{grid} 1 2 2 3\n:gutter: 3\n"]
    for name, page in PAGES.items():
        notebook = page_of(name, repository)
        nbformat.write(notebook, GALLERY / f"{name}.ipynb")
        (GALLERY / f"{name}.png").write_bytes(picture(notebook, page.figure))
        title = notebook.cells[0].source.partition("\n")[0].removeprefix("# ")
        cards.append(
            f":::{{grid-item-card}} {title}\n:link: /gallery/{name}\n:link-type: doc\n"
            f":img-top: /gallery/{name}.png\n:class-img-top: thumbnail\n\n{page.card}\n:::\n"
        )
    (GALLERY / "cards.txt").write_text("\n".join([*cards, "::::\n"]))
