"""What a classifier makes of labeled inputs: predictions and states, in one pass."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader, IterableDataset, Subset
from tqdm.auto import tqdm

from captum_rdr._arguments import checked_labels
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.discovery._error_groups import Wrong
from captum_rdr.metrics._explainers import checked_scores, fitted_banks
from captum_rdr.model import inputs
from captum_rdr.model.inputs import ForwardArguments
from captum_rdr.model.states import binarize


def batches(
    rdr: RelaxedDecisionRegion, data: Any, show_progress: bool = False
) -> Iterator[tuple[int, ForwardArguments, Any]]:
    """Position of the first input, forward arguments, and the batch itself, of each."""
    start = 0
    for batch in tqdm(
        inputs.batches_of(data),
        "Evaluating",
        unit="batch",
        disable=not show_progress,
        delay=1,
    ):
        arguments = inputs.batch_arguments(batch, None)
        yield start, inputs.taken(arguments, rdr.forward_func)[0], batch
        start += arguments.batch_size


def evaluated(
    rdr: RelaxedDecisionRegion, data: Any, targets: Any, *, show_progress: bool
) -> tuple[list[Wrong], Tensor]:
    """Run a classifier on labeled inputs, once.

    Args:
        rdr: fitted explainer of one layer, or of a list of layers.
        data: as `captum_rdr.discovery.misclassification` takes it.
        targets: the labels; None to take those of the data.
        show_progress: draw a progress bar.

    Returns:
        the errors as each layer gives them, and the classes of all inputs, int64 ``(M,)``.

    Raises:
        ValueError: there are no labels, or more or fewer than inputs.
    """
    banks = fitted_banks(rdr, several=isinstance(rdr.layer, list))
    to_input = banks[0].attribute_to_layer_input
    rdr._current_banks(to_input)  # refuses a model that has changed since
    banks = [bank.emptied() for bank in banks]
    known = None if targets is None else checked_labels(targets, "targets")
    forward, scores = rdr.forward_func, torch.empty(0)
    features = [[torch.empty(0, bank.n_neurons)] for bank in banks]
    outcomes = [torch.empty(0, 2).long()]

    @wraps(forward.forward if isinstance(forward, Module) else forward)
    def heard(*args: Any, **kwargs: Any) -> Any:
        nonlocal scores
        scores = forward(*args, **kwargs)
        return scores

    def keep(index: int, found: Tensor) -> tuple[Tensor, ...]:
        return binarize(found, banks[index].threshold), found.flatten(1).clone()

    reader = replace(rdr.reader, forward_func=heard)
    with reader.reading(keep, attribute_to_layer_input=to_input) as read:
        for start, arguments, batch in batches(rdr, data, show_progress):
            size = arguments.batch_size
            of_layers = read(arguments, f"batch at {start}", leave_early=False)
            labels = _labels(batch) if known is None else known[start : start + size]
            labels = checked_labels(labels, "targets", size)
            predicted = checked_scores(scores, size).argmax(1)
            outcomes.append(torch.stack([labels, predicted], 1))
            parts = zip(banks, features, of_layers, strict=True)
            for bank, kept, (states, found) in parts:
                bank.append(states)
                kept.append(found.cpu()[labels != predicted].float())
    made = torch.cat(outcomes)
    if not len(made) or (known is not None and len(known) != len(made)):
        given = "" if known is None else f" and targets {len(known)} items"
        raise ValueError(
            f"data has {len(made)} inputs{given}; give one or more, and one label each "
            "(those of the reference set are reference_targets)"
        )
    rows = (made[:, 0] != made[:, 1]).nonzero().flatten()
    wrong = [
        Wrong(bank, rows, made[rows].numpy(), torch.cat(kept))
        for bank, kept in zip(banks, features, strict=True)
    ]
    return wrong, made[:, 0]


def inputs_at(
    rdr: RelaxedDecisionRegion, data: Any, rows: Iterable[int]
) -> Iterator[tuple[int, ForwardArguments]]:
    """Some of the inputs by their position, each with its forward arguments.

    Those that a data set gives alone are read alone; else all data are gone through.

    >>> model = torch.nn.Identity()
    >>> rdr = RelaxedDecisionRegion(model, model)
    >>> list(inputs_at(rdr, torch.eye(3), [2]))
    [(2, ForwardArguments(args=(tensor([[0., 0., 1.]]),), kwargs={}))]
    """
    wanted, loader = sorted({*rows}), inputs.batches_of(data)
    is_map = not isinstance(getattr(loader, "dataset", None), IterableDataset)
    if is_map and isinstance(loader, DataLoader) and loader.batch_sampler is not None:
        some = Subset(loader.dataset, wanted)
        alone = DataLoader(some, batch_size=1, collate_fn=loader.collate_fn)
        for row, (_, given, _) in zip(wanted, batches(rdr, alone), strict=True):
            yield row, given
        return
    for start, given, _ in batches(rdr, data):
        for row in wanted:
            if 0 <= row - start < given.batch_size:
                yield row, given.part(slice(row - start, row - start + 1))


def _labels(batch: Any) -> Any:
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise ValueError(
            "data gives no labels; give a loader of (inputs, labels), or pass targets"
        )
    return batch[1]
