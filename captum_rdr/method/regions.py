"""From queries to regions: S, then principal neurons, then members."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_rdr.bank import ConfigurationBank, bits
from captum_rdr.bank.queries import Wanted
from captum_rdr.method.neighbors import Neighborhood, Queries, at_rows, neighborhoods
from captum_rdr.method.neurons import (
    UNITS,
    Ints,
    evidence_weights,
    heaviest_neurons,
    largest,
    left_out_evidence,
    principal_neurons,
    scores,
)
from captum_rdr.method.region import Region
from captum_rdr.method.rule import Rule

_QUERIES = 64  # explained at a time, at most
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
    found: list[Region] = []
    step = _step(bank)
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
            found += _block(bank, part, own)
            progress.update(len(part))
    return found


def _block(bank: ConfigurationBank, queries: Queries, rule: Rule) -> list[Region]:
    found = neighborhoods(bank, queries, rule)
    drafts = _drafts(bank, queries, found, rule)
    if not rule.is_evidence:
        return [
            replace(draft, members=rows)
            for draft, rows in zip(drafts, members(drafts, bank), strict=True)
        ]
    for _ in range(rule.rounds - 1):
        found = [
            _strongest(bank, packed, old, row)
            for packed, old, row in zip(
                queries.packed, found, evidence(drafts, bank), strict=True
            )
        ]
        drafts = _drafts(bank, queries, found, rule)
    finished = []
    for packed, draft, row in zip(
        queries.packed, drafts, evidence(drafts, bank), strict=True
    ):
        cut = _cut(bank, packed, draft, row)
        rows = (row >= cut).nonzero().flatten()
        finished.append(replace(draft, evidence_cut=cut, members=rows))
    return finished


def _drafts(
    bank: ConfigurationBank,
    queries: Queries,
    found: Sequence[Neighborhood],
    rule: Rule,
) -> list[Region]:
    """The regions of queries before their members are known."""
    active = _active_inside(bank, queries, found)
    return [
        _draft(bank, queries, index, inside, rule, active[index])
        for index, inside in enumerate(found)
    ]


def _active_inside(
    bank: ConfigurationBank, queries: Queries, found: Sequence[Neighborhood]
) -> list[Ints]:
    """In how many instances of each S every neuron is active."""
    rows = torch.cat([inside.rows for inside in found])
    ends = np.cumsum([0, *(len(inside.rows) for inside in found)]).tolist()
    held = bits.unpack(bank.packed[rows.to(bank.device)], bank.n_neurons).numpy()
    own = bits.unpack(queries.packed, bank.n_neurons).numpy()
    active = []
    for index, inside in enumerate(found):
        states = held[ends[index] : ends[index + 1]].view(np.uint8)
        narrow = np.uint8 if len(states) < 255 else np.int64
        counts = states.sum(0, dtype=narrow).astype(np.int64)
        active.append(counts + own[index] if inside.query is None else counts)
    return active


def _draft(
    bank: ConfigurationBank,
    queries: Queries,
    index: int,
    inside: Neighborhood,
    rule: Rule,
    active: Ints,
) -> Region:
    packed, is_row = queries.packed[index], inside.query is not None
    counts = bank.active_counts.numpy()
    count = rule.count(bank.n_neurons)
    if not rule.is_evidence:
        neurons = principal_neurons(active, inside.size, counts, len(bank), count)
        of_neurons = active[neurons], inside.size, counts[neurons], len(bank)
        weights, when_inactive = evidence_weights(*of_neurons)
        states, ranked_by = active[neurons] > 0, scores(*of_neurons)
    else:
        weights, when_inactive = evidence_weights(
            active, inside.size, counts, len(bank)
        )
        neurons = heaviest_neurons(weights, count)
        weights, when_inactive = weights[neurons], when_inactive[neurons]
        states, ranked_by = weights > 0, np.abs(weights) / UNITS
    kept = queries.features if queries.features is None else queries.features[index]
    return Region(
        neurons=torch.from_numpy(neurons),
        states=torch.from_numpy(states),
        scores=torch.from_numpy(ranked_by),
        weights=torch.from_numpy(weights / UNITS),
        offset=round(UNITS * float(when_inactive.sum())) / UNITS,
        tolerance=(float if rule.is_evidence else int)(rule.tolerance),
        evidence_cut=None,
        members=torch.empty(0, dtype=torch.int64),
        neighbors=inside.rows,
        distances=inside.distances,
        layer_shape=bank.layer_shape,
        query=inside.query,
        fingerprint=bank.fingerprint,
        rule=rule.for_rows(inside.rows),
        query_states=None
        if is_row
        else packed[: bits.row_bytes(bank.n_neurons)].cpu().clone(),
        query_features=None if is_row or kept is None else kept.clone(),
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
    agreeing = iter(bank.agreeing([_wanted(region) for region in by_states]))
    evident = iter(_evident(by_evidence, bank))
    return [
        next(agreeing if region.evidence_cut is None else evident) for region in regions
    ]


def _evident(regions: Sequence[Region], bank: ConfigurationBank) -> list[Tensor]:
    """Rows that reach each region's cut, for as many regions at a time as fit."""
    found: list[Tensor] = []
    step = _step(bank)
    for start in range(0, len(regions), step):
        part = regions[start : start + step]
        cuts = torch.tensor([region.evidence_cut for region in part]).double()
        reached = evidence(part, bank) >= cuts[:, None]
        found += [row.nonzero().flatten() for row in reached]
    return found


def _step(bank: ConfigurationBank) -> int:
    """For how many regions the evidence of all rows fits the working memory."""
    return max(1, min(_QUERIES, _WORK_BYTES // (8 * max(1, len(bank)))))


def _wanted(region: Region) -> Wanted:
    # The highest score first: it rules out most rows.
    order = region.scores.argsort(descending=True, stable=True)
    return Wanted(region.neurons[order], region.states[order], int(region.tolerance))


def _strongest(
    bank: ConfigurationBank, packed: Tensor, inside: Neighborhood, evidence: Tensor
) -> Neighborhood:
    """S chosen anew: the query and the bank rows of largest evidence."""
    ranked = evidence.numpy().copy()
    if inside.query is not None:
        ranked[inside.query] = np.inf
    rows = torch.from_numpy(largest(ranked, len(inside.rows)))
    return at_rows(bank, packed, inside.query, rows)


def _cut(
    bank: ConfigurationBank, packed: Tensor, draft: Region, of_rows: Tensor
) -> float:
    """What a member must reach, in nats.

    Three quarters of S reach it when they are judged by the weights of the others (the
    lower quartile of `left_out_evidence`), and so do three quarters of what else is like
    S; all of S reaches it by its own weights. The tolerance is taken off.
    """
    rows = bank.packed[draft.neighbors.to(bank.device)]
    if draft.query is None:
        rows = torch.cat([rows, packed[None]])
    inside = bits.unpack(rows, bank.n_neurons)[:, draft.neurons]
    by_own = [of_rows[draft.neighbors]]
    if draft.query is None:
        by_own.append(inside[-1].double()[None] @ draft.weights + draft.offset)
    cut = float(torch.cat(by_own).min())
    if len(inside) > 1:
        counts = bank.active_counts[draft.neurons].numpy()
        states = inside.numpy()
        judged = left_out_evidence(states, states.sum(0), counts, len(bank))
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
