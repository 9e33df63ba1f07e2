"""All figures of a classifier on one set of examples, as plain numbers for JSON."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgen.errors import UserError
from jaxgen.evaluation.calibration import reliability
from jaxgen.evaluation.classification import (
    Labels,
    accuracy_interval,
    brier,
    check_labels,
    class_figures,
    confusion_matrix,
    figures_from_confusion,
    is_right,
    log_probabilities,
    majority_figures,
    nll_of_logits,
    predictions,
    roc_curves,
)
from jaxgen.types import Float, Int


def report(
    labels: Labels,
    logits: Float[np.ndarray, "N C"],
    names: Sequence[str],
    multi_label: bool = False,
    threshold: float = 0.5,
    temperature: float = 1.0,
    training_counts: Int[np.ndarray, " C"] | None = None,
) -> dict[str, Any]:
    """Measure a classifier.

    Args:
        labels: Class numbers; 0 and 1 if `multi_label`.
        logits: As the model gives them.
        names: Of the classes, in the order of the columns.
        multi_label: Whether an example may have several labels.
        threshold: As in `predictions`.
        temperature: The logits are divided by it.
        training_counts: As in `majority_figures`.

    Returns:
        `examples`; `accuracy` (multi-label: all labels of an example right) with its 95 %
        `accuracy_interval`; `label_accuracy` if multi-label; `f1_macro`, `f1_micro`,
        `f1_weighted`; `nll` in nats; `ece` over 15 bins; `brier`; `auc` of class 1
        where there are two, else `auc_macro`, the mean over the classes that have one;
        `majority_accuracy`; `per_class`: name -> precision, recall, f1, support, auc; `confusion`;
        `reliability`, the bins of the ECE.
        An AUC is None where it is undefined; nothing is ever NaN.

    Raises:
        UserError: Labels, names and logits do not go together.
    """
    check_labels(labels, logits)
    if multi_label != (labels.ndim == 2) or len(names) != logits.shape[1]:
        raise UserError(
            f"`labels`, `names` and `logits` must go together, got labels {list(labels.shape)}, "
            f"{len(names)} names and logits {list(logits.shape)} with multi_label={multi_label}"
        )
    probabilities = np.exp(
        log_probabilities(logits, multi_label=multi_label, temperature=temperature)
    )
    predicted = predictions(probabilities, multi_label=multi_label, threshold=threshold)
    right = int(is_right(labels, predicted).sum())
    confusion = confusion_matrix(labels, predicted, len(names))
    areas = [curve and curve.auc for curve in roc_curves(labels, probabilities)]
    known = [area for area in areas if area is not None]
    calibration = reliability(labels, probabilities)
    binary = not multi_label and len(names) == 2
    per_class = class_figures(confusion)
    return {
        "examples": len(labels),
        "accuracy": right / len(labels),
        "accuracy_interval": list(accuracy_interval(right, len(labels))),
        **{k: v for k, v in figures_from_confusion(confusion).items() if k != "accuracy"},
        "nll": nll_of_logits(labels, logits, temperature=temperature),
        "ece": calibration.ece,
        "brier": brier(labels, probabilities),
        **(
            {"auc": areas[1]}
            if binary
            else {"auc_macro": sum(known) / len(known) if known else None}
        ),
        "majority_accuracy": majority_figures(labels, len(names), training_counts)["accuracy"],
        "per_class": {
            name: {
                "precision": float(per_class.precision[c]),
                "recall": float(per_class.recall[c]),
                "f1": float(per_class.f1[c]),
                "support": int(per_class.support[c]),
                "auc": areas[c],
            }
            for c, name in enumerate(names)
        },
        "confusion": confusion.tolist(),
        "reliability": {name: x.tolist() for name, x in calibration._asdict().items()},
    }
