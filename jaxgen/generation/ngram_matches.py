"""n-grams that texts share, for all pairs of some texts: a product of matrices."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from jaxgen.types import Float, Int

_BLOCK = 4096
"""Columns of the matrices that are multiplied in one go."""


def occurrences(text: Sequence[Hashable], order: int = 1) -> list[tuple[Hashable, int]]:
    """Each n-gram of a text with how often it came before.

    Repeated n-grams so are different ones, and the matches of two texts, clipped to the smaller
    count, those of two sets.
    """
    seen: Counter[Hashable] = Counter()
    found = []
    for place in range(len(text) - order + 1):
        gram: Any = text[place : place + order]
        gram = gram if isinstance(gram, str) else tuple(gram)
        found.append((gram, seen[gram]))
        seen[gram] += 1
    return found


def ngram_matches(
    rows: Sequence[Sequence[Hashable]], columns: Sequence[Sequence[Hashable]], order: int
) -> tuple[Float[np.ndarray, "N M"], Int[np.ndarray, "N"], Int[np.ndarray, "M"]]:
    """n-grams that each row shares with each column, clipped; the n-grams of each."""
    ids: dict[tuple[Hashable, int], int] = {}
    sides, counts = [], []
    for texts in (rows, columns):
        grams = [
            np.array([ids.setdefault(gram, len(ids)) for gram in occurrences(text, order)], int)
            for text in texts
        ]
        count = np.array([len(numbers) for numbers in grams])
        number, text = np.concatenate(grams), np.repeat(np.arange(len(texts)), count)
        by_gram = np.argsort(number, kind="stable")
        sides.append((number[by_gram], text[by_gram], len(texts)))
        counts.append(count)
    matches = np.zeros((len(rows), len(columns)))
    for begin in range(0, len(ids), _BLOCK):
        blocks = []
        for number, text, size in sides:
            part = slice(*np.searchsorted(number, [begin, begin + _BLOCK]))
            block = np.zeros((size, min(_BLOCK, len(ids) - begin)), np.float32)
            block[text[part], number[part] - begin] = 1
            blocks.append(block)
        matches += blocks[0] @ blocks[1].T
    return matches, counts[0], counts[1]
