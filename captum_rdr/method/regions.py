"""From queries to regions: S, then principal neurons, then members."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_rdr.bank import ConfigurationBank, bits
from captum_rdr.bank.queries import Nearest, Wanted, agreeing
from captum_rdr.method.neighbors import Queries, at_rows, neighborhoods
from captum_rdr.method.neurons import (
    UNITS,
    Bools,
    Frequencies,
    Principal,
    active_in,
    by_evidence,
    by_score,
    largest,
    left_out_evidence,
)
from captum_rdr.method.region import Region
from captum_rdr.method.rule import Rule

_QUERIES = 256  # explained at a time, at most
_WORK_BYTES = 1 << 27  # evidence of all rows for the queries of a step


def regions(
    bank: ConfigurationBank, queries: Queries, rule: Rule, *, show_progress: bool
) -> list[Region]:
    """The region of each query.

    Args:
        bank: the reference bank.
        queries: the instances to explain.
        rule: how to choose S, principal neurons and members; checked already.
        show_progress: draw a progress bar when it takes more than a second.
    """
    blocks = _blocks(bank, queries, rule, show_progress)
    return [one for some, _ in blocks for one in some]


def with_evidence(
    bank: ConfigurationBank, queries: Queries, rule: Rule, *, show_progress: bool
) -> Iterator[tuple[Region, Tensor]]:
    """The region of each query and the evidence of every bank row for it, one by one.

    Args:
        bank: as in `regions`.
        queries: as there.
        rule: as there.
        show_progress: as there.
    """
    for some, strengths in _blocks(bank, queries, rule, show_progress):
        held = evidence(some, bank) if strengths is None else strengths
        yield from zip(some, held, strict=True)


def _blocks(
    bank: ConfigurationBank, queries: Queries, rule: Rule, show_progress: bool
) -> Iterator[tuple[list[Region], Tensor | None]]:
    """Regions of so many queries as fit, with the evidence that told their members."""
    step, frequencies = _step(bank), None
    if rule.is_evidence:
        frequencies = Frequencies.of(bank.active_counts.numpy(), len(bank))
    with tqdm(
        total=len(queries),
        desc="Explaining",
        unit="region",
        disable=not show_progress,
        delay=1,
    ) as progress:
        for start in range(0, len(queries), step):
            part, own = queries[start : start + step], rule
            if isinstance(rule.neighbors, Tensor) and rule.neighbors.dim() == 2:
                own = replace(rule, neighbors=rule.neighbors[start : start + step])
            yield _block(bank, part, own, frequencies)
            progress.update(len(part))


def _block(
    bank: ConfigurationBank,
    queries: Queries,
    rule: Rule,
    frequencies: Frequencies | None,
) -> tuple[list[Region], Tensor | None]:
    near = neighborhoods(bank, queries, rule)
    inside, drafts = _drafts(bank, queries, near, rule, frequencies)
    if frequencies is None:
        found = zip(drafts, members(drafts, bank), strict=True)
        return [replace(draft, members=rows) for draft, rows in found], None
    for _ in range(rule.rounds - 1):
        near = [
            at_rows(bank, packed, _strongest(draft, row))
            for packed, draft, row in zip(
                queries.packed, drafts, evidence(drafts, bank), strict=True
            )
        ]
        inside, drafts = _drafts(bank, queries, near, rule, frequencies)
    finished, strengths = [], evidence(drafts, bank)
    for draft, states, row in zip(drafts, inside, strengths, strict=True):
        cut = _cut(draft, states, frequencies)
        rows = (row >= cut).nonzero().flatten()
        finished.append(replace(draft, evidence_cut=cut, members=rows))
    return finished, strengths


def _drafts(
    bank: ConfigurationBank,
    queries: Queries,
    near: Sequence[Nearest],
    rule: Rule,
    frequencies: Frequencies | None,
) -> tuple[list[Bools], list[Region]]:
    """The states in each S, and the regions before their members are known."""
    every, drafts = [], []
    count = rule.count(bank.n_neurons)
    for index, one in enumerate(near):
        rows = bank.packed[one.rows.to(bank.device)]
        if queries.rows[index] is None:
            rows = torch.cat([rows, queries.packed[index : index + 1]])
        states = bits.unpack(rows, bank.n_neurons).numpy()
        if frequencies is None:
            of_bank = bank.active_counts.numpy(), len(bank)
            chosen = by_score(active_in(states), len(states), *of_bank, count)
        else:
            chosen = by_evidence(states, frequencies, count)
        every.append(states)
        drafts.append(_draft(bank, queries, index, one, rule, chosen))
    return every, drafts


def _draft(
    bank: ConfigurationBank,
    queries: Queries,
    index: int,
    near: Nearest,
    rule: Rule,
    chosen: Principal,
) -> Region:
    given = isinstance(rule.neighbors, Tensor)  # then the rule has this region's own S
    query: dict[str, Any] = {}
    own = queries.rows[index]
    if own is None:
        packed = queries.packed[index, : bits.row_bytes(bank.n_neurons)]
        query["query_states"] = packed.cpu().clone()
        if queries.features is not None:
            query["query_features"] = queries.features[index].clone()
    return Region(
        neurons=torch.from_numpy(chosen.neurons),
        states=torch.from_numpy(chosen.states),
        scores=torch.from_numpy(chosen.scores),
        weights=torch.from_numpy(chosen.weights),
        offset=chosen.offset,
        tolerance=(float if rule.is_evidence else int)(rule.tolerance),
        evidence_cut=None,
        members=torch.empty(0, dtype=torch.int64),
        neighbors=near.rows,
        distances=near.distances,
        layer_shape=bank.layer_shape,
        axes=bank.axes,
        query=own,
        fingerprint=bank.fingerprint,
        rule=replace(rule, neighbors=near.rows) if given else rule,
        **query,
    )


def evidence(regions: Sequence[Region], bank: ConfigurationBank) -> Tensor:
    """Evidence of every bank row for each region, in nats.

    Args:
        regions: regions of the bank's layer, whatever rule made them.
        bank: a bank of the layer, not necessarily the regions' own.

    Returns:
        float64 tensor ``(Q, N)``, exact: what `Region.evidence` gives for the rows.
    """
    weights = torch.zeros(len(regions), bank.n_neurons, dtype=torch.int64)
    for own, region in zip(weights, regions, strict=True):
        own[region.neurons] = (region.weights * UNITS).round().long()
    offsets = torch.tensor([region.offset for region in regions], dtype=torch.float64)
    return bank.weighted_sums(weights) / UNITS + offsets[:, None]


def members(regions: Sequence[Region], bank: ConfigurationBank) -> list[Tensor]:
    """Rows of a bank in each region, ascending.

    Args:
        regions: regions of the bank's layer.
        bank: a bank of the layer, not necessarily the regions' own.

    Returns:
        for each region an int64 tensor of bank rows.
    """
    by_states = [region for region in regions if region.evidence_cut is None]
    by_evidence = [region for region in regions if region.evidence_cut is not None]
    agree = iter(agreeing([_wanted(region) for region in by_states], bank.packed))
    step = _step(bank)
    starts = range(0, len(by_evidence), step)
    parts = (evidence(by_evidence[start : start + step], bank) for start in starts)
    strengths = chain.from_iterable(parts)  # for as many regions at a time as fit
    return [
        next(agree)
        if region.evidence_cut is None
        else (next(strengths) >= region.evidence_cut).nonzero().flatten()
        for region in regions
    ]


def _step(bank: ConfigurationBank) -> int:
    """For how many regions the evidence of all rows fits the working memory."""
    return max(1, min(_QUERIES, _WORK_BYTES // (8 * max(1, len(bank)))))


def _wanted(region: Region) -> Wanted:
    # The highest score first: it rules out most rows.
    order = region.scores.argsort(descending=True, stable=True)
    return Wanted(region.neurons[order], region.states[order], int(region.tolerance))


def _strongest(draft: Region, evidence: Tensor) -> Tensor:
    """S chosen anew: the query and the bank rows of largest evidence."""
    ranked = evidence.numpy().copy()
    if draft.query is not None:
        ranked[draft.query] = np.inf
    return torch.from_numpy(largest(ranked, len(draft.neighbors)))


def _cut(draft: Region, states: Bools, bank: Frequencies) -> float:
    """What a member must reach, in nats.

    Three quarters of S reach it when they are judged by the weights of the others (the
    lower quartile of `left_out_evidence`), and so do three quarters of what is as near to
    the query as S; all of S reaches it by its own weights. The tolerance is taken off.
    """
    neurons = draft.neurons.numpy()
    weights = np.zeros(draft.n_layer)
    weights[neurons] = draft.weights.numpy()
    cut = float((states @ weights).min()) + draft.offset
    if len(states) > 1:
        judged = left_out_evidence(states, bank, neurons)
        cut = min(cut, float(np.sort(judged)[(len(judged) - 1) // 4]))
    return cut - draft.tolerance


def warn_if_few(found: Sequence[Region], rule: Rule, stacklevel: int) -> None:
    """Warn of regions that fewer neurons describe than were asked for.

    With evidence only of those that no neuron describes.
    """
    enough = 1 if rule.is_evidence or not found else rule.count(found[0].n_layer)
    short = [len(region.neurons) for region in found if len(region.neurons) < enough]
    if short:
        kind = "weighty neurons" if rule.is_evidence else "unanimous neurons"
        warnings.warn(
            f"{len(short)} of {len(found)} regions have fewer {kind} than "
            f"n_neurons={enough} (the fewest: {min(short)}), and are described "
            "by those; lower n_neurons or n_neighbors",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
