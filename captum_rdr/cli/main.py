"""Run a command, print its answer, and turn failures into an exit status."""

import json
import sys
from collections.abc import Sequence

from captum_rdr.cli.parser import parser

_FAILURES = (ImportError, OSError, RuntimeError, TypeError, ValueError)


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
        answer = options.run(options)
    except _FAILURES as error:
        print(f"captum-rdr: {error}", file=sys.stderr)
        return 1
    print(json.dumps(answer.data, indent=2) if options.json else answer.text)
    return 0
