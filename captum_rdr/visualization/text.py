"""A query's text and those of its region's members, with the words that matter."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
import torch
from torch import Tensor

from captum_rdr.attribution import RelaxedDecisionRegion
from captum_rdr.method.region import Region
from captum_rdr.metrics._regions import query_states
from captum_rdr.visualization import subjects

_WORDS = 60  # of each text, at most

Weigh = Callable[[list[str]], Sequence[float]]
"""Gives each word of a text a weight; those of a member are relative to its largest."""


class RegionText(str):
    """Texts of a region as HTML, which a notebook shows."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)


def visualize_text_region(
    region: Region,
    rdr: RelaxedDecisionRegion,
    dataset: Any,
    query: Any = None,
    *,
    n_members: int = 10,
    weigh: Weigh | None = None,
) -> RegionText:
    """Show a query's text and its region's members, with the words that matter.

    A table in HTML with every word that matters highlighted, as Captum's
    ``visualize_text`` draws it; everything that came from outside is escaped.

    Args:
        region: the region to show.
        rdr: fitted; the region is one of its own.
        dataset: the reference set's texts, or a `Reference` of them, which also knows
            labels and predictions. Item i is row i of the bank: a text or a list of
            tokens, or a tuple that begins with one.
        query: the query's text, or a tuple of it, its class and the class that the model
            predicts; not needed where the bank holds it.
        n_members: members to show at most, the nearest first.
        weigh: makes weights of a text's words, e.g. a Captum attribution of the concept
            score summed over each token's embedding; positive speaks for the concept.
            None for words that are in more of the members' texts than of the others, by
            the logarithm of the odds ratio in standard errors.

    Returns:
        the HTML.

    Raises:
        TypeError: a text is of another kind.
        ValueError: the region is that of another bank, the query is missing, there are
            too few texts, or weights and words differ in number.

    >>> from captum_rdr import ConfigurationBank, RelaxedDecisionRegion
    >>> bank = ConfigurationBank((2,))
    >>> bank.append(torch.tensor([[1, 1], [1, 1], [0, 0], [0, 0]]) > 0)
    >>> layer = torch.nn.Identity()
    >>> rdr = RelaxedDecisionRegion(layer, layer, bank=bank)
    >>> region = rdr.attribute_members([0], 2, 2)[0]
    >>> texts = ["a fine film", "fine acting", "a dull film", "dull"]
    >>> html = visualize_text_region(region, rdr, texts)
    >>> "Typical words: fine, acting" in html, html.count("<mark")
    (True, 3)
    """
    subject = subjects.of(region, rdr, dataset, query)
    reference, bank = subject.reference, subject.bank
    typical: dict[str, float] = {}
    if weigh is None:
        typical = distinctive_words(reference.dataset, region.members)
    rows = subject.ranked(n_members)
    states = torch.cat([query_states(bank, [region]), bank.states(rows)])
    names = ["query", *(f"row {row}" for row in rows.tolist())]
    classes = [subject.classes, *map(reference.classes, rows.tolist())]
    items = [subject.item, *map(reference.item, rows.tolist())]
    weighed = [_weighed(words_of(item), weigh, typical) for item in items]
    lines = zip(names, classes, subject.disagreements(states), weighed, strict=True)
    text = f"{subject.described} Query and {subject.counted(rows)}."
    top = sorted(typical, key=lambda word: (-typical[word], word))[:8]
    words = ", ".join(word for word in top if typical[word] > 0)
    heads = [row.heading for row in subject.headed(text)]
    heads += [f"Typical words: {words}"] if words else []
    loader = jinja2.PackageLoader("captum_rdr.visualization", ".")
    page = jinja2.Environment(loader=loader, autoescape=True).get_template("text.html")
    return RegionText(page.render(heads=heads, lines=lines))


def _weighed(
    words: list[str], weigh: Weigh | None, typical: dict[str, float]
) -> list[tuple[str, float]]:
    """The first words, each with its weight in shares of the largest."""
    if weigh is None:
        weights = [max(0.0, typical.get(word.casefold(), 0.0)) for word in words]
        largest = max(typical.values(), default=0.0)
    else:
        weights = [float(weight) for weight in weigh(words)]
        largest = max((abs(weight) for weight in weights), default=0.0)
    if len(weights) != len(words):
        raise ValueError(
            f"weigh gave {len(weights)} weights for {len(words)} words; give one each"
        )
    shares = [weight / largest if largest > 0 else 0.0 for weight in weights]
    cut = [("…", 0.0)] * (len(words) > _WORDS)
    return [*zip(words[:_WORDS], shares, strict=False), *cut]


def words_of(item: Any) -> list[str]:
    """The words of a text.

    Args:
        item: a text, which is split at white space, or a list of tokens; or a tuple that
            begins with one of them.

    Raises:
        TypeError: it is none of these.

    >>> words_of(("so it goes", 1)), words_of(["so", "##it"])
    (['so', 'it', 'goes'], ['so', '##it'])
    """
    text = item[0] if isinstance(item, tuple) and item else item
    if isinstance(text, str):
        return text.split()
    if isinstance(text, list) and all(isinstance(word, str) for word in text):
        return list(text)
    raise TypeError(
        f"a text is a {type(text).__name__}; give texts, lists of tokens, or tuples that "
        "begin with one"
    )


def distinctive_words(texts: Sequence[Any], members: Tensor) -> dict[str, float]:
    """How much more often each word is in members' texts than in the others.

    The logarithm of the odds ratio between texts with and without the word, one half
    added to each count (Haldane 1956, Anscombe 1956), in standard errors, so that rare
    words do not come first. Upper and lower case are the same.

    Args:
        texts: text of each bank row.
        members: int64 ``(M,)``, the rows in the region.

    >>> found = distinctive_words(["A cat", "a dog", "the cat", "the dog"],
    ...                           torch.tensor([0, 2]))
    >>> max(found, key=found.get)
    'cat'
    """
    inside = set(members.tolist())
    counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for row in range(len(texts)):
        words = {word.casefold() for word in words_of(texts[row])}
        counts[row not in inside].update(words)
    n_inside, n_outside = len(inside), len(texts) - len(inside)
    found = {}
    for word in {**counts[0], **counts[1]}:
        a, c = counts[0][word] + 0.5, counts[1][word] + 0.5
        b, d = n_inside + 1 - a, n_outside + 1 - c
        error = math.sqrt(1 / a + 1 / b + 1 / c + 1 / d)
        found[word] = (math.log(a / b) - math.log(c / d)) / error
    return found
