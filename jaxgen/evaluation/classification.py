"""Figures of a classifier from its labels and probabilities, in NumPy: accuracy, F1, NLL, ROC.

N examples, C classes. Labels are class numbers, Int[N]; where an example may have several labels
at once ("multi-label") they are 0 or 1, Float[N, C], and a probability is one label's own.

A quotient without examples behind it (the recall of a class that does not occur, the precision of
one never predicted) is 0, as `zero_division=0` has it in scikit-learn, and means are over all C
classes. The area under a ROC curve is None there instead: 0 would say "always wrong".
"""

from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from jaxgen.errors import UserError
from jaxgen.types import Bool, Float, Int, Shaped

Labels = Int[np.ndarray, " N"] | Float[np.ndarray, "N C"]
"""Class numbers, or 0 and 1 for each label."""
Probabilities = Float[np.ndarray, "N C"]
Counts = Shaped[np.ndarray, "C C"] | Shaped[np.ndarray, "C 2 2"]
"""Rows are true classes, columns predicted ones; multi-label: such a 2x2 table for each label."""


def check_labels(labels: np.ndarray, scores: Probabilities) -> None:
    """Refuse labels that do not go with these logits or probabilities.

    Raises:
        UserError: There are no examples, shapes differ, a label is no class number (multi-label:
            neither 0 nor 1), or a score is not finite.
    """
    count, classes = scores.shape
    if not count:
        raise UserError("figures need at least one labelled example, got none")
    if labels.shape not in ((count,), (count, classes)):
        raise UserError(
            f"`labels` must have the shape [{count}] (multi-label: [{count}, {classes}]) "
            f"to go with the model's outputs, got {list(labels.shape)}"
        )
    if labels.ndim == 1 and (labels.min() < 0 or labels.max() >= classes):
        raise UserError(
            f"`labels` must be class numbers from 0 to {classes - 1}, "
            f"got numbers from {labels.min()} to {labels.max()}"
        )
    if labels.ndim == 2 and not np.isin(labels, (0, 1)).all():
        raise UserError("`labels` of several labels at once must be 0 or 1, got other numbers")
    if not np.isfinite(scores).all():
        row = int(np.argmin(np.isfinite(scores).all(axis=1)))
        raise UserError(
            f"the model's outputs must be finite, got {scores[row].tolist()} for example {row}; "
            "use a checkpoint from before the training diverged"
        )


def log_probabilities(
    logits: Float[np.ndarray, "N C"], *, multi_label: bool = False, temperature: float = 1.0
) -> Float[np.ndarray, "N C"]:
    """Log-softmax of `logits / temperature` (multi-label: log-sigmoid), in float64."""
    scaled = np.asarray(logits, np.float64) / temperature
    if multi_label:
        return -np.logaddexp(0.0, -scaled)
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))


def predictions(
    probabilities: Probabilities, *, multi_label: bool = False, threshold: float = 0.5
) -> Labels:
    """What is predicted, in the form of labels.

    Args:
        probabilities: Of each class or label.
        multi_label: Whether an example may have several labels.
        threshold: Least probability of a label that is given (multi-label), or of class 1 where
            there are two classes. With more classes the most probable one is predicted, the first
            of equals.
    """
    if multi_label:
        return (probabilities >= threshold).astype(np.float64)
    if probabilities.shape[1] == 2:
        return (probabilities[:, 1] >= threshold).astype(np.int64)
    return probabilities.argmax(axis=1)


def confusion_matrix(labels: Labels, predicted: Labels, num_classes: int) -> Counts:
    """How often each true class (row) was predicted as each class (column).

    Returns:
        Int[C, C]; multi-label: Int[C, 2, 2], for each label the rows "not there" and "there".
    """
    if labels.ndim == 1:
        pairs = labels.astype(np.int64) * num_classes + predicted
        return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    true, found = labels == 1, predicted == 1
    cells = [(~true & ~found), (~true & found), (true & ~found), (true & found)]
    return np.stack([cell.sum(axis=0) for cell in cells], axis=1).reshape(num_classes, 2, 2)


class ClassFigures(NamedTuple):
    """Figures of each class."""

    precision: Float[np.ndarray, " C"]
    recall: Float[np.ndarray, " C"]
    f1: Float[np.ndarray, " C"]
    support: Float[np.ndarray, " C"]
    """Examples of the class."""


def _hits(confusion: Counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right predictions of each class, all predictions of it, and its examples."""
    confusion = np.asarray(confusion, np.float64)
    if confusion.ndim == 3:
        return confusion[:, 1, 1], confusion[:, :, 1].sum(axis=1), confusion[:, 1].sum(axis=1)
    return np.diagonal(confusion), confusion.sum(axis=0), confusion.sum(axis=1)


def _divide(numerator: Any, denominator: Any) -> np.ndarray:
    """A quotient that is 0 where nothing was counted."""
    return np.where(denominator > 0, numerator / np.maximum(denominator, 1e-300), 0.0)


def class_figures(confusion: Counts) -> ClassFigures:
    """Precision, recall, F1 and support of each class."""
    right, predicted, support = _hits(confusion)
    return ClassFigures(
        precision=_divide(right, predicted),
        recall=_divide(right, support),
        f1=_divide(2 * right, predicted + support),
        support=support,
    )


def figures_from_confusion(confusion: Counts) -> dict[str, float]:
    """Accuracy and F1 from a confusion matrix, counts or sums of weights.

    Returns:
        `accuracy`, `f1_macro`, `f1_micro` and `f1_weighted`. Multi-label: `label_accuracy` in the
        place of `accuracy`, the share of right decisions on single labels; whether a whole row is
        right, the matrices do not tell.
    """
    right, predicted, support = _hits(confusion)
    f1 = class_figures(confusion).f1
    multi_label = np.ndim(confusion) == 3
    decided = np.trace(confusion, axis1=1, axis2=2).sum() if multi_label else right.sum()
    return {
        "label_accuracy" if multi_label else "accuracy": float(
            _divide(decided, np.sum(confusion, dtype=np.float64))
        ),
        "f1_macro": float(f1.mean()),
        "f1_micro": float(_divide(2 * right.sum(), predicted.sum() + support.sum())),
        "f1_weighted": float(_divide((f1 * support).sum(), support.sum())),
    }


def accuracy_interval(correct: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of an accuracy: where the true one lies, given `total` examples.

    It speaks of the examples drawn, not of the seeds of a training. Source: Wilson (1927),
    "Probable inference, the law of succession, and statistical inference".

    Raises:
        UserError: There are no examples.
    """
    if total < 1:
        raise UserError(f"`total` must be at least 1, got {total}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share, weight = correct / total, z * z / total
    centre = (share + weight / 2) / (1 + weight)
    half = z * (share * (1 - share) / total + weight / (4 * total)) ** 0.5 / (1 + weight)
    # At shares of 0 and 1 the formula gives 0 and 1, but for rounding.
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    return low, 1.0 if correct == total else min(1.0, centre + half)


def nll(labels: Labels, probabilities: Probabilities) -> float:
    """Mean negative log-likelihood in nats per example; multi-label: per example and label.

    Probabilities are clipped to [2^-52, 1 - 2^-52] as in scikit-learn's `log_loss`, so that one
    certain mistake costs 36 nats; from logits use `nll_of_logits`, which needs no clipping.
    """
    eps = np.finfo(np.float64).eps
    clipped = np.clip(np.asarray(probabilities, np.float64), eps, 1 - eps)
    if labels.ndim == 1:
        return float(-np.log(clipped[np.arange(len(labels)), labels]).mean())
    losses = -np.log(np.where(labels == 1, clipped, 1 - clipped))
    return float(losses.mean())


def nll_of_logits(
    labels: Labels, logits: Float[np.ndarray, "N C"], *, temperature: float = 1.0
) -> float:
    """`nll` from logits, without clipping."""
    if labels.ndim == 1:
        logs = log_probabilities(logits, temperature=temperature)
        return float(-logs[np.arange(len(labels)), labels].mean())
    # log(1 - sigmoid(x)) is log(sigmoid(-x)).
    signed = np.where(labels == 1, logits, -logits)
    logs = log_probabilities(signed, multi_label=True, temperature=temperature)
    return float(-logs.mean())


def brier(labels: Labels, probabilities: Probabilities) -> float:
    """Mean squared error of the probabilities (Brier, 1950), 0 at best.

    Two classes: of the probability of class 1, at most 1. More classes: summed over them, at most
    2. Multi-label: averaged over the labels, at most 1.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if labels.ndim == 2:
        return float(np.square(probabilities - labels).mean())
    if probabilities.shape[1] == 2:
        return float(np.square(probabilities[:, 1] - labels).mean())
    true = labels[:, None] == np.arange(probabilities.shape[1])
    return float(np.square(probabilities - true).sum(axis=1).mean())


class RocCurve(NamedTuple):
    """The points of a ROC curve, from (0, 0) to (1, 1)."""

    false_positive_rate: Float[np.ndarray, " M"]
    true_positive_rate: Float[np.ndarray, " M"]
    thresholds: Float[np.ndarray, " M"]
    """Scores of at least this are positive; the first is infinite."""

    @property
    def auc(self) -> float:
        """Area under it: how often a positive scores above a negative; equal scores count half."""
        return float(np.trapezoid(self.true_positive_rate, self.false_positive_rate))


def roc_curve(positive: Bool[np.ndarray, " N"], scores: Float[np.ndarray, " N"]) -> RocCurve | None:
    """The ROC curve of a score, one point for each different score.

    Returns:
        None where all examples are positive or none is: it is not defined then.
    """
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    order = np.argsort(-scores, kind="stable")
    ranked = np.asarray(scores[order], np.float64)
    # Examples of equal score are let in together: one slanted line, whatever their order.
    ends = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    true = np.cumsum(positive[order])[ends]
    false = ends + 1 - true
    return RocCurve(
        false_positive_rate=np.append(0.0, false / negatives),
        true_positive_rate=np.append(0.0, true / positives),
        thresholds=np.append(np.inf, ranked[ends]),
    )


def roc_curves(labels: Labels, probabilities: Probabilities) -> list[RocCurve | None]:
    """The ROC curve of each class against the rest; multi-label: of each label."""
    columns = range(probabilities.shape[1])
    if labels.ndim == 2:
        return [roc_curve(labels[:, c] == 1, probabilities[:, c]) for c in columns]
    return [roc_curve(labels == c, probabilities[:, c]) for c in columns]


def majority_figures(
    labels: Labels, num_classes: int, training_counts: Int[np.ndarray, " C"] | None = None
) -> dict[str, float]:
    """Accuracy and macro F1 of always predicting the commonest class.

    Args:
        labels: Of the examples that are scored.
        num_classes: C.
        training_counts: Training examples of each class, to choose the class by; by default it is
            the commonest of `labels`. Multi-label: not used; the commonest combination of labels
            is predicted.
    """
    if labels.ndim == 1:
        counts = training_counts
        if counts is None:
            counts = np.bincount(labels, minlength=num_classes)
        predicted = np.full_like(labels, np.argmax(counts))
    else:
        rows, counts = np.unique(labels, axis=0, return_counts=True)
        predicted = np.broadcast_to(rows[np.argmax(counts)], labels.shape)
    figures = figures_from_confusion(confusion_matrix(labels, predicted, num_classes))
    return {
        "accuracy": float(is_right(labels, predicted).mean()),
        "f1_macro": figures["f1_macro"],
    }


def is_right(labels: Labels, predicted: Labels) -> Bool[np.ndarray, " N"]:
    """Whether each example is predicted right; multi-label: all its labels and no other."""
    same = labels == predicted
    return same if labels.ndim == 1 else same.all(axis=1)
