"""How well texts keep to the labels that were asked for, and at what price, in NumPy.

Texts come with what two other models say of them: a classifier the label of each, a language model
the log-probability of each token. What is undefined, such as the recall of a label without texts,
is None, so that everything can be written as JSON. Words are what stands between blanks, whatever
a model's tokenizer, so that models of different tokenizers compare.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgen.evaluation.memorisation import CorpusIndex, distinct
from jaxgen.evaluation.perplexity import perplexity
from jaxgen.types import Float, Int

COPIED_WORDS = 8
"""A text with a longer span of words out of a training text counts as copied."""
MOST_COPIED = 0.05
"""Target: the share of texts that may be copied."""
MOST_PERPLEXITY = 1.1
"""Target: the perplexity over that of texts written without guidance."""
LEAST_DISTINCT = 0.5
"""Target: distinct-2 over that of as many real texts, which must be exceeded."""


class Judged(NamedTuple):
    """Texts and what is said of them."""

    texts: Sequence[str]
    labels: Int[np.ndarray, " N"]
    """The number of the label that was asked for, or that a real text has."""
    predicted: Int[np.ndarray, " N"]
    """The classifier's; -1 for a text that is empty."""
    logprobs: Sequence[Float[np.ndarray, "_"]]
    """Nats of each token of each text, under the judging language model."""


def label_shares(
    labels: Int[np.ndarray, " N"], predicted: Int[np.ndarray, " N"], count: int
) -> list[float | None]:
    """Of the texts of each label, the share that is predicted to have it; None without texts."""
    totals = np.bincount(labels, minlength=count)
    right = np.bincount(labels[labels == predicted], minlength=count)
    return [int(r) / int(n) if n else None for r, n in zip(right, totals, strict=True)]


def mean_share(shares: Sequence[float | None]) -> float | None:
    """The mean over the labels that have texts."""
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def joint_perplexity(logprobs: Sequence[Float[np.ndarray, "_"]]) -> float | None:
    """Perplexity of a token, over all tokens of all texts; None without tokens.

    A text counts by its tokens: the mean of texts' own perplexities would be led by short ones.
    """
    count = sum(map(len, logprobs))
    total = sum(float(np.sum(x, dtype=np.float64)) for x in logprobs)
    return perplexity(-total / count) if count else None


class TrainingWords:
    """Training texts as words, to look up what was copied from them."""

    def __init__(self, texts: Sequence[str]):
        """Number the words of the texts; 0 stands between two texts, so that no span crosses."""
        self._numbers: dict[str, int] = {}
        corpus = [0]
        for text in texts:
            corpus += [self._numbers.setdefault(w, len(self._numbers) + 1) for w in text.split()]
            corpus.append(0)
        self._index = CorpusIndex(np.asarray(corpus, np.int32))

    def longest_copies(self, texts: Sequence[str]) -> Int[np.ndarray, " N"]:
        """Words of the longest span of each text that stands in one training text."""
        # -1 is a word that no training text has.
        lines = [[self._numbers.get(word, -1) for word in text.split()] for text in texts]
        copies = self._index.longest_copies([np.asarray(line, np.int64) for line in lines])
        return np.asarray([copy.length for copy in copies], np.int64)


def distinct_words(texts: Sequence[str], count: int, seed: int) -> dict[str, float | None]:
    """`distinct_1` and `distinct_2` of so many of the texts, drawn by the seed.

    The more texts, the fewer of their n-grams are different, so only equal numbers compare.
    """
    drawn = np.random.default_rng(seed % 2**32).permutation(len(texts))[:count]
    words = [texts[row].split() for row in drawn.tolist()]
    found = {f"distinct_{n}": distinct(words, n) for n in (1, 2)}
    return {name: None if np.isnan(value) else value for name, value in found.items()}


def text_figures(judged: Judged, names: Sequence[str], training: TrainingWords) -> dict[str, Any]:
    """All figures of some texts but distinct-n.

    Returns:
        `texts`; `accuracy`, the mean of `per_label`, name -> share of the label's texts that are
        predicted to have it (of real texts the recall); `perplexity` by the judging model, the ends
        of texts not counted; `copied`, the share of texts with a span of more than 8 words out of a
        training text, and `longest_copy` in words; `mean_words` of a text; `empty` texts, which
        have no prediction.
    """
    shares = label_shares(judged.labels, judged.predicted, len(names))
    copies = training.longest_copies(judged.texts)
    lengths = [len(text.split()) for text in judged.texts]
    return {
        "texts": len(lengths),
        "accuracy": mean_share(shares),
        "per_label": dict(zip(names, shares, strict=True)),
        "perplexity": joint_perplexity(judged.logprobs),
        "copied": float(np.mean(copies > COPIED_WORDS)) if lengths else None,
        "longest_copy": int(copies.max(initial=0)),
        "mean_words": float(np.mean(lengths)) if lengths else None,
        "empty": lengths.count(0),
    }


def unguided_perplexity(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The lower perplexity of strengths 0 (no label) and 1 (plain conditioning), among the rows."""
    found = [row["perplexity"] for row in rows if row["strength"] in (0, 1)]
    return None if None in found else min(found, default=None)


def targets_met(figures: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, bool]:
    """Which targets the texts of one strength reach.

    Args:
        figures: `real`, the figures of real texts, and `strengths`, those of each strength, 0 and 1
            among them.
        row: one of the strengths.

    Returns:
        `accuracy`: at least the classifier's own recall of real texts. `perplexity`: at most 1.1
        times `unguided_perplexity`. `distinct_2`: above half that of as many real texts.
        `copied`: at most 5 % of the texts. What is undefined reaches nothing.
    """
    real = figures["real"]
    return {
        "accuracy": _number(row["accuracy"]) >= _number(real["accuracy"]),
        "perplexity": _number(row["perplexity"])
        <= MOST_PERPLEXITY * _number(unguided_perplexity(figures["strengths"])),
        "distinct_2": _number(row["distinct_2"]) > LEAST_DISTINCT * _number(real["distinct_2"]),
        "copied": _number(row["copied"]) <= MOST_COPIED,
    }


def _number(value: float | None) -> float:
    """NaN, of which every comparison is false, for what is undefined."""
    return float("nan") if value is None else value


def strengths_that_meet(figures: Mapping[str, Any]) -> list[float]:
    """The strengths whose texts reach all targets, see `targets_met`."""
    rows = figures["strengths"]
    return [row["strength"] for row in rows if all(targets_met(figures, row).values())]
