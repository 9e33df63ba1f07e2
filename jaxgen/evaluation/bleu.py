"""BLEU and Self-BLEU of generated texts by the field's convention, in NumPy.

The score of a text is NLTK's `sentence_bleu` with all references at once and smoothing method 1
(Papineni et al. 2002; Chen & Cherry 2014), that of several texts the mean, as in Texygen's tables
(Zhu et al. 2018). Each n-gram has a number of its own, made of that of the n-gram one shorter and
its last token, so that no two can be mistaken for each other.
"""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from jaxgen.errors import UserError
from jaxgen.types import Float, Int

_NO_MATCH = 0.1
"""What method 1 counts where no n-gram matches."""

Texts = Sequence[Sequence[Hashable]] | Sequence[np.ndarray] | np.ndarray
"""The tokens of each text: anything hashable, or integers in an array of the text's own length."""


def bleu(hypotheses: Texts, references: Texts, n: int) -> float:
    """BLEU of n-grams of 1 to n tokens with equal weights, the mean over the hypotheses.

    Each hypothesis scores what NLTK says: `sentence_bleu(references, hypothesis, [1 / n] * n,
    SmoothingFunction().method1)`.

    Args:
        hypotheses: the tokens of each text.
        references: those of each reference, all of which every hypothesis is compared with.
        n: length of the longest n-grams.

    Returns:
        0 to 1.

    Raises:
        UserError: there is no hypothesis or no reference, `n` is below 1, or a text is a str.
    """
    return bleus(hypotheses, references, n)[n]


def self_bleu(hypotheses: Texts, n: int) -> float:
    """`bleu` of each text with all others as its references: the higher, the less they differ.

    Takes and raises what `bleu` does; it needs two texts.
    """
    return self_bleus(hypotheses, n)[n]


def bleus(hypotheses: Texts, references: Texts, n_max: int = 5) -> dict[int, float]:
    """`bleu` of each n from 1 to `n_max`, in one pass."""
    return _means(sentence_bleus(hypotheses, references, n_max))


def self_bleus(hypotheses: Texts, n_max: int = 5) -> dict[int, float]:
    """`self_bleu` of each n from 1 to `n_max`, in one pass."""
    return _means(sentence_bleus(hypotheses, None, n_max))


def _means(scores: np.ndarray) -> dict[int, float]:
    return {n: float(row.mean()) for n, row in enumerate(scores, start=1)}


def sentence_bleus(
    hypotheses: Texts, references: Texts | None, n_max: int = 5
) -> Float[np.ndarray, "n N"]:
    """BLEU-1 to BLEU-`n_max` of each hypothesis; without references, against all others.

    Takes and raises what `bleu` does; without references it needs two hypotheses.
    """
    if n_max < 1:
        raise UserError(f"`n` must be at least 1 token, got {n_max}")
    texts = _lists("hypotheses", hypotheses)
    count = len(texts)
    if references is not None:
        texts += _lists("references", references)
    elif count < 2:
        raise UserError("Self-BLEU needs at least 2 texts, got 1; generate more")
    numbers: dict[Hashable, int] = {}
    tokens = np.array([numbers.setdefault(t, len(numbers)) for text in texts for t in text], int)
    lengths = np.array([len(text) for text in texts])
    owners = np.repeat(np.arange(len(texts)), lengths)
    left = np.cumsum(lengths)[owners] - np.arange(len(tokens))  # tokens from here to the text's end
    grams, places = tokens, np.arange(len(tokens))
    logs, scores = np.zeros(count), np.zeros((n_max, count))
    known = np.zeros(count, bool)
    for n in range(1, n_max + 1):
        if n > 1:
            kept = left[places] >= n
            places = places[kept]
            pairs = grams[kept] * len(numbers) + tokens[places + n - 1]
            grams = np.unique(pairs, return_inverse=True)[1]
        matches = _matches(grams, owners[places], count, among=references is None)
        known |= matches > 0  # as NLTK has it, a text of which no token matches scores 0
        grams_of_text = np.maximum(lengths[:count] - n + 1, 1)
        logs += np.log(np.where(matches > 0, matches, _NO_MATCH) / grams_of_text)
        scores[n - 1] = np.exp(logs / n)
    others = None if references is None else lengths[count:]
    return scores * known * _brevity_penalties(lengths[:count], others)


def _lists(name: str, texts: Texts) -> list[Sequence[Hashable]]:
    """Texts as lists of what a dict can hold."""
    lists: list[Any] = [text.tolist() if hasattr(text, "tolist") else text for text in texts]
    if not lists:
        raise UserError(f"`{name}` must hold at least one text, got none")
    wrong = next((text for text in lists if isinstance(text, str | bytes | int)), None)
    if wrong is not None:
        raise UserError(
            f"`{name}` must hold texts as lists of tokens, got {wrong!r}; divide each first, "
            "for example by `text.split()`"
        )
    return lists


def _matches(
    grams: Int[np.ndarray, "G"], owners: Int[np.ndarray, "G"], count: int, *, among: bool
) -> Float[np.ndarray, "N"]:
    """n-grams of each of the first `count` texts that references have, clipped.

    An n-gram counts at most as often as one reference has it: a text after the first `count`, or,
    `among` these, any other.
    """
    size = int(grams.max(initial=-1)) + 1
    entries, times = np.unique(owners * size + grams, return_counts=True)
    owner, gram = np.divmod(entries, max(size, 1))
    own = owner < count
    if among:
        order = np.lexsort((times, gram))
        last = np.flatnonzero(np.diff(gram[order], append=size))
        most = times[order[last]]
        next_most = np.where(np.bincount(gram) == 1, 0, times[order[last - 1]])
        limits = np.where(times == most[gram], next_most[gram], most[gram])
    else:
        most = np.zeros(size, int)
        np.maximum.at(most, gram[~own], times[~own])
        limits = most[gram]
    clipped = np.minimum(times, limits)[own]
    return np.bincount(owner[own], clipped, minlength=count).astype(np.float64)  # int if empty


def _brevity_penalties(
    lengths: Int[np.ndarray, "N"], references: Int[np.ndarray, "M"] | None
) -> Float[np.ndarray, "N"]:
    """exp(1 - r / h) of each text that is shorter than r, the length of the nearest reference.

    Of two that are equally near, the shorter. Without references, the others are meant.
    """
    known, times = np.unique(lengths if references is None else references, return_counts=True)
    penalties = np.zeros(len(lengths))
    for length in np.unique(lengths[lengths > 0]):
        others = known if references is not None else known[(known != length) | (times > 1)]
        nearest = others[np.argmin(np.abs(others - length))]  # the first, which is the shorter
        penalties[lengths == length] = np.exp(min(1 - nearest / length, 0))
    return penalties
