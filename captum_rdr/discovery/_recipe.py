"""The regions that findings are made of, and the tables that show findings."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from captum_rdr._arguments import checked_rows
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.neighbors import bank_queries
from captum_rdr.method.region import Region
from captum_rdr.method.regions import regions, warn_if_few
from captum_rdr.method.rule import Rule

Rows = Sequence[int] | Tensor
Choices = dict[str, Any]


def recipe(choices: Choices) -> Choices:
    """The choices that make regions: evidence, if nothing else is asked for.

    >>> recipe({"n_neighbors": 8})
    {'weighting': 'evidence', 'n_neighbors': 8}
    """
    return {"weighting": "evidence", **choices}


def rule_of(bank: ConfigurationBank, n_queries: int, choices: Choices) -> Rule:
    """The rule that the `recipe` makes of some choices for so many queries.

    Raises:
        TypeError: a choice has an unknown name, or is of the wrong type.
        ValueError: a choice is out of range.

    >>> rule_of(ConfigurationBank((3,)), 0, {"k": 8})
    Traceback (most recent call last):
    TypeError: k is no choice of how regions are made; give one of n_neighbors, n_neurons,
    tolerance, weighting, neighbors and rounds
    """
    names = list(Rule.__dataclass_fields__)
    for name in choices.keys() - names:
        raise TypeError(
            f"{name} is no choice of how regions are made; give one of "
            f"{', '.join(names[:-1])} and {names[-1]}"
        )
    return Rule(**recipe(choices)).settled(bank, n_queries)


def bank_regions(
    bank: ConfigurationBank,
    rows: Rows,
    choices: Choices,
    *,
    show_progress: bool = False,
) -> list[Region]:
    """The regions of bank rows by the `recipe`, without the model.

    It is warned of those that fewer neurons describe than were asked for, unless S was
    given.

    Args:
        bank: the bank.
        rows: bank rows.
        choices: those that are not the recipe's.
        show_progress: draw a progress bar when it takes more than a second.
    """
    at = checked_rows(rows, len(bank))
    rule = rule_of(bank, len(at), choices)
    queries = bank_queries(bank, at, rule)
    found = regions(bank, queries, rule, show_progress=show_progress)
    if not isinstance(rule.neighbors, Tensor):
        warn_if_few(found, rule, stacklevel=3)
    return found


def explainer_of(rdr: RelaxedDecisionRegion, index: int) -> RelaxedDecisionRegion:
    """An explainer of one of the layers, with its bank and its thresholds.

    Args:
        rdr: fitted explainer of one layer or several.
        index: number of the layer.
    """
    reader = rdr.reader
    bank = rdr.bank[index] if isinstance(rdr.bank, list) else rdr.bank
    threshold = bank.threshold
    return RelaxedDecisionRegion(
        reader.forward_func,
        reader.layers[index],
        rdr.device_ids,
        threshold=threshold.reshape(bank.layer_shape) if threshold.dim() else threshold,
        pool=reader.pools[index],
        bank=bank,
        call_index=reader.call_index,
        force=rdr.force,
    )


def table(title: str, columns: Mapping[str, Sequence[Any]]) -> str:
    """Lay out columns in plain text, numbers to the right.

    >>> print(table("2 things", {"name": ["a", "bc"], "size": [10, 7], "share": [None, 1.0]}))
    2 things
      name  size  share
      a       10      -
      bc       7  1.000
    """
    laid_out = []
    for name, values in columns.items():
        cells = [_cell(value) for value in values]
        width = max(map(len, [name, *cells]))
        is_right = bool(cells) and all(map(_is_number, cells))
        justify = str.rjust if is_right else str.ljust
        laid_out.append([justify(cell, width) for cell in (name, *cells)])
    lines = ["  " + "  ".join(line).rstrip() for line in zip(*laid_out, strict=True)]
    return "\n".join([title, *lines])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(".", "", 1).isdigit()
