"""How much of a generated text was copied: longest copied span, novel n-grams, distinct-n.

Spans are found by rolling hashes in NumPy: one pass over the corpus tells which spans of one length
occur in it, so the longest takes a binary search. Every hit is compared token by token; a hash
that collides costs time, never a wrong answer.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgen.errors import UserError

_BLOCK = 1 << 20
"""Places of the corpus looked at in one go."""
_TABLE_BITS = 22
"""Size of the first sieve: a bit for each value of the hash's upper bits."""


class Copy(NamedTuple):
    """The longest span that a text shares with the corpus."""

    length: int
    """In tokens; 0 if it shares none."""
    start: int
    """Where it begins in the text."""
    corpus_start: int
    """Where it first occurs in the corpus."""


class Memorisation(NamedTuple):
    """What `memorisation` measures."""

    copies: list[Copy]
    """The longest copied span of each text."""
    novel: dict[int, float]
    """n -> share of the texts' n-grams that do not occur in the corpus; NaN without n-grams."""
    distinct: dict[int, float]
    """n -> different n-grams over all n-grams of the texts (Li et al., 2016)."""

    @property
    def longest(self) -> int:
        """Length of the longest copied span of all texts."""
        return max((copy.length for copy in self.copies), default=0)


class CorpusIndex:
    """A corpus prepared for looking up spans of any length."""

    def __init__(self, corpus: Any):
        """Hash a corpus of token ids, one dimension, any integer type; 18 bytes a token."""
        self.corpus = np.asarray(corpus)
        if self.corpus.ndim != 1 or self.corpus.dtype.kind not in "iu" or not self.corpus.size:
            raise UserError(
                "`corpus` must be token ids in one dimension, at least one, got "
                f"{self.corpus.dtype}{list(self.corpus.shape)}"
            )
        rng = np.random.default_rng(0)
        self._values = rng.integers(1 << 63, size=int(self.corpus.max()) + 2, dtype=np.uint64)
        self._base = np.uint64(int(rng.integers(1 << 60)) * 8 + 5)
        self._prefix, self._inverse = self._hash(self.corpus)

    def _hash(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Prefix sums of `value * base^place`, and `base^-place`, modulo 2^64."""
        inverse = np.uint64(pow(int(self._base), -1, 1 << 64))
        powers, inverses = (
            np.cumprod(np.concatenate([[np.uint64(1)], np.full(len(tokens), base)]))
            for base in (self._base, inverse)
        )
        terms = self._values[tokens] * powers[:-1]
        return np.concatenate([[np.uint64(0)], np.cumsum(terms, dtype=np.uint64)]), inverses

    @staticmethod
    def _ngram_hashes(prefix: np.ndarray, inverse: np.ndarray, n: int, begin: int, end: int) -> Any:
        """Hashes of the n-grams that begin in [begin, end), wherever they stand."""
        return (prefix[begin + n : end + n] - prefix[begin:end]) * inverse[begin:end]

    def find(self, tokens: Any, n: int) -> np.ndarray:
        """Where each n-gram of `tokens` first occurs in the corpus; -1 where it does not."""
        # A token that the corpus has not gets a value of its own, the last one.
        tokens = np.asarray(tokens, np.int64)
        known = np.where((tokens < 0) | (tokens >= len(self._values) - 1), -1, tokens)
        count = len(tokens) - n + 1
        found = np.full(max(count, 0), -1)
        if count <= 0 or n > len(self.corpus):
            return found
        wanted = self._ngram_hashes(*self._hash(known), n, 0, count)
        unique, members = np.unique(wanted, return_inverse=True)
        first = np.full(len(unique), -1)
        example = np.zeros(len(unique), np.int64)
        example[members[::-1]] = np.arange(count)[::-1]
        shift = np.uint64(64 - _TABLE_BITS)
        sieve = np.zeros(1 << _TABLE_BITS, bool)
        sieve[unique >> shift] = True
        total = len(self.corpus) - n + 1
        for begin in range(0, total, _BLOCK):
            end = min(begin + _BLOCK, total)
            hashes = self._ngram_hashes(self._prefix, self._inverse, n, begin, end)
            places = np.flatnonzero(sieve[hashes >> shift])
            slots = np.minimum(np.searchsorted(unique, hashes[places]), len(unique) - 1)
            hits = (unique[slots] == hashes[places]) & (first[slots] < 0)
            slots, which = np.unique(slots[hits], return_index=True)
            for slot, place in zip(slots, places[hits][which] + begin, strict=True):
                start = example[slot]
                if np.array_equal(self.corpus[place : place + n], tokens[start : start + n]):
                    first[slot] = place
            if (first >= 0).all():
                break
        return first[members]

    def find_all(self, texts: Sequence[Any], n: int) -> list[np.ndarray]:
        """`find` for several texts, in one pass over the corpus."""
        # Between two texts stands a token that the corpus has not: no n-gram across it is found.
        line = np.concatenate(
            [[-1], *(np.append(np.asarray(text, np.int64), -1) for text in texts)]
        )
        found = self.find(line, n)
        begins = np.cumsum([1, *(len(text) + 1 for text in texts)])
        return [
            found[begin : begin + max(len(text) - n + 1, 0)]
            for begin, text in zip(begins, texts, strict=False)
        ]

    def longest_copies(self, texts: Sequence[Any]) -> list[Copy]:
        """The longest span of each text that occurs in the corpus."""
        best = [Copy(0, 0, 0)] * len(texts)
        high = [min(len(text), len(self.corpus)) for text in texts]
        while any(copy.length < most for copy, most in zip(best, high, strict=True)):
            # Double while spans are found, then halve what is left: spans are short. Texts that
            # have come to the same length share a pass.
            waiting: dict[int, list[int]] = {}
            for i, (copy, most) in enumerate(zip(best, high, strict=True)):
                if copy.length < most:
                    n = 2 * copy.length + 8
                    n = n if n < most else (copy.length + most + 1) // 2
                    waiting.setdefault(n, []).append(i)
            for n, group in waiting.items():
                for i, found in zip(
                    group, self.find_all([texts[i] for i in group], n), strict=True
                ):
                    place = int(np.argmax(found >= 0))
                    if found[place] >= 0:
                        best[i] = Copy(n, place, int(found[place]))
                    else:
                        high[i] = n - 1
        return best


def distinct(texts: Sequence[Any], n: int) -> float:
    """Different n-grams over all n-grams of some texts; NaN where there are none."""
    grams = [tuple(text[i : i + n]) for text in map(list, texts) for i in range(len(text) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def memorisation(
    texts: Sequence[Any], corpus: Any, ns: Sequence[int] = (1, 2, 3, 4, 8)
) -> Memorisation:
    """Compare generated texts with the corpus they were learnt from.

    Args:
        texts: token ids of each text, without the prompt.
        corpus: token ids of the training text, or a `CorpusIndex` of it.
        ns: lengths of the n-grams.

    Raises:
        UserError: the corpus is not a line of token ids.
    """
    index = corpus if isinstance(corpus, CorpusIndex) else CorpusIndex(corpus)
    arrays = [np.asarray(text) for text in texts]
    novel = {}
    for n in ns:
        found = np.concatenate(index.find_all(arrays, n) or [np.zeros(0, int)])
        novel[n] = float(np.mean(found < 0)) if found.size else float("nan")
    return Memorisation(index.longest_copies(arrays), novel, {n: distinct(texts, n) for n in ns})
