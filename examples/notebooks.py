"""Make a notebook of each tutorial, run it, and keep two figures for other pages.

Run with ``make notebooks``. The scripts are the source: nobody edits the notebooks. The
documentation makes its gallery of them (docs/gallery.py).
"""

import argparse
import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import jupytext
from nbclient import NotebookClient
from PIL import Image

EXAMPLES = Path(__file__).parent
FIGURES = EXAMPLES.parent / "docs" / "figures"
KEPT = {"photo": 0, "atlas": 1}  # figures that pages show outside of the gallery
TUTORIALS = [
    "quickstart",
    "photo",
    "misclassification",
    "atlas",
    "vision_transformer",
    "text",
    "time_series",
    "tabular",
    "digits",
]


def notebook_of(script: Path) -> Any:
    """The notebook that a script in the percent format describes, not yet run."""
    notebook = jupytext.read(script)
    notebook.metadata = {
        "kernelspec": {
            "display_name": "Python 3",
            "language": "python",
            "name": "python3",
        }
    }
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        # What is installed already is not installed again when the notebook is made.
        installs = cell.source.startswith("%pip")
        cell.metadata = {"tags": ["skip-execution"]} if installs else {}
    return notebook


def run(notebook: Any, folder: Path) -> None:
    """Run a notebook in a folder and keep what its cells put out, but for warnings."""
    NotebookClient(
        notebook,
        timeout=300,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [
                output for output in cell.outputs if output.get("name") != "stderr"
            ]
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    output.data["image/png"] = smaller(output.data["image/png"])


def smaller(encoded: str) -> str:
    """A PNG image of 256 colors at most, in base64."""
    image = Image.open(BytesIO(base64.b64decode(encoded))).convert("RGB")
    file = BytesIO()
    image.quantize(256).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def printed(notebook: Any) -> str:
    """All that a notebook's cells printed."""
    return "".join(
        output["text"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.get("name") == "stdout"
    )


def figures(notebook: Any) -> list[bytes]:
    """The PNG images that a notebook's cells show."""
    return [
        base64.b64decode(output["data"]["image/png"])
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]


def main() -> None:
    """Make, run and write the notebooks that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=TUTORIALS, help="of the tutorials")
    for name in parser.parse_args().names:
        print(f"{name} ...")
        notebook = notebook_of(EXAMPLES / f"{name}.py")
        run(notebook, EXAMPLES.parent)
        jupytext.write(notebook, EXAMPLES / f"{name}.ipynb")
        if name in KEPT:
            (FIGURES / f"{name}.png").write_bytes(figures(notebook)[KEPT[name]])


if __name__ == "__main__":
    main()
