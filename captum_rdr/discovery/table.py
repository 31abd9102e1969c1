"""Tables to read."""

from collections.abc import Sequence
from typing import Any


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Lay out a table in plain text, numbers to the right.

    >>> print(table("2 things", ("name", "size"), [("a", 10), ("bc", 7)]))
    2 things
      name  size
      a       10
      bc       7
    """
    cells = [[str(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = [
        bool(rows) and all(_is_number(row[index]) for row in cells)
        for index in range(len(header))
    ]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        return ("  " + "  ".join(padded)).rstrip()

    return "\n".join([title, line(header), *map(line, cells)])


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(".", "", 1).replace("%", "").strip().isdigit()
