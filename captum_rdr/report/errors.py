"""What a report finds of a classifier's errors on a labeled set."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.discovery import Atlas, atlas, misclassification
from captum_rdr.discovery._evaluated import inputs_at
from captum_rdr.discovery._recipe import explainer_of
from captum_rdr.report.contents import Asked
from captum_rdr.report.page import Album, column, file_names
from captum_rdr.visualization.reference import Reference
from captum_rdr.visualization.subjects import banks_of

_EXPLAINED, _OF_GROUP = 3, 200  # errors of a group that are explained, and shown
_PICTURES = 1_000  # errors of all groups that are shown, about
_SAMPLE = 3_000  # bank rows of which an atlas is made

MOST_QUERIES = 60
"""Errors that are explained, at most."""


def found_errors(
    rdr: RelaxedDecisionRegion,
    data: Any,
    reference: Reference,
    targets: Any,
    concepts: Atlas | str | None,
    show_progress: bool,
) -> dict[str, Any]:
    """Find the groups of errors that each layer makes, and concepts of the best layer.

    Args:
        rdr: fitted.
        data: the labeled set.
        reference: what is known of the bank rows.
        targets: the labels; None to take those of ``data``.
        concepts: the atlas; "auto" to make one of a sample of the bank.
        show_progress: draw progress bars.

    Returns:
        ``errors``, the groups of each layer; ``found``, those of the layer that separates
        best; ``bank``, its bank; ``codes``, the label that each number stands for;
        ``reference``, with the labels that its data set lists; and ``atlas``.
    """
    if reference.labels is None:  # those that torchvision's data sets list
        targets_of_rows = getattr(reference.dataset, "targets", None)
        reference = replace(reference, labels=targets_of_rows)
    codes: dict[Any, int] = {}
    labels = [codes.setdefault(one, len(codes)) for one in reference.labels or ()]
    quietly: Any = {"show_progress": show_progress}
    found = misclassification(rdr, data, targets, labels or None, **quietly)
    errors = found if isinstance(found, list) else [found]
    best = int(np.argmax([one.separation() for one in errors]))
    bank = banks_of(rdr)[best]
    if concepts == "auto":
        drawing = torch.Generator().manual_seed(0)
        rows = torch.randperm(len(bank), generator=drawing)[:_SAMPLE]
        known = {"labels": reference.labels, "predictions": reference.predictions}
        concepts = atlas(explainer_of(rdr, best), rows, **known, **quietly)
    found = {"errors": errors, "found": errors[best], "bank": bank, "codes": [*codes]}
    return {**found, "reference": reference, "atlas": concepts}


def explained(
    rdr: RelaxedDecisionRegion,
    data: Any,
    names: Any,
    album: Album,
    values: dict[str, Any],
) -> list[Asked]:
    """Put pictures of errors into an album, and choose some to be explained.

    Args:
        rdr: fitted.
        data: the inputs.
        names: what they are called; None for the names of their files.
        album: what the page shows.
        values: what was found. Added are ``numbers``, the album's number of each error by
            its position, and ``of_group``, the group of each that is explained.

    Raises:
        ValueError: names are not one an input.
    """
    found = values["found"]
    called = file_names(getattr(data, "dataset", data)) if names is None else names
    if called is not None:
        called = column(called, "query_names", len(found.bank))
    most = _OF_GROUP if len(found.rows) <= _PICTURES else _PICTURES // len(found)
    rows = [row for one in found for row in one.rows[:most].tolist()]
    firsts = [
        (row, number)
        for number, one in enumerate(found)
        for row in one.rows[:_EXPLAINED].tolist()
    ]
    of_group = dict(firsts[:MOST_QUERIES])
    outcomes = dict(zip(found.rows.tolist(), found.outcomes.tolist(), strict=True))
    shown: dict[int, int] = {}
    asked: dict[int, Any] = dict.fromkeys(of_group)
    for row, given in inputs_at(rdr, data, rows):
        item = given.values[0][0], *outcomes[row]
        picture = album.reference.picture_of(item, f"the image of input {row}")
        name = f"Input {row}" if called is None else str(called[row])
        shown[row] = album.add(picture, album.reference.classes_of(item), name)
        if row in asked:
            asked[row] = *item, name
    values |= {"numbers": shown, "of_group": [*of_group.values()]}
    return list(asked.values())
