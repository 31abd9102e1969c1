"""The commands' options."""

import argparse
from collections.abc import Callable
from pathlib import Path

from captum_rdr.cli import commands
from captum_rdr.cli.models import POOLS
from captum_rdr.version import __version__

_EXAMPLES = """examples:
  captum-rdr fit --model torchvision:resnet50 --data photos --bank photos.rdr
  captum-rdr explain --model torchvision:resnet50 --data photos --bank photos.rdr cat.jpg
  captum-rdr report --model torchvision:resnet50 --data photos --bank photos.rdr \\
      --output report.html *.jpg
  captum-rdr inspect photos.rdr

A model of your own is a function without arguments that returns a torch.nn.Module, or a
tuple of one and the transform from a PIL image to its input: --model my_models:make.

exit status: 0 done, 1 failed (the reason is on standard error), 2 wrong usage
"""


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line.

    >>> parser().parse_args(["inspect", "photos.rdr", "--json"]).json
    True
    """
    main = argparse.ArgumentParser(
        prog="captum-rdr",
        description="Which concept a layer sees in an image, and which others share it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    main.add_argument("--version", action="version", version=__version__)
    several = main.add_subparsers(title="commands", required=True, metavar="COMMAND")

    fit = _command(several, commands.fit, "index a folder of images")
    _add_model(fit)
    fit.add_argument(
        "--threshold",
        type=_threshold,
        default=0.0,
        metavar="NUMBER",
        help="a neuron is active above this, or above its own 'median' (default: 0)",
    )
    fit.add_argument(
        "--keep-features",
        action="store_true",
        help="also keep float activations, for cosine and Euclidean neighbors",
    )
    fit.add_argument("--batch-size", type=int, default=64, help="images (default: 64)")
    fit.add_argument(
        "--workers", type=int, default=0, help="processes that read images (default: 0)"
    )

    for run, text in (
        (commands.explain, "find the regions of images"),
        (commands.report, "write a page on the regions of images"),
    ):
        query = _command(several, run, text)
        _add_model(query)
        _add_rule(query)
        query.add_argument("images", nargs="+", type=Path, help="files to explain")
        if run is commands.report:
            query.add_argument("--output", required=True, type=Path, help="HTML file")
        else:
            query.add_argument(
                "--save",
                type=Path,
                metavar="FOLDER",
                help="write each region there, for Region.load",
            )

    inspect = _command(several, commands.inspect, "describe a bank")
    inspect.add_argument("bank", help="folder that fit wrote")
    return main


def _command(
    several: "argparse._SubParsersAction[argparse.ArgumentParser]",
    run: Callable[[argparse.Namespace], commands.Answer],
    text: str,
) -> argparse.ArgumentParser:
    one = several.add_parser(
        run.__name__,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    one.set_defaults(run=run)
    one.add_argument("--json", action="store_true", help="print JSON")
    one.add_argument("--quiet", action="store_true", help="no progress bars")
    return one


def _add_model(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--model", required=True, help="torchvision:NAME or package.module:factory"
    )
    to.add_argument(
        "--weights",
        type=_weights,
        default="DEFAULT",
        help="of a model of torchvision, or 'none' (default: DEFAULT)",
    )
    which = to.add_mutually_exclusive_group()
    which.add_argument("--layer", metavar="NAME", help="the layer")
    which.add_argument(
        "--stage",
        type=int,
        dest="layer",
        metavar="NUMBER",
        help="the layer that stands for a stage (default: the last)",
    )
    to.add_argument("--pool", choices=POOLS, help="applied to the layer's output")
    to.add_argument(
        "--data",
        required=True,
        metavar="FOLDER",
        help="reference images, or one folder of them a class",
    )
    to.add_argument("--bank", required=True, metavar="FOLDER", help="the index")


def _add_rule(to: argparse.ArgumentParser) -> None:
    to.add_argument("--n-neighbors", type=int, default=8, help="size of S (default: 8)")
    to.add_argument(
        "--n-neurons", type=int, default=10, help="principal neurons (default: 10)"
    )
    to.add_argument(
        "--tolerance",
        type=_number,
        default=0,
        help="neurons that may disagree, or nats of evidence (default: 0)",
    )
    to.add_argument(
        "--weighting",
        choices=("uniform", "evidence"),
        default="uniform",
        help="the paper's rule, or log-odds weights (default: uniform)",
    )
    to.add_argument(
        "--neighbors",
        default="configuration",
        choices=("configuration", "cosine", "centered_cosine", "euclidean"),
        help="distance that chooses S (default: configuration)",
    )


def _threshold(text: str) -> float | str:
    return text if text == "median" else float(text)


def _number(text: str) -> float:
    return float(text) if "." in text else int(text)


def _weights(text: str) -> str | None:
    return None if text == "none" else text
