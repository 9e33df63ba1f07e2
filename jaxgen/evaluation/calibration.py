"""Whether a classifier's probabilities can be believed: reliability, temperature, threshold."""

from typing import NamedTuple

import numpy as np

from jaxgen.errors import UserError
from jaxgen.evaluation.classification import Labels, Probabilities, check_labels, log_probabilities
from jaxgen.types import Float, Int

_TEMPERATURES = (0.05, 20.0)
"""Between these a temperature is sought: without mistakes, the likelihood asks for 0."""


class Reliability(NamedTuple):
    """How often predictions are right, by how sure the model was; 0 in bins without examples."""

    edges: Float[np.ndarray, " K+1"]
    """Bin k holds confidences in (edges[k], edges[k + 1]]."""
    counts: Int[np.ndarray, " K"]
    confidence: Float[np.ndarray, " K"]
    """Mean confidence of a bin."""
    accuracy: Float[np.ndarray, " K"]
    """Share of right predictions in a bin."""

    @property
    def ece(self) -> float:
        """Expected calibration error: mean distance of accuracy and confidence, by examples."""
        return float(np.average(np.abs(self.accuracy - self.confidence), weights=self.counts))


def reliability(labels: Labels, probabilities: Probabilities, bins: int = 15) -> Reliability:
    """Sort predictions into bins of equal width by the probability of what is predicted.

    The prediction is the most probable class, whatever threshold is in use; multi-label: each
    label is a decision of its own between `p` and `1 - p`. Source: Guo et al. (2017), "On
    calibration of modern neural networks".

    Raises:
        UserError: Labels that do not go with the probabilities.
    """
    check_labels(labels, probabilities)
    probabilities = np.asarray(probabilities, np.float64)
    if labels.ndim == 2:
        top = np.maximum(probabilities, 1 - probabilities).ravel()
        right = ((probabilities >= 0.5) == (labels == 1)).ravel()
    else:
        top = probabilities.max(axis=1)
        right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0.0, 1.0, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], top)
    counts = np.bincount(bin_of, minlength=bins)
    divisor = np.maximum(counts, 1)
    return Reliability(
        edges=edges,
        counts=counts,
        confidence=np.bincount(bin_of, top, bins) / divisor,
        accuracy=np.bincount(bin_of, right, bins) / divisor,
    )


def fit_temperature(labels: Labels, logits: Float[np.ndarray, "N C"]) -> float:
    """The temperature T that makes `logits / T` most likely; fit it on validation examples.

    The mean negative log-likelihood is convex in 1/T, so the zero of its slope is found by
    bisection: deterministic, to ten digits. T changes no prediction at a threshold of 0.5. Source:
    Guo et al. (2017), "On calibration of modern neural networks".

    Returns:
        T, between 0.05 and 20; 1 where the logits say nothing.

    Raises:
        UserError: Labels that do not go with the logits.
    """
    check_labels(labels, logits)
    logits = np.asarray(logits, np.float64)
    multi_label = labels.ndim == 2
    if not multi_label:
        logits = logits - logits.max(axis=1, keepdims=True)
    if not logits.any():
        return 1.0
    true = labels if multi_label else labels[:, None] == np.arange(logits.shape[1])
    wanted = float((true * logits).sum())

    def slope(log_inverse: float) -> float:
        temperature = float(np.exp(-log_inverse))
        logs = log_probabilities(logits, multi_label=multi_label, temperature=temperature)
        return float((np.exp(logs) * logits).sum()) - wanted

    low, high = (-float(np.log(t)) for t in reversed(_TEMPERATURES))
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


class Threshold(NamedTuple):
    """The best threshold, and what it reaches."""

    threshold: float
    value: float
    """Accuracy; multi-label: micro F1."""


def best_threshold(labels: Labels, probabilities: Probabilities) -> Threshold:
    """The threshold that is best on these examples: of validation, never of the test.

    Two classes: the least probability of class 1 at which it is predicted, for the best accuracy.
    Multi-label: the one threshold of all labels for the best micro F1. It lies midway between two
    probabilities that occur (or 0, or 1), of equally good ones nearest to 0.5.

    Raises:
        UserError: There are more than two classes, or the labels do not go with the probabilities.
    """
    check_labels(labels, probabilities)
    if labels.ndim == 1 and probabilities.shape[1] != 2:
        raise UserError(
            "`threshold` is for two classes or several labels at once, got "
            f"{probabilities.shape[1]} classes, of which the most probable is predicted"
        )
    scores = (probabilities if labels.ndim == 2 else probabilities[:, 1]).ravel()
    positive = (labels == 1).ravel()
    values, value_of = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    # Cut k predicts `values[k:]` as positive: all of them at first, none at last.
    found = np.bincount(value_of, positive)[::-1].cumsum()[::-1]
    true_positives = np.append(found, 0.0)
    taken = np.append(np.bincount(value_of)[::-1].cumsum()[::-1], 0)
    false_positives = taken - true_positives
    if labels.ndim == 2:
        figure = 2 * true_positives / np.maximum(taken + positive.sum(), 1)
    else:
        true_negatives = (~positive).sum() - false_positives
        figure = (true_positives + true_negatives) / len(positive)
    below, above = np.append(0.0, values), np.append(values, 1.0)
    middle = (below + above) / 2
    # Between neighbouring floats there is none: the upper one itself is the threshold.
    thresholds = np.where(middle > below, middle, above)
    usable = (thresholds > 0) & (thresholds < 1)
    best = np.flatnonzero(usable & (figure == figure[usable].max()))
    chosen = best[np.argmin(np.abs(thresholds[best] - 0.5))]
    return Threshold(float(thresholds[chosen]), float(figure[chosen]))
