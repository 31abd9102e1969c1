"""Which words set the members' texts apart."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor


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

    >>> import torch
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
