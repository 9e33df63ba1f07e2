"""Minimum Bayes risk: of several texts the one that is most like what a model says.

Where samples of a model stand for its distribution, the text of the highest mean utility against
them is the best guess under that utility (Kumar & Byrne, 2004; Eikema & Aziz, 2020). chrF and
sentence BLEU of all pairs are products of matrices: each n-gram is counted once a text.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation.ngram_matches import ngram_matches
from jaxgen.types import Float

Utility = Callable[[str, str], float]
"""`utility(hypothesis, reference)`: how good it is, the higher the better."""


class MinimumRisk(NamedTuple):
    """What `minimum_bayes_risk` chose."""

    best: int
    """Number of the text of the highest utility; of equal ones the first."""
    utilities: Float[np.ndarray, "N"]
    """Mean utility of each text."""


def minimum_bayes_risk(
    texts: Sequence[str],
    utility: str | Utility = "chrf",
    *,
    references: Sequence[str] | None = None,
    weights: Any = None,
) -> MinimumRisk:
    """The text with the highest mean utility against all references.

    Args:
        texts: the N hypotheses; samples, with their repetitions, or those of a beam.
        utility: "chrf" (`chrf_of_pairs`), "bleu" (`bleu_of_pairs`), or a function of a hypothesis
            and a reference, called once for each pair of different texts.
        references: M texts that stand for what the model says, each as often as it was drawn;
            None: the hypotheses themselves.
        weights: of the references, [M], 0 or more: probabilities of texts that were not drawn by
            them; None: all alike.

    Raises:
        UserError: there is no text, no such utility, or the weights are not one a reference, 0 or
            more and above 0 together.
    """
    references = texts if references is None else references
    if not texts or not references:
        raise UserError("minimum Bayes risk needs at least one text and one reference, got none")
    if not callable(utility) and utility not in _OF_PAIRS:
        raise UserError(
            f"`utility` must be one of {', '.join(_OF_PAIRS)}, or a function of a text and a "
            f"reference, got {utility!r}"
        )
    given = np.ones(len(references)) if weights is None else np.asarray(weights, np.float64)
    if given.shape != (len(references),) or not (given >= 0).all() or not 0 < given.sum() < np.inf:
        raise UserError(
            f"`weights` must be one number for each of the {len(references)} references, 0 or "
            f"more and not all 0, got {weights}"
        )
    each, others = list(dict.fromkeys(texts)), list(dict.fromkeys(references))
    places = {text: place for place, text in enumerate(others)}
    shares = np.bincount([places[text] for text in references], weights=given)
    if callable(utility):
        pairs = np.array([[utility(text, other) for other in others] for text in each], np.float64)
    else:
        pairs = _OF_PAIRS[utility](each, others)
    means = dict(zip(each, pairs @ (shares / shares.sum()), strict=True))
    utilities = np.array([means[text] for text in texts])
    return MinimumRisk(int(utilities.argmax()), utilities)


def chrf_of_pairs(
    texts: Sequence[str], references: Sequence[str], *, max_order: int = 6, beta: float = 2.0
) -> Float[np.ndarray, "N M"]:
    """The chrF of each text against each reference, 0 to 100 (Popović, 2015).

    As sacreBLEU's sentence chrF: characters without white space, precision and recall averaged
    over the orders that both texts have.
    """
    precision = recall = orders = np.zeros((len(texts), len(references)))
    rows, columns = ([*map("".join, map(str.split, side))] for side in (texts, references))
    for order in range(1, max_order + 1):
        matches, count, wanted = ngram_matches(rows, columns, order)
        precision = precision + matches / np.maximum(count, 1)[:, None]
        recall = recall + matches / np.maximum(wanted, 1)
        orders = orders + ((count > 0)[:, None] & (wanted > 0))
    # The mean cancels but for its square: F is of the first degree in both.
    below = (beta**2 * precision + recall) * np.maximum(orders, 1)
    return 100 * (1 + beta**2) * precision * recall / np.where(below > 0, below, 1)


def bleu_of_pairs(
    texts: Sequence[str], references: Sequence[str], *, max_order: int = 4
) -> Float[np.ndarray, "N M"]:
    """Sentence BLEU of each text against each reference, 0 to 100, over words between blanks.

    As sacreBLEU's with `tokenize="none"`: an order without a match counts as half a match, a
    quarter for the next such order and so on ("exp"), and orders longer than the text are left out.
    """
    rows, columns = ([text.split() for text in side] for side in (texts, references))
    shape = (len(rows), len(columns))
    logs, missed, matched = np.zeros(shape), np.zeros(shape), np.zeros(shape, bool)
    lengths, wanted = (np.array([len(words) for words in side]) for side in (rows, columns))
    for order in range(1, max_order + 1):
        matches, count, _ = ngram_matches(rows, columns, order)
        missed += matches == 0
        found = np.where(matches > 0, matches, 0.5**missed) / np.maximum(count, 1)[:, None]
        logs += np.where((count > 0)[:, None], np.log(found), 0)
        matched |= matches > 0
    orders = np.clip(lengths, 1, max_order)[:, None]
    brevity = np.minimum(0, 1 - wanted / np.maximum(lengths, 1)[:, None])
    return np.where(matched, 100 * np.exp(logs / orders + brevity), 0)


_OF_PAIRS = {"chrf": chrf_of_pairs, "bleu": bleu_of_pairs}
