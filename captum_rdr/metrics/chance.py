"""Three other kinds of chance to hold a region against.

Each gives the effects that chance brings forth for every region, in the standard
deviations of `captum_rdr.metrics.finding.Finding`, which allow for sets of different
sizes; a set without members outside S has an effect of minus infinity.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from captum_rdr.bank import ConfigurationBank, bits
from captum_rdr.method.neighbors import Queries
from captum_rdr.method.neurons import log_odds_weights
from captum_rdr.method.region import Region, evidence_rounding
from captum_rdr.method.regions import regions as construct
from captum_rdr.method.rule import Rule
from captum_rdr.metrics.finding import Finding, finding, findings
from captum_rdr.metrics.halves import (
    Halves,
    Trial,
    found_again,
    halved_rule,
)
from captum_rdr.metrics.matching import matched_neurons, unanimous
from captum_rdr.metrics.requery import query_states, states_inside

Floats = npt.NDArray[np.float64]


def random_neighbors(trial: Trial, n_permutations: int) -> Iterator[Floats]:
    """Effects of the regions that the same rule makes of random sets S.

    Args:
        trial: the regions.
        n_permutations: number of random sets; they serve all regions of a rule.

    Yields:
        for each region its effects by chance, ``(n_permutations,)``.
    """
    known: dict[Rule, Floats] = {}
    halves = trial.halves
    for query, region in zip(trial.queries, trial.found, strict=True):
        size = len(region.neighbors) + (region.query is None)
        rule = replace(
            halved_rule(query, halves),
            n_neighbors=min(size, len(halves.bank)),
            neighbors="configuration",
        )
        if rule not in known:
            known[rule] = _effects_of_random(halves, rule, n_permutations, trial.seed)
        yield known[rule]


def _effects_of_random(
    halves: Halves, rule: Rule, n_permutations: int, seed: int
) -> Floats:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.stack(
        [
            torch.randperm(len(halves.bank), generator=generator)[: rule.n_neighbors]
            for _ in range(n_permutations)
        ]
    )
    first = rows[:, 0].numpy()
    queries = Queries(halves.found_in.packed[first], list(first.tolist()))
    random_rule = replace(rule, neighbors=rows)
    found = construct(halves.found_in, queries, random_rule, show_progress=False)
    own = halves.judged_in[first]
    return np.array(
        [
            _effect(finding(halves.judged_in, halves.n_judging, region, packed))
            for region, packed in zip(found, own, strict=True)
        ]
    )


def permuted_columns(trial: Trial, n_permutations: int) -> Iterator[Floats]:
    """Effects of the queries' regions in banks whose columns are shuffled.

    Every neuron keeps its frequency and its activations, and loses what it shares with
    others. The queries are strangers to the shuffled bank.

    Args:
        trial: the regions.
        n_permutations: number of shuffled banks; they serve all regions.

    Yields:
        for each region its effects by chance, ``(n_permutations,)``.
    """
    halves, queries = trial.halves, trial.queries
    generator = torch.Generator().manual_seed(trial.seed)
    effects = np.empty((len(queries), n_permutations))
    for number in range(n_permutations):
        searched = _shuffled(halves.found_in, generator)
        judged = _shuffled(halves.judging, generator).packed
        found = found_again(halves, queries, searched)
        shuffled = trial._replace(found=found)
        for index, one in enumerate(findings(shuffled, judged)):
            effects[index, number] = _effect(one)
    yield from effects


def _shuffled(bank: ConfigurationBank, generator: torch.Generator) -> ConfigurationBank:
    """The same columns of states (and features), each in an order of its own."""
    states = bank.states()
    features = None if bank.features is None else bank.features.clone()
    for neuron in range(bank.n_neurons):
        order = torch.randperm(len(bank), generator=generator)
        states[:, neuron] = states[order, neuron]
        if features is not None:
            features[:, neuron] = features[order, neuron]
    shuffled = ConfigurationBank(bank.layer_shape, reserve=len(bank))
    shuffled.append(states, features)
    return shuffled


def random_neurons(trial: Trial, n_permutations: int) -> Iterator[Floats]:
    """Effects of members told by random unanimous neurons in place of the principal.

    See `captum_rdr.metrics.matching.matched_neurons` for how they are drawn. The
    principal neurons are among those to draw from: else the draws would be more like
    each other than like the region, and the p-values of noise not uniform.

    Args:
        trial: the regions.
        n_permutations: number of sets of neurons, for each region.

    Yields:
        for each region its effects by chance, ``(n_permutations,)``.
    """
    halves, found, bank = trial.halves, trial.found, trial.halves.found_in
    counts = bank.active_counts.numpy()
    states = query_states(halves.bank, trial.queries)[:, halves.finding]
    observed = findings(trial)
    for region, own, judged in zip(found, states, observed, strict=True):
        generator = torch.Generator().manual_seed(trial.seed)
        inside = states_inside(bank, region, own)
        active = inside.numpy().sum(0, dtype=np.int64)
        pools = {
            state: unanimous(active, len(inside), state) for state in (False, True)
        }
        effects = []
        for _ in range(n_permutations):
            neurons = matched_neurons(
                region.neurons.numpy(),
                region.states.numpy(),
                pools,
                counts,
                generator,
            )
            members = _members(bank, region, neurons, active, inside)
            kept = np.ones(len(bank), bool)
            kept[region.neighbors.numpy()] = False
            picked = np.flatnonzero(members[kept])
            effects.append(_effect(replace(judged, picked=picked)))
        yield np.array(effects)


def _members(
    bank: ConfigurationBank,
    region: Region,
    neurons: npt.NDArray[np.int64],
    active: npt.NDArray[np.int64],
    inside: Tensor,
) -> npt.NDArray[np.bool_]:
    """Rows that other neurons of S call members, by the region's own kind of rule."""
    members = np.zeros(len(bank), bool)
    if region.evidence_cut is None:
        wanted = active[neurons] > 0
        rows = bits.agreeing(bank.packed, neurons, wanted, int(region.tolerance))
        members[rows] = True
        return members
    weights, offsets = (
        torch.from_numpy(values[neurons])
        for values in log_odds_weights(
            active, len(inside), bank.active_counts.numpy(), len(bank)
        )
    )
    evidence = bank.weighted_sum(torch.from_numpy(neurons), weights[:, None])[:, 0]
    of_inside = inside[:, torch.from_numpy(neurons)].double() @ weights
    slack = evidence_rounding(weights, offsets)
    cut = float(of_inside.min()) - region.tolerance - slack
    return (evidence >= cut).numpy()


def _effect(found: Finding) -> float:
    return found.effect if len(found.picked) else -np.inf
