"""From queries to regions: S, then principal neurons, then members."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm.auto import tqdm

from captum_rdr.bank import ConfigurationBank, bits
from captum_rdr.bank.queries import largest
from captum_rdr.method.neighbors import Neighborhood, Queries, at_rows, neighborhoods
from captum_rdr.method.neurons import (
    heaviest_neurons,
    log_odds_weights,
    principal_neurons,
    scores,
)
from captum_rdr.method.region import Region, evidence_rounding
from captum_rdr.method.rule import Rule

_QUERIES = 64  # explained at a time, at most
_WORK_BYTES = 1 << 27  # evidence of all rows for the queries of a step

Floats = npt.NDArray[np.float64]


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
    with tqdm(
        total=len(queries),
        desc="Explaining",
        unit="region",
        disable=not show_progress,
        delay=1,
    ) as progress:
        for start, stop in _parts(len(queries), len(bank)):
            part = rule
            if isinstance(rule.neighbors, Tensor) and rule.neighbors.dim() == 2:
                part = replace(rule, neighbors=rule.neighbors[start:stop])
            of_block = queries[start:stop]
            found += _with_queries(bank, of_block, _block(bank, of_block, part))
            progress.update(stop - start)
    return found


def _with_queries(
    bank: ConfigurationBank, queries: Queries, found: list[Region]
) -> list[Region]:
    """Let regions keep the queries that the bank does not hold."""
    n_bytes = bits.row_bytes(bank.n_neurons)
    return [
        region
        if region.query is not None
        else replace(
            region,
            query_states=torch.from_numpy(queries.packed[index, :n_bytes].copy()),
            query_features=None
            if queries.features is None
            else queries.features[index].clone(),
        )
        for index, region in enumerate(found)
    ]


def _parts(n_queries: int, n_rows: int) -> list[tuple[int, int]]:
    """Split queries so that a number for each bank row fits the working memory."""
    step = max(1, min(_QUERIES, _WORK_BYTES // (8 * max(1, n_rows))))
    return [
        (start, min(start + step, n_queries)) for start in range(0, n_queries, step)
    ]


def _block(bank: ConfigurationBank, queries: Queries, rule: Rule) -> list[Region]:
    found = neighborhoods(bank, queries, rule)
    drafts = _drafts(bank, queries, found, rule)
    if rule.weighting == "uniform":
        return [_by_disagreements(bank, draft) for draft in drafts]
    for _ in range(rule.rounds - 1):
        evidence = _bank_evidence(bank, drafts)
        found = [
            _strongest(bank, packed, inside, row)
            for packed, inside, row in zip(queries.packed, found, evidence, strict=True)
        ]
        drafts = _drafts(bank, queries, found, rule)
    return [
        _by_evidence(bank, packed, draft, row)
        for packed, draft, row in zip(
            queries.packed, drafts, _bank_evidence(bank, drafts), strict=True
        )
    ]


def _drafts(
    bank: ConfigurationBank,
    queries: Queries,
    found: Sequence[Neighborhood],
    rule: Rule,
) -> list[Region]:
    return [
        _draft(bank, packed, inside, rule)
        for packed, inside in zip(queries.packed, found, strict=True)
    ]


def _active_inside(
    bank: ConfigurationBank, packed: bits.Bytes, inside: Neighborhood
) -> npt.NDArray[np.int64]:
    """In how many instances of S each neuron is active."""
    rows = bank.take(inside.rows)
    if inside.query is None:
        rows = np.concatenate([rows, packed[None]])
    states = bits.unpack(rows, bank.n_neurons).view(np.uint8)
    narrow = np.uint8 if len(states) < 256 else np.int64
    active: npt.NDArray[np.int64] = states.sum(0, dtype=narrow).astype(np.int64)
    return active


def _draft(
    bank: ConfigurationBank, packed: bits.Bytes, inside: Neighborhood, rule: Rule
) -> Region:
    """The region of a query before its members are known."""
    active, counts = _active_inside(bank, packed, inside), bank.active_counts.numpy()
    if rule.weighting == "uniform":
        neurons = principal_neurons(
            active, inside.size, counts, len(bank), rule.n_neurons
        )
        frequencies = active[neurons], inside.size, counts[neurons], len(bank)
        ranked_by = scores(*frequencies)
        weights, offsets = log_odds_weights(*frequencies)
        states = active[neurons] > 0
    else:
        all_weights = log_odds_weights(active, inside.size, counts, len(bank))
        neurons = heaviest_neurons(all_weights[0], rule.n_neurons)
        weights, offsets = (values[neurons] for values in all_weights)
        ranked_by, states = np.abs(weights), weights > 0
    tolerance = (int if rule.weighting == "uniform" else float)(rule.tolerance)
    return Region(
        neurons=torch.from_numpy(neurons),
        states=torch.from_numpy(states),
        scores=torch.from_numpy(ranked_by),
        weights=torch.from_numpy(weights),
        offsets=torch.from_numpy(offsets),
        tolerance=tolerance,
        evidence_cut=None,
        members=torch.empty(0, dtype=torch.int64),
        neighbors=torch.from_numpy(inside.rows),
        distances=torch.from_numpy(inside.distances),
        layer_shape=bank.layer_shape,
        query=inside.query,
        fingerprint=bank.fingerprint,
        rule=rule.for_rows(torch.from_numpy(inside.rows)),
    )


def _by_disagreements(bank: ConfigurationBank, draft: Region) -> Region:
    """The paper's members: at most ``tolerance`` principal states disagree."""
    # The highest score first: it rules out most rows.
    order = draft.scores.argsort(descending=True, stable=True)
    members = bank.members(
        draft.neurons[order], draft.states[order], int(draft.tolerance)
    )
    return replace(draft, members=members)


def _bank_evidence(bank: ConfigurationBank, drafts: Sequence[Region]) -> Floats:
    """Evidence ``(Q, N)`` of every bank row for each region."""
    neurons = torch.from_numpy(
        np.unique(np.concatenate([draft.neurons.numpy() for draft in drafts]))
    )
    weights = torch.zeros(len(neurons), len(drafts), dtype=torch.float64)
    for index, draft in enumerate(drafts):
        weights[torch.searchsorted(neurons, draft.neurons), index] = draft.weights
    offsets = torch.stack([draft.offsets.sum() for draft in drafts])
    evidence: Floats = (bank.weighted_sum(neurons, weights) + offsets).numpy().T
    return evidence


def _strongest(
    bank: ConfigurationBank, packed: bits.Bytes, inside: Neighborhood, evidence: Floats
) -> Neighborhood:
    """S chosen anew: the query and the bank rows of largest evidence."""
    ranked = np.round(evidence, 9)
    if inside.query is not None:
        ranked[inside.query] = np.inf
    rows = largest(ranked, len(inside.rows))
    return at_rows(bank, packed, inside.query, rows)


def _by_evidence(
    bank: ConfigurationBank, packed: bits.Bytes, draft: Region, evidence: Floats
) -> Region:
    """Members at least as evident as the weakest of S, less the tolerance."""
    own = torch.from_numpy(bits.unpack(packed[None], bank.n_neurons))
    of_neighbors = evidence[draft.neighbors.numpy()].tolist()
    cut = min([float(draft.evidence(own)), *of_neighbors]) - draft.tolerance
    slack = evidence_rounding(draft.weights, draft.offsets)
    members = torch.from_numpy(np.flatnonzero(evidence >= cut - slack))
    return replace(draft, evidence_cut=cut, members=members)


def warn_if_few(found: Sequence[Region], rule: Rule, stacklevel: int) -> None:
    """Warn of regions that fewer neurons describe than were asked for.

    With evidence only of those that no neuron describes.
    """
    enough = rule.n_neurons if rule.weighting == "uniform" else 1
    short = [len(region.neurons) for region in found if len(region.neurons) < enough]
    if short:
        kind = "unanimous neurons" if rule.weighting == "uniform" else "weighty neurons"
        warnings.warn(
            f"{len(short)} of {len(found)} regions have fewer {kind} than "
            f"n_neurons={rule.n_neurons} (the fewest: {min(short)}), and are described "
            "by those; lower n_neurons or n_neighbors",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
