r"""The commands' options, and the exit status of a run. Below is what every help ends with.

For example:
  captum-rdr fit --model torchvision:resnet50 --data photos --bank photos.rdr
  captum-rdr explain --model torchvision:resnet50 --data photos --bank photos.rdr cat.jpg
  captum-rdr report --model torchvision:resnet50 --data photos --bank photos.rdr \
      --output report.html *.jpg
  captum-rdr report --model torchvision:resnet50 --data photos --bank photos.rdr \
      --output errors.html tested
  captum-rdr atlas --model torchvision:resnet50 --data photos --bank photos.rdr \
      --output atlas.html
  captum-rdr inspect photos.rdr

A model of your own is a function without arguments that returns a torch.nn.Module, or a
tuple of one and the transform from a PIL image to its input: --model my_models:make.

exit status: 0 done, 1 failed (the reason is on standard error), 2 wrong usage
"""

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TextIO

from captum_rdr.version import __version__

_FAILURES = (ImportError, OSError, RuntimeError, TypeError, ValueError)
_POOLS = ("spatial_mean", "spatial_max", "class_token", "last_token", "token_mean")
_METRICS = ("configuration", "cosine", "centered_cosine", "direction", "euclidean")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``captum-rdr``.

    Args:
        arguments: the words behind the command's name; None for those of the shell.

    Returns:
        the exit status: 0 done, 1 failed. Wrong usage exits with 2.

    Raises:
        SystemExit: the usage is wrong, or help was asked for.

    >>> import tempfile, torch
    >>> from captum_rdr import ConfigurationBank
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     bank = ConfigurationBank((2,))
    ...     bank.append(torch.tensor([[True, False], [False, False]]))
    ...     bank.save(f"{folder}/bank")
    ...     main(["inspect", f"{folder}/bank"])
    instances: 2
    neurons: 2
    ...
    0
    """
    options = parser().parse_args(arguments)
    try:
        commands = import_module("captum_rdr.cli.commands")  # needs torchvision
        answer = getattr(commands, options.run)(options)
    except _FAILURES as error:
        _say(f"captum-rdr: {_in_one_line(error)}", sys.stderr)
        return 1
    if answer.skipped:
        names = ", ".join(answer.skipped)
        _say(f"captum-rdr: {len(answer.skipped)} damaged skipped: {names}", sys.stderr)
    _say(json.dumps(answer.data, indent=2) if options.json else answer.text, sys.stdout)
    return 0


def _in_one_line(error: Exception) -> str:
    """What went wrong, also where that was in a process that reads images."""
    text = str(error).strip()
    if text.startswith("Caught ") and " worker process " in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split())


def _say(text: str, to: TextIO) -> None:
    """Print a text in whatever encoding the terminal or file has."""
    encoding = getattr(to, "encoding", None) or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), file=to)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line.

    >>> parser().parse_args(["inspect", "photos.rdr", "--json"]).json
    True
    """
    form = argparse.RawDescriptionHelpFormatter
    _, _, examples = str(__doc__).partition("\n\n")
    about = "Which concept a layer sees in an image, and which others share it."
    whole = argparse.ArgumentParser(
        prog="captum-rdr", description=about, epilog=examples, formatter_class=form
    )
    whole.add_argument("--version", action="version", version=__version__)
    several = whole.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        about = f"{text[0].upper()}{text[1:]}."
        one = several.add_parser(
            name, help=text, description=about, epilog=examples, formatter_class=form
        )
        one.set_defaults(run=name)
        one.add_argument("--json", action="store_true", help="print JSON")
        one.add_argument("--quiet", action="store_true", help="no progress bars")
        return one

    _add_fit(command("fit", "index a folder of images"))
    _add_query(command("explain", "find the regions of images"))
    about = (
        "write a page on the regions of images, or on the errors in a folder of them"
    )
    report = command("report", about)
    _add_query(report)
    report.add_argument("--output", required=True, type=Path, help="HTML file")
    atlas = command("atlas", "write a page on the concepts of the layer")
    _add_model(atlas)
    number = "how many to find (default: as many as cover the images)"
    atlas.add_argument("--n-concepts", type=int, metavar="NUMBER", help=number)
    atlas.add_argument("--output", required=True, type=Path, help="HTML file")
    inspect = command("inspect", "describe a bank")
    inspect.add_argument("bank", help="what fit wrote")
    return whole


def _add_model(to: argparse.ArgumentParser) -> None:
    add = to.add_argument
    add("--model", required=True, help="torchvision:NAME or package.module:factory")
    add("--weights", default="DEFAULT", help="of torchvision's model, or 'none'")
    which = to.add_mutually_exclusive_group().add_argument
    which("--layer", metavar="NAME", help="the layer")
    which("--stage", type=int, dest="layer", help="its layer (default: the last's)")
    add("--pool", choices=_POOLS, help="applied to the layer's output")
    add("--data", required=True, help="folder of images, or of one folder a class")
    add("--bank", required=True, help="folder of the index")
    add("--skip-damaged", action="store_true", help="name unreadable images and go on")


def _add_fit(to: argparse.ArgumentParser) -> None:
    _add_model(to)
    add = to.add_argument
    above = "a neuron is active above this, or above its own 'median' (the default)"
    add("--threshold", type=_level, default="median", metavar="NUMBER", help=above)
    features = "also keep float activations, for cosine and Euclidean neighbors"
    add("--keep-features", action="store_true", help=features)
    add("--batch-size", type=int, default=64, help="images (default: 64)")
    add("--resume", action="store_true", help="go on with an unfinished bank")
    add("--workers", type=int, default=0, help="processes that read (default: 0)")


def _add_query(to: argparse.ArgumentParser) -> None:
    _add_model(to)
    add = to.add_argument
    add("--n-neighbors", type=int, help="size of S (default: 8, or 16 by evidence)")
    add("--n-neurons", type=int, help="principal ones (default: 10, all by evidence)")
    tolerance = "neurons that may disagree, or nats of evidence (default: 0)"
    add("--tolerance", type=_number, default=0, help=tolerance)
    rule = "the paper's rule, or the purest regions by log-odds (the default)"
    rules = ("uniform", "evidence")
    add("--weighting", choices=rules, default="evidence", help=rule)
    add("--neighbors", choices=_METRICS, help="distance that chooses S")
    images = "files to explain; for a report also a folder of one folder a class"
    add("images", nargs="+", type=Path, help=images)


def _level(text: str) -> float | str:
    return text if text == "median" else float(text)


def _number(text: str) -> float:
    """A whole number, which the paper's rule wants, as such."""
    try:
        return int(text)
    except ValueError:
        return float(text)
