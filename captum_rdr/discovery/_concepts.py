"""The concepts of a layer, found without labels and tested on data that chose none."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from operator import ne
from typing import Any

import numpy as np
import torch
from scipy.stats import false_discovery_control, fisher_exact
from torch import Tensor

from captum_rdr._arguments import check_level, check_whole, distinct_rows, positional
from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.bank import ConfigurationBank
from captum_rdr.discovery._atlas import Atlas, Concept, Errors, assigned
from captum_rdr.discovery._links import Cover, cover, links, natural_cover, reach
from captum_rdr.discovery._recipe import Choices, rule_of
from captum_rdr.method.neighbors import bank_queries
from captum_rdr.method.neurons import Frequencies, left_out_evidence
from captum_rdr.method.region import Region, Significance
from captum_rdr.method.regions import with_evidence
from captum_rdr.metrics._explainers import fitted_banks
from captum_rdr.metrics._regions import jaccard
from captum_rdr.metrics._significance import judged_by, part_of

LINKED = 8, 1 / 160
"""Rows that a region links to its own: so many, or of many rows such a share of them, so
that a half of the rows makes like links."""

SAMPLED = 10_000
"""Rows whose regions make the concepts, at most."""

AGAIN = 1 / 3
"""Two sets of one size with this Jaccard index share half of what they hold."""

_EXEMPLARS = 8  # of a concept


def atlas(
    rdr: RelaxedDecisionRegion,
    rows: Sequence[int] | Tensor | None = None,
    n_concepts: int | None = None,
    *,
    labels: Any = None,
    predictions: Any = None,
    test: bool = True,
    level: float = 0.05,
    generator: torch.Generator | None = None,
    show_progress: bool = True,
    **choices: Any,
) -> Atlas:
    """Find the concepts that a layer holds, without labels.

    1. The region of every row is found; of more than 10,000, those of a sample.
    2. Two rows are linked when one is among the most evident members of the other's
       region: 8, or of more than 1,280 rows a 160th of them, so that half of the rows
       give the same concepts. A random walk along these links tells how alike two rows
       are: by the cosine between what the walks from each reach. So overlapping regions
       merge. The walks have 8, 12, 16, 24, 32 or 48 steps, whichever gives the concepts
       that the links hold together best (modularity).
    3. The few rows are chosen that stand for all: those that cover them best. *Coverage*
       is the mean likeness of a row to the one that stands for it. The choice reaches at
       least ``1 - 1/e`` (63 %) of the best coverage that as many rows can.
    4. Every row belongs to the one that it is most like. The region by evidence with these
       rows for S is the concept's rule, for new inputs too; its cut is where it tells them
       best.

    A test must not look at what made the find. So the same is done once more on each of two
    halves of the rows: ``found_again`` tells how much of a concept they give by themselves,
    and ``region.significance`` is the test of what the half makes of it that gives it
    better, among the rows of the other half, on neurons that did not find them (see
    `captum_rdr.metrics.significance`), adjusted for the number of concepts and halves.

    Args:
        rdr: fitted explainer of one layer.
        rows: bank rows to look at, each once, int64 ``(n,)`` or a sequence: those of one
            class for its subclasses; None for all.
        n_concepts: how many to find; fewer are found where fewer cover all. None for
            those without which more than 0.2 % of the coverage, and more than a row, would
            be lost, 100 at most.
        labels: whole numbers or names ``(N,)`` of all bank rows; None if unknown.
        predictions: the labels ``(N,)`` that the model gives them; with ``labels`` each
            concept's rate of errors is held against that of the other rows.
        test: whether to test the concepts and look whether they are found again, which
            takes half as long again.
        level: adjusted p-values up to this are significant.
        generator: draws the sample, the halves and what the tests draw; None for one
            seeded with 0.
        show_progress: draw progress bars when it takes more than a second.
        **choices: how regions are made, as in
            `captum_rdr.RelaxedDecisionRegion.attribute_members`, by evidence if
            ``weighting`` is left out.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: ``rdr`` is not fitted or explains several layers, or an argument is
            out of range.

    Source: this package; the walk is Coifman and Lafon's (2006), modularity Newman and
    Girvan's (2004), the cover Nemhauser, Wolsey and Fisher's (1978).

    >>> drawing = torch.Generator().manual_seed(0)
    >>> centers = torch.randn(4, 64, generator=drawing).repeat_interleave(40, 0)
    >>> data = centers + torch.randn(160, 64, generator=drawing) / 2
    >>> model = torch.nn.Identity()
    >>> rdr = RelaxedDecisionRegion(model, model, threshold="median")
    >>> rdr = rdr.fit(data, keep_features=True, show_progress=False)
    >>> names = [name for name in "abcd" for _ in range(40)]
    >>> found = atlas(rdr, labels=names)
    >>> found
    Atlas: 4 concepts of 160 rows, ...
    >>> new = centers[[0, 50, 90]] + torch.randn(3, 64, generator=drawing) / 2
    >>> [found[number].labels for number in found.assign(new).concept]
    [Counter({'a': ...}), Counter({'b': ...}), Counter({'c': ...})]
    >>> wrong = ["c" if name == "b" else name for name in names]
    >>> failing = atlas(rdr, labels=names, predictions=wrong, test=False)
    >>> max(failing, key=lambda one: one.errors.rate).errors
    Errors(n_wrong=40, rate=1.0, rate_elsewhere=0.0, p_value=...)
    """
    (bank,) = fitted_banks(rdr)
    every = range(len(bank)) if rows is None else rows
    picked = distinct_rows(every, len(bank), "rows")
    check_whole("n_concepts", 1 if n_concepts is None else n_concepts)
    check_level(level)
    known, predicted = (
        given if given is None else positional(given, name, len(bank), "bank rows")
        for name, given in (("labels", labels), ("predictions", predictions))
    )
    generator = generator or torch.Generator().manual_seed(0)
    order = picked[torch.randperm(len(picked), generator=generator)[:SAMPLED]]
    search = partial(_search, bank, n_concepts, choices, show_progress)
    sample = order.sort().values
    n_neighbors, size = choices.get("n_neighbors"), len(sample)
    check_whole("n_neighbors", n_neighbors or 1, most=size, of=f"the {size} rows")
    found, covered = search(sample)
    if test and len(found) and len(order) > 1:
        found = _tested(found, bank, order, search, level, generator, show_progress)
    where = assigned([one.region for one in found], bank)
    where.concept[sample] = torch.from_numpy(covered.labels)
    wrong = None
    if known is not None and predicted is not None:
        wrong = torch.tensor([*map(ne, known, predicted)])
    shown = _described(found, where.depth, known)
    shown = _with_errors(shown, picked, wrong)
    return Atlas(tuple(shown), picked, where.concept[picked], covered.coverage, rdr)


def subclasses(
    rdr: RelaxedDecisionRegion,
    class_indices: Sequence[int] | Tensor,
    n_subclasses: int | None = None,
    **options: Any,
) -> Atlas:
    """Find the subclasses of a class that nobody labeled: the `atlas` of its rows.

    Args:
        rdr: fitted explainer of one layer.
        class_indices: bank rows of the class, each once: int64 ``(n,)`` or a sequence.
        n_subclasses: how many to find, as in `atlas`.
        **options: as in `atlas`.

    Source: this package, see `atlas`.

    >>> drawing = torch.Generator().manual_seed(0)
    >>> centers = torch.randn(4, 32, generator=drawing).repeat_interleave(30, 0)
    >>> data = centers + torch.randn(120, 32, generator=drawing)
    >>> model = torch.nn.Identity()
    >>> rdr = RelaxedDecisionRegion(model, model)
    >>> rdr = rdr.fit(data, keep_features=True, show_progress=False)
    >>> found = subclasses(rdr, range(60), test=False, show_progress=False)
    >>> found.labels.unique_consecutive(return_counts=True)
    (tensor([0, 1]), tensor([30, 30]))
    """
    return atlas(rdr, class_indices, n_subclasses, **options)


def _search(
    bank: ConfigurationBank,
    count: int | None,
    choices: Choices,
    show_progress: bool,
    rows: Tensor,
) -> tuple[list[Concept], Cover]:
    """Concepts of some rows of a bank, by these rows alone."""
    alone = bank if len(rows) == len(bank) else bank.take(rows)
    if choices.get("n_neighbors") is not None:  # half of the rows may hold fewer
        choices = {**choices, "n_neighbors": min(choices["n_neighbors"], len(rows))}
    most = max(LINKED[0], round(LINKED[1] * len(rows)))
    linked = links(alone, choices, most, show_progress=show_progress)
    vectors = reach(linked)
    covered = natural_cover(vectors) if count is None else cover(vectors, count, 0.0)
    concepts = []
    for number, center in enumerate(covered.chosen):
        of = rows[torch.from_numpy(covered.labels == number)]
        region = rule_for(bank, of, int(rows[center]), rows)
        concepts.append(Concept(region, of, of, float(covered.gains[number])))
    return concepts, covered


def rule_for(bank: ConfigurationBank, of: Tensor, query: int, among: Tensor) -> Region:
    """The region by evidence that tells some rows from others as well as one can.

    Args:
        bank: the bank.
        of: int64 ``(n,)``, the bank rows; they are S.
        query: the one that stands for them.
        among: int64, bank rows that hold them, and those they are told from. Each of
            ``of`` is judged as one that is not in S.

    Returns:
        the region whose cut gives the largest Jaccard index of its members with ``of``,
        among the rows; the higher cut where two are as good.

    >>> bank = ConfigurationBank((3,))
    >>> bank.append(torch.tensor([[True, True, False], [False, True, True]]).repeat(4, 1))
    >>> rule_for(bank, torch.tensor([0, 2, 4]), 0, torch.arange(6)).members
    tensor([0, 2, 4, 6])
    """
    rule = rule_of(bank, 1, {"neighbors": of})
    own_query = bank_queries(bank, torch.tensor([query]), rule)
    ((region, of_all),) = with_evidence(bank, own_query, rule, show_progress=False)
    sums = of_all.clone()
    if len(of) > 1:  # by the weights of the others: its own ones flatter a row
        states = bank.states(of).numpy()
        frequencies = Frequencies.of(bank.active_counts.numpy(), len(bank))
        own = left_out_evidence(states, frequencies, np.arange(bank.n_neurons))
        # Rounding may put it above what the row has by all weights.
        sums[of] = torch.minimum(sums[of], torch.from_numpy(own))
    order = among[sums[among].argsort(descending=True, stable=True)]
    inside = torch.isin(order, of).cumsum(0)
    likeness = inside / (len(of) + torch.arange(1, len(order) + 1) - inside)
    ranked = sums[order]
    likeness[:-1][ranked[:-1] == ranked[1:]] = 0  # a cut keeps ties together
    cut = float(ranked[likeness.argmax()])
    members = (of_all >= cut).nonzero().flatten()
    return replace(region, evidence_cut=cut, members=members)


def _on_some_neurons(
    bank: ConfigurationBank, concepts: Sequence[Concept], among: Tensor, neurons: Tensor
) -> tuple[ConfigurationBank, list[Region]]:
    """A bank of some neurons, and the rules that these give for concepts."""
    part = part_of(bank, neurons)
    return part, [
        rule_for(part, one.rows, one.region.query or 0, among) for one in concepts
    ]


def _tested(
    found: Sequence[Concept],
    bank: ConfigurationBank,
    order: Tensor,
    search: Callable[[Tensor], tuple[list[Concept], Cover]],
    level: float,
    generator: torch.Generator,
    show_progress: bool,
) -> list[Concept]:
    """Concepts with the test of what a half of the rows makes of them, and whether both do."""
    first, second = (half.sort().values for half in order.chunk(2))
    matches = []
    for half, rest in ((first, second), (second, first)):
        alike, _ = search(half)
        tests = judged_by(
            [one.region for one in alike],
            bank,
            partial(_on_some_neurons, bank, alike, half),
            rest,
            level=level,
            generator=generator,
            show_progress=show_progress,
        )
        matches.append([_match(one, half, alike, tests) for one in found])
    tested = []
    for one, *both in zip(found, *matches, strict=True):
        likeness, verdict = max(both, key=lambda match: match[0])
        if likeness < AGAIN:
            reason = "not found again in either half of the rows"
            verdict = Significance(1.0, 0.0, 0, untestable=reason)
        again = float(np.mean([match[0] for match in both]))
        region = replace(one.region, significance=verdict)
        tested.append(replace(one, region=region, found_again=again))
    return tested


def _match(
    one: Concept, half: Tensor, others: Sequence[Concept], tests: Sequence[Region]
) -> tuple[float, Significance | None]:
    """How like a concept is the one most like it of half of the rows, and its test."""
    own = one.rows[torch.isin(one.rows, half)]
    likeness = [jaccard(own, other.rows) for other in others]
    if not likeness:
        return 0.0, None
    verdict = tests[int(np.argmax(likeness))].significance
    if verdict is not None and verdict.adjusted_p_value is not None:
        # Either half might have been the one that is looked at.
        adjusted = min(1.0, 2 * verdict.adjusted_p_value)
        verdict = replace(verdict, adjusted_p_value=adjusted)
    return max(likeness), verdict


def _described(
    found: Sequence[Concept], depth: Tensor, known: Sequence[Any] | None
) -> list[Concept]:
    """Concepts with their most evident rows, and their labels where these are known."""
    described = []
    for one, own in zip(found, depth.T, strict=True):
        ranked = own[one.rows].argsort(descending=True, stable=True)
        exemplars, rows = one.rows[ranked[:_EXEMPLARS]], one.rows.tolist()
        held = None if known is None else Counter(known[row] for row in rows)
        described.append(replace(one, exemplars=exemplars, labels=held))
    return described


def _with_errors(
    found: list[Concept], rows: Tensor, is_wrong: Tensor | None
) -> list[Concept]:
    """The concepts with how often the model errs on each, if that is known."""
    if is_wrong is None:
        return found
    rates = error_rates([one.rows for one in found], rows, is_wrong, "two-sided")
    return [replace(one, errors=its) for one, its in zip(found, rates, strict=True)]


def error_rates(
    parts: Sequence[Tensor], rows: Tensor, is_wrong: Tensor, alternative: str
) -> list[Errors]:
    """How often a model errs on each of some parts of rows, against the other rows.

    >>> wrong = torch.arange(20) < 5
    >>> error_rates([torch.arange(4)], torch.arange(20), wrong, "greater")[0].rate
    1.0
    """
    wrong, total = int(is_wrong[rows].sum()), len(rows)
    counts = [(int(is_wrong[part].sum()), len(part)) for part in parts]
    p_values = [
        fisher_exact(
            [[a, n - a], [wrong - a, total - n - (wrong - a)]], alternative
        ).pvalue
        for a, n in counts
    ]
    adjusted = false_discovery_control(p_values) if p_values else []
    return [
        Errors(a, a / max(n, 1), (wrong - a) / max(total - n, 1), float(p_value))
        for (a, n), p_value in zip(counts, adjusted, strict=True)
    ]
