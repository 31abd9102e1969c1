"""What a report finds of a classifier's errors on a labeled set."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from captum_rdr._arguments import positional
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.discovery import Atlas, atlas, misclassification
from captum_rdr.discovery._evaluated import inputs_at
from captum_rdr.discovery._recipe import explainer_of
from captum_rdr.report.page import Album, file_names
from captum_rdr.visualization.reference import Reference
from captum_rdr.visualization.subjects import banks_of

_EXPLAINED, _QUERIES = 3, 60  # errors of each group, and of all, that are explained
_OF_GROUP, _OF_ALL = 200, 1_000  # errors that are shown, about
_SAMPLE = 2_000  # bank rows of which an atlas is made

EXPECTED = 2_500
"""Pictures of a page of errors, about."""


def errors_part(
    rdr: RelaxedDecisionRegion,
    data: Any,
    album: Album,
    known: dict[str, Any],
    **how: Any,
) -> tuple[list[Any], dict[str, Any]]:
    """Group the errors, put them into an album, and choose some to be explained.

    Args:
        rdr: fitted.
        data: the labeled set.
        album: what bank rows look like, and what the page shows.
        known: ``query_labels`` and ``query_names``, see
            `captum_rdr.report.write_report`.
        **how: whether to show progress.

    Returns:
        the errors to explain, and for the page: ``errors``, the groups of each layer;
        ``best``, the number of the layer that separates best; ``found``, its groups;
        ``bank``; ``codes``, the labels that the groups' numbers stand for; ``numbers``,
        the album's number of each error by its position; and ``of_group``, the group of
        each that is explained.

    Raises:
        ValueError: names are not one an input.
    """
    if album.reference.labels is None:  # those that torchvision's data sets list
        listed = getattr(album.reference.dataset, "targets", None)
        album.reference = replace(album.reference, labels=listed)
    reference, codes = album.reference, dict[Any, int]()
    labels = [codes.setdefault(one, len(codes)) for one in reference.labels or ()]
    made = misclassification(rdr, data, known["query_labels"], labels or None, **how)
    errors = made if isinstance(made, list) else [made]
    best = int(np.argmax([one.separation() for one in errors]))
    found, names = errors[best], known["query_names"]
    names = file_names(getattr(data, "dataset", data)) if names is None else names
    if names is not None:
        names = positional(names, "query_names", len(found.bank), "queries")
    most = _OF_GROUP if len(found.rows) <= _OF_ALL else _OF_ALL // len(found)
    rows = [row for one in found for row in one.rows[:most].tolist()]
    firsts = [
        (row, number)
        for number, one in enumerate(found)
        for row in one.rows[:_EXPLAINED].tolist()
    ]
    of_group, numbers = dict(firsts[:_QUERIES]), dict[int, int]()
    outcomes = dict(zip(found.rows.tolist(), found.outcomes.tolist(), strict=True))
    asked: dict[int, Any] = dict.fromkeys(of_group)
    for row, given in inputs_at(rdr, data, rows):
        item = given.values[0][0], *outcomes[row]
        picture = reference.picture_of(item, f"the image of input {row}")
        name = f"Input {row}" if names is None else str(names[row])
        numbers[row] = album.add(picture, reference.classes_of(item), name)
        if row in asked:
            asked[row] = *item, name
    bank, told = banks_of(rdr)[best], {"errors": errors, "best": best, "found": found}
    told |= {"bank": bank, "codes": [*codes], "numbers": numbers}
    return [*asked.values()], {**told, "of_group": [*of_group.values()]}


def sampled_atlas(
    rdr: RelaxedDecisionRegion, index: int, reference: Reference, **how: Any
) -> Atlas:
    """The concepts of one of the layers, by a sample of its bank."""
    explainer, drawing = explainer_of(rdr, index), torch.Generator().manual_seed(0)
    rows = torch.randperm(len(explainer.bank), generator=drawing)[:_SAMPLE]
    how |= {"labels": reference.labels, "predictions": reference.predictions}
    return atlas(explainer, rows, **how)
