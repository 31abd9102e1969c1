"""A query's text and those of its region's members, with the words that matter."""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_rdr._arguments import check_whole
from captum_rdr.bank import ConfigurationBank
from captum_rdr.method.region import Region
from captum_rdr.visualization.members import (
    described,
    disagreements,
    order_name,
    ranked,
    significance_rows,
)
from captum_rdr.visualization.reference import Classes, as_reference
from captum_rdr.visualization.words import distinctive_words, words_of

_CELL = "text-align:left;padding:2px 10px"
_WORDS = 60  # of each text, at most
_MARKED = 0.35  # weight from which plain text marks a word

Weigh = Callable[[list[str]], Sequence[float]]
"""Gives each word of a text a weight; those of a member are relative to its largest."""


@dataclass(frozen=True)
class _Line:
    who: str
    classes: Classes
    differ: str
    words: tuple[tuple[str, float], ...]
    is_cut: bool


@dataclass(frozen=True, repr=False)
class RegionText:
    """Texts of a region: HTML in a notebook, plain text where it is printed.

    Attributes:
        html: a table with every word that matters highlighted, as Captum's
            ``visualize_text`` draws it; everything that came from outside is escaped.
        text: the same as plain text, the words that matter between asterisks.
    """

    html: str
    text: str

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


def visualize_text_region(
    bank: ConfigurationBank,
    region: Region,
    texts: Any,
    query: str | list[str] | None = None,
    *,
    query_states: Tensor | None = None,
    query_label: int | None = None,
    query_prediction: int | None = None,
    n_members: int = 10,
    weigh: Weigh | None = None,
) -> RegionText:
    """Show a query's text and its region's members, with the words that matter.

    Args:
        bank: the bank that the region belongs to.
        region: the region to show.
        texts: the reference set's texts, or a `Reference` of them, which also knows
            labels and predictions. Item i is row i of the bank: a text or a list of
            tokens, or a tuple that begins with one.
        query: the query's text; not needed where the bank holds it.
        query_states: its states, ``rdr.states(inputs)[0]``; needed with ``query``.
        query_label: class of the given query.
        query_prediction: class that the model predicts for the given query.
        n_members: members to show at most, the nearest first.
        weigh: makes weights of a text's words, e.g. a Captum attribution of the concept
            score summed over each token's embedding; positive speaks for the concept.
            None for words that are more frequent in members' texts than in the others,
            see `captum_rdr.visualization.words`.

    Returns:
        HTML and plain text.

    Raises:
        TypeError: a text is of another kind.
        ValueError: the region is that of another bank, the query or its states are
            missing, there are too few texts, or weights and words differ in number.

    >>> bank = ConfigurationBank((2,))
    >>> bank.append(torch.tensor([[1, 1], [1, 1], [0, 0], [0, 0]]) > 0)
    >>> from captum_rdr import RelaxedDecisionRegion
    >>> layer = torch.nn.Identity()
    >>> rdr = RelaxedDecisionRegion(layer, layer, bank=bank)
    >>> region = rdr.attribute_members([0], 2, 2)[0]
    >>> texts = ["a fine film", "fine acting", "a dull film", "dull"]
    >>> visualize_text_region(bank, region, texts)
    2 principal neurons of 2 (2 active, 0 inactive), all must agree.
    2 of 2 members shown, nearest first. Typical words: fine, acting
    query | 0 differ | a *fine* film
    row 1 | 0 differ | *fine* *acting*
    """
    check_whole("n_members", n_members)
    region.check_layer(bank.layer_shape, bank.fingerprint)
    reference = as_reference(texts)
    given = query is not None
    if given != (query_states is not None) or (not given and region.query is None):
        raise ValueError(
            "the bank does not hold the query, or only one of query and query_states is "
            "given; give its text and query_states=rdr.states(inputs)[0]"
        )
    own = torch.tensor([] if given else [region.query], dtype=torch.int64)
    states = bank.states(own)[0] if query_states is None else query_states.flatten()
    others = region.members[~torch.isin(region.members, own)]
    rows = ranked(region, others, bank, states)[:n_members]
    typical = distinctive_words(reference.dataset, region.members) if not weigh else {}
    if given:
        classes = reference.named(query_label, query_prediction)
    else:
        classes = reference.classes(int(own[0]))
    item = query if given else reference.dataset[int(own[0])]
    differing = int((states[region.neurons] != region.states).sum())
    lines = [_line("query", classes, differing, item, weigh, typical)]
    counts = disagreements(region, bank, rows)
    for row, count in zip(rows.tolist(), counts, strict=True):
        found, item = reference.classes(row), reference.dataset[row]
        lines.append(_line(f"row {row}", found, count, item, weigh, typical))
    n_shown = int(torch.isin(region.members, torch.cat([rows, own])).sum())
    heads = _headings(region, n_shown, typical)
    return RegionText(_as_html(heads, lines), _as_text(heads, lines))


def _headings(region: Region, n_shown: int, typical: dict[str, float]) -> list[str]:
    order = order_name(region, None)
    shown = f"{n_shown} of {len(region.members)} members shown, {order}."
    top = sorted(typical, key=lambda word: -typical[word])[:8]
    words = ", ".join(word for word in top if typical[word] > 0)
    return [
        f"{described(region)}.",
        *(f"{row.heading}." for row in significance_rows(region)),
        f"{shown} Typical words: {words}" if words else shown,
    ]


def _line(
    who: str,
    classes: Classes,
    differing: int,
    item: Any,
    weigh: Weigh | None,
    typical: dict[str, float],
) -> _Line:
    words = words_of(item)
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
    scaled = [weight / largest if largest > 0 else 0.0 for weight in weights]
    pairs = tuple(zip(words[:_WORDS], scaled[:_WORDS], strict=True))
    differ = f"{differing} differ{'s' * (differing == 1)}"
    return _Line(who, classes, differ, pairs, len(words) > _WORDS)


def _as_text(heads: Sequence[str], lines: Sequence[_Line]) -> str:
    rows, width = [], max(len(line.who) for line in lines)
    for line in lines:
        label, prediction = line.classes
        classes = [] if label is None else [label]
        classes += [] if prediction is None else [f"→ {prediction}"]
        words = [
            f"*{word}*" if weight >= _MARKED else word for word, weight in line.words
        ]
        text = " ".join([*words, *(["…"] if line.is_cut else [])])
        parts = [
            f"{line.who:<{width}}",
            *([" ".join(classes)] if classes else []),
            line.differ,
        ]
        rows.append(" | ".join([*parts, text]))
    return "\n".join([*heads, *rows])


def _as_html(heads: Sequence[str], lines: Sequence[_Line]) -> str:
    rows = "".join(_html_row(line) for line in lines)
    named = "".join(
        f'<th scope="col" style="{_CELL}">{name}</th>'
        for name in ("Instance", "Label", "Prediction", "Neurons", "Text")
    )
    paragraphs = "".join(f"<p>{html.escape(head)}</p>" for head in heads)
    return (
        f"<div>{paragraphs}<table><thead><tr>{named}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _html_row(line: _Line) -> str:
    label, prediction = (html.escape(name or "") for name in line.classes)
    if line.classes.is_wrong:
        prediction = f'<b style="color:#D55E00">{prediction} (wrong)</b>'
    words = " ".join(_html_word(word, weight) for word, weight in line.words)
    cells = (label, prediction, line.differ, words + (" …" if line.is_cut else ""))
    tags = "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells)
    who = html.escape(line.who)
    return f'<tr><th scope="row" style="{_CELL}">{who}</th>{tags}</tr>'


def _html_word(word: str, weight: float) -> str:
    """A word on blue where it speaks for the concept, on orange where against it."""
    escaped = html.escape(word)
    if abs(weight) < 0.05:
        return escaped
    color = "0,114,178" if weight > 0 else "213,94,0"
    opacity = 0.55 * min(1.0, abs(weight))
    return (
        f'<mark style="background:rgba({color},{opacity:.2f});color:inherit">{escaped}'
        "</mark>"
    )
