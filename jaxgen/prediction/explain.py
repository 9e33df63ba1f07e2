"""The words that decided a prediction, by occlusion: what changes where a word is taken out.

Source: Zeiler & Fergus (2014), section 4.2, and Li, Monroe & Jurafsky (2016), "Understanding Neural
Networks through Representation Erasure": the importance of a word is the change of the log-odds.
Here the word is taken out of the text itself, before it is cleaned and encoded, and not out of the
tokens, so that the weights are those of the words that people see.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxgen.prediction.predictions import Prediction
from jaxgen.types import Float

Span = tuple[int, int]

_TAG = re.compile(r"<[/!]?[A-Za-z][^<>]*>")
_WORD = re.compile(r"\S+")
_MARGIN = 64
"""Tokens that are kept beyond what the model reads of a long text: as a word is taken out, others
take its place."""


@dataclass(frozen=True)
class Explanation:
    """What each word of a text did for a label."""

    text: str
    spans: tuple[Span, ...]
    """Where the words are: `text[start:stop]`."""
    weights: Float[np.ndarray, " N"]
    """Log-odds of the label in nats, less the same without the word: above 0 a word speaks for the
    label, below 0 against it; 0 for words beyond what the model reads of a long text."""
    label: str
    """What is explained."""
    prediction: Prediction

    @property
    def words(self) -> tuple[str, ...]:
        """The words themselves."""
        return tuple(self.text[start:stop] for start, stop in self.spans)


def word_spans(text: str, tags: bool = False) -> list[Span]:
    """Where the words of a text are, apart by white space.

    Args:
        text: any text.
        tags: HTML tags are no words; they stand between words as blanks do.
    """
    if tags:
        text = _TAG.sub(lambda tag: " " * len(tag[0]), text)
    return [found.span() for found in _WORD.finditer(text)]


def without(text: str, span: Span) -> str:
    """A text without one word and the white space behind it (before it, where it is the last)."""
    start, stop = span
    rest = text[stop:].lstrip()
    return text[:start] + rest if rest else text[:start].rstrip()


def read_part(
    text: str, spans: Sequence[Span], count: Callable[[str], int], max_length: int, keep: str
) -> tuple[str, dict[int, Span]]:
    """Of a long text what the model reads, and some words more.

    To take out a word of at most 64 tokens changes what the model reads of this part exactly as it
    does of the whole text, and a text of a megabyte need not be encoded once for each of its words.

    Args:
        text: the text.
        spans: its words.
        count: tokens of a text, uncut.
        max_length: tokens that the model reads.
        keep: which of them.

    Returns:
        The part, and where the words in it are by their number in `spans`.
    """
    words = len(spans)
    needed = max_length + _MARGIN

    def head(number: int) -> str:
        return text[: spans[number - 1][1]]

    def tail(number: int) -> str:
        return text[spans[words - number][0] :]

    def enough(part: Callable[[int], str]) -> int:
        number = needed
        while number < words and count(part(number)) < needed:
            number *= 2
        return number

    first = 0 if keep == "end" else enough(head)
    last = 0 if keep == "start" else enough(tail)
    if first + last >= words:
        return text, dict(enumerate(spans))
    begin = head(first) + " " if first else ""
    moved = len(begin) - spans[words - last][0] if last else 0
    kept = {i: spans[i] for i in range(first)}
    for i in range(words - last, words):
        kept[i] = (spans[i][0] + moved, spans[i][1] + moved)
    return begin + (tail(last) if last else ""), kept


def occlusion_weights(
    text: str,
    kept: dict[int, Span],
    words: int,
    log_odds: Callable[[Iterable[str]], Float[np.ndarray, " M"]],
) -> Float[np.ndarray, " N"]:
    """The weight of each word, see `Explanation`.

    Args:
        text: what the model reads of the text.
        kept: where words are in it, by their number.
        words: all words of the text.
        log_odds: of the label, for each of some texts.
    """
    weights = np.zeros(words)
    if kept:
        found = log_odds(text if i < 0 else without(text, kept[i]) for i in (-1, *kept))
        weights[list(kept)] = found[0] - found[1:]
    return weights
