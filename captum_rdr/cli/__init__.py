"""The command ``captum-rdr``: fit, explain, report and inspect from a shell."""

from captum_rdr.cli.command_line import main

__all__ = ["main"]
