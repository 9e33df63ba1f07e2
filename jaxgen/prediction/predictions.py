"""From logits to predictions: temperature, probabilities, thresholds, labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxgen.data.labels import LabelSet
from jaxgen.errors import UserError
from jaxgen.types import Float


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one text."""

    label: str
    """Of two classes the second where its probability reaches the threshold; of more the likeliest;
    of several labels at once the likeliest, whether or not it reaches the threshold."""
    labels: tuple[str, ...]
    """Of several labels at once all that reach the threshold, or none; else `label` alone."""
    probability: float
    """Of `label`."""
    probabilities: dict[str, float]
    """Of each label, in the order of the model. They sum to 1 unless a text has several labels."""


def probabilities_of(
    logits: Float[np.ndarray, "N C"], multi_label: bool, temperature: float = 1.0
) -> Float[np.ndarray, "N C"]:
    """Softmax of `logits / temperature`, or where a text has several labels its sigmoid; float64.

    Source: Guo et al. (2017), "On Calibration of Modern Neural Networks", for the temperature.
    """
    scores = logits.astype(np.float64) / temperature
    if multi_label:
        return np.exp(-np.logaddexp(0.0, -scores))
    shifted = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def log_odds_of(
    logits: Float[np.ndarray, "N C"], label: int, multi_label: bool, temperature: float = 1.0
) -> Float[np.ndarray, " N"]:
    """log(p / (1 - p)) of one label in nats; exact where p rounds to 1."""
    scores = logits.astype(np.float64) / temperature
    if multi_label:
        return scores[:, label]
    others = np.delete(scores, label, axis=1)
    return scores[:, label] - np.logaddexp.reduce(others, axis=1)


def predictions_of(
    probabilities: Float[np.ndarray, "N C"], labels: LabelSet, threshold: float
) -> list[Prediction]:
    """A prediction for each row. The threshold is of no use among three classes or more."""
    names = labels.names
    if len(names) == 2 and not labels.multi_label:
        chosen = (probabilities[:, 1] >= threshold).astype(np.int64)
    else:
        chosen = probabilities.argmax(axis=1)
    predictions = []
    for row, index in zip(probabilities.tolist(), chosen.tolist(), strict=True):
        own: tuple[str, ...] = (names[index],)
        if labels.multi_label:
            own = tuple(name for name, p in zip(names, row, strict=True) if p >= threshold)
        by_name = dict(zip(names, row, strict=True))
        predictions.append(Prediction(names[index], own, row[index], by_name))
    return predictions


def check_threshold(threshold: float | None, labels: LabelSet) -> None:
    """UserError for a threshold that is no probability, or that this kind of model has no use for.

    None is a threshold that nobody asked for.
    """
    if threshold is None:
        return
    if not 0 <= threshold <= 1:
        raise UserError(
            f"`threshold` must be a probability in [0, 1], got {threshold}; 0.5 takes the likelier "
            "of two classes"
        )
    if len(labels.names) > 2 and not labels.multi_label:
        raise UserError(
            f"`threshold` is for two classes, or for several labels at once, and this model tells "
            f"{len(labels.names)} classes apart and takes the likeliest; leave it out"
        )


def check_temperature(temperature: float) -> None:
    """UserError for a temperature that logits cannot be divided by."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise UserError(f"`temperature` must be more than 0, got {temperature}; 1 changes nothing")


def index_of(label: str, names: Sequence[str]) -> int:
    """The place of a label; UserError where the model has none of that name."""
    if label not in names:
        raise UserError(f"`label` must be one of {', '.join(names)}, got {label!r}; choose one")
    return list(names).index(label)
