"""confusion.png, roc.png and calibration.png of a classifier, where matplotlib is installed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.evaluation.calibration import Reliability, reliability
from jaxgen.evaluation.classification import (
    Labels,
    check_labels,
    confusion_matrix,
    log_probabilities,
    predictions,
    roc_curves,
)
from jaxgen.evaluation.classification_tables import shorten
from jaxgen.evaluation.pictures import (
    BLUE,
    GREY,
    PALE,
    RED,
    can_draw,
    new_figure,
    plain_names,
    save_figure,
)
from jaxgen.types import Float

_NAMED = 12
"""With more classes than this curves have no names; with twice as many cells have no counts."""


def plot_classification(
    directory: Path,
    labels: Labels,
    logits: Float[np.ndarray, "N C"],
    names: Sequence[str],
    *,
    threshold: float = 0.5,
    temperature: float = 1.0,
) -> list[Path]:
    """Draw a classifier's confusions, ROC curves and calibration into a directory.

    Args:
        directory: Where the pictures are written; those there are replaced.
        labels: Class numbers, or 0 and 1 for each label.
        logits: As the model gives them.
        names: Of the classes.
        threshold: As in `predictions`; marked on the ROC curve.
        temperature: The logits are divided by it; the calibration shows them before and after.

    Returns:
        The pictures' paths; none without matplotlib, fewer on a full disk.

    Raises:
        UserError: The labels do not go with the logits.
    """
    check_labels(labels, logits)
    if not can_draw():
        return []
    multi_label = labels.ndim == 2

    def probabilities_at(temperature: float) -> np.ndarray:
        return np.exp(log_probabilities(logits, multi_label=multi_label, temperature=temperature))

    probabilities = probabilities_at(temperature)
    predicted = predictions(probabilities, multi_label=multi_label, threshold=threshold)
    counts = confusion_matrix(labels, predicted, len(names))
    shown = [shorten(name, 18) for name in names]
    before = reliability(labels, probabilities_at(1.0))
    after = None if temperature == 1.0 else reliability(labels, probabilities)
    drawings: dict[str, Callable[[], Any]] = {
        "confusion": lambda: _confusion(counts, shown),
        "roc": lambda: _roc(labels, probabilities, shown, threshold),
        "calibration": lambda: _calibration(before, after, temperature),
    }
    with plain_names():
        paths = [save_figure(directory / f"{name}.png", draw()) for name, draw in drawings.items()]
    return [path for path in paths if path is not None]


def _confusion(counts: np.ndarray, names: Sequence[str]) -> Any:
    """Cells shaded by the share of their true class, with counts."""
    multi_label = counts.ndim == 3
    if multi_label:
        # Of the examples with a label: found, missed; of those without: false alarms, rightly none.
        counts = counts[:, ::-1, ::-1]
        groups = counts
        columns = ["found", "missed", "false alarm", "rightly none"]
    else:
        groups = counts[:, None, :]
        columns = list(names)
    totals = groups.sum(axis=2, keepdims=True)
    shares = (groups / np.maximum(totals, 1)).reshape(len(names), -1)
    rows, wide = shares.shape
    most = max(rows, wide)
    size = 0.85 if most <= _NAMED else min(0.4, 24 / most)  # inches a cell
    figure = new_figure(max(4.8, size * wide + 2.6), max(3.9, size * rows + 1.9))
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    if most <= 100:
        slanted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if wide > 3 else {}
        axes.set_xticks(range(wide), columns, **slanted)
        axes.set_yticks(range(rows), names)
        axes.set_xticks(np.arange(wide + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
    axes.set_xlabel("" if multi_label else "predicted")
    axes.set_ylabel("label" if multi_label else "true")
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    for (row, column), share in np.ndenumerate(shares if most <= 2 * _NAMED else np.empty((0, 0))):
        count = f"{counts.reshape(rows, wide)[row, column]:,}"
        axes.text(
            column,
            row,
            count if most > _NAMED else f"{count}\n{share:.1%}",
            color="white" if share > 0.55 else "#1d2733",
            **{"ha": "center", "va": "center", "fontsize": 6 if most > _NAMED else 9.5},
        )
    axes.set_title("confusion")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, fraction=0.6 / max(wide, 4), aspect=24)
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    return figure


def _roc(labels: Labels, probabilities: np.ndarray, names: Sequence[str], threshold: float) -> Any:
    """Each class against the rest; of two classes, the second with the threshold in use."""
    import matplotlib

    curves = roc_curves(labels, probabilities)
    binary = labels.ndim == 1 and len(names) == 2
    shown = [(name, curve) for name, curve in zip(names, curves, strict=True) if curve is not None]
    shown = shown[1:] if binary else shown
    figure = new_figure(5.4, 5.2)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle=(0, (4, 4)))
    named = len(shown) <= _NAMED
    colors = matplotlib.color_sequences["tab10" if len(shown) <= 10 else "tab20"]
    for index, (name, curve) in enumerate(shown):
        color = BLUE if binary else colors[index % len(colors)] if named else PALE
        axes.plot(
            curve.false_positive_rate,
            curve.true_positive_rate,
            color=color,
            linewidth=1.8 if named else 0.8,
            label=f"{name}, AUC {curve.auc:.4f}" if named else None,
        )
    if binary and shown:
        false, true, thresholds = shown[0][1]
        axes.fill_between(false, true, color=PALE, alpha=0.25, linewidth=0)
        at = np.flatnonzero(thresholds >= threshold)[-1]
        axes.plot(
            false[at],
            true[at],
            **{"marker": "o", "color": RED, "linestyle": "none", "markersize": 6},
            label=f"threshold {threshold:.4g}",
        )
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    mean = f", mean AUC {np.mean([c.auc for _, c in shown]):.4f}" if shown and not binary else ""
    axes.set_title(f"ROC{mean}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if shown and named:
        axes.legend(frameon=False, loc="lower right", fontsize=8 if len(shown) > 6 else None)
    return figure


def _calibration(before: Reliability, after: Reliability | None, temperature: float) -> Any:
    """Accuracy over confidence, and below how many examples each bin holds."""
    figure = new_figure(5.4, 6.2)
    axes, bars = figure.subplots(2, sharex=True, height_ratios=[4, 1])
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, linestyle=(0, (4, 4)), label="ideal")
    series = [(before, "temperature 1", RED if after is None else PALE)]
    if after is not None:
        series.append((after, f"temperature {temperature:.3g}", RED))
    centres = (before.edges[1:] + before.edges[:-1]) / 2
    width = float(before.edges[1] - before.edges[0]) / (len(series) + 0.3)
    for index, (found, name, color) in enumerate(series):
        kept = found.counts > 0
        axes.plot(
            found.confidence[kept],
            found.accuracy[kept],
            **{"color": color, "marker": "o", "markersize": 4.5, "linewidth": 1.6},
            label=f"{name}, ECE {found.ece:.4f}",
        )
        shift = (index - (len(series) - 1) / 2) * width
        bars.bar(centres + shift, found.counts / found.counts.sum(), width, color=color)
    some = [(found, found.counts > 0) for found, _, _ in series]
    left = min(found.edges[:-1][kept].min() for found, kept in some)
    low = min(left, *(found.accuracy[kept].min() for found, kept in some))
    axes.set(xlim=(left - 0.01, 1.01), ylim=(low - 0.02, 1.02), ylabel="accuracy")
    axes.set_title("calibration")
    axes.legend(frameon=False, loc="best")
    bars.set(xlabel="confidence: probability of the prediction", ylabel="examples")
    bars.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    for each in (axes, bars):
        each.grid(alpha=0.25)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
    return figure
