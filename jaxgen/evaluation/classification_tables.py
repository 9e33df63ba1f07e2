"""Figures of a classifier as text for the terminal: confusion, classes, reliability."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.cells import cell_len, set_cell_size

from jaxgen.evaluation.calibration import Reliability

_NAME_CELLS = 24
"""Longer names are cut to so many cells of the terminal; Korean letters take two each."""
_CONFUSIONS = 10
"""So many are listed where the matrix is too wide."""


def shorten(name: str, cells: int = _NAME_CELLS) -> str:
    """A name in one line of at most so many cells, cut at its end if longer."""
    name = "".join(c if c.isprintable() else " " for c in name)
    return name if cell_len(name) <= cells else set_cell_size(name, cells - 1).rstrip() + "…"


def grid(rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first flush left and the others flush right, by width in cells."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first + " " * (widths[0] - cell_len(first))]
        for text, width in zip(others, widths[1:], strict=True):
            cells.append(" " * (width - cell_len(text)) + text)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def confusion_table(
    confusion: Sequence[Any] | np.ndarray, names: Sequence[str], width: int = 100
) -> str:
    """A confusion matrix with the recall of each class.

    Args:
        confusion: Counts, [C][C] with true classes as rows; multi-label [C][2][2].
        names: Of the classes.
        width: Of the terminal in cells. Names at the head of columns are cut to fit; where that
            makes two of them equal, the commonest confusions are listed in the matrix's place.
    """
    counts = np.asarray(confusion)
    if counts.ndim == 3:
        # Of the examples with the label, then of those without.
        head = ["label", "found", "missed", "false alarms", "rightly none"]
        rows = [
            [shorten(name), *(f"{n:,}" for n in label[::-1, ::-1].ravel())]
            for name, label in zip(names, counts, strict=True)
        ]
        return grid([head, *rows])
    recalls = np.diagonal(counts) / np.maximum(counts.sum(axis=1), 1)
    title = "true \\ predicted"
    first = max(cell_len(title), *(cell_len(shorten(name)) for name in names))
    room = min((width - first - len("  recall")) // len(names) - 2, _NAME_CELLS)
    if room < max(4, len(f"{counts.max():,}")) or (
        len({shorten(name, room) for name in names}) < len(names)
    ):
        return _commonest_confusions(counts, names)
    rows = [
        [shorten(name), *(f"{n:,}" for n in row), f"{recall:.3f}"]
        for name, row, recall in zip(names, counts, recalls, strict=True)
    ]
    return grid([[title, *(shorten(name, room) for name in names), "recall"], *rows])


def _commonest_confusions(counts: np.ndarray, names: Sequence[str]) -> str:
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    pairs = [divmod(int(i), len(names)) for i in np.argsort(-wrong, axis=None, kind="stable")]
    shown = [(true, found) for true, found in pairs[:_CONFUSIONS] if wrong[true, found]]
    if not shown:
        return "no confusions"
    rows = [
        [
            f"{shorten(names[true])} -> {shorten(names[found])}",
            f"{wrong[true, found]:,}",
            f"{wrong[true, found] / counts[true].sum():.1%}",
        ]
        for true, found in shown
    ]
    return grid([["true -> predicted", "examples", "of its class"], *rows])


def class_table(per_class: dict[str, dict[str, Any]]) -> str:
    """Precision, recall, F1, AUC and support of each class; a dash where there is no AUC."""

    def row(name: str, figures: dict[str, Any]) -> list[str]:
        values = [figures[key] for key in ("precision", "recall", "f1", "auc")]
        shown = ["-" if value is None else f"{value:.3f}" for value in values]
        return [shorten(name), *shown, f"{figures['support']:,}"]

    head = ["class", "precision", "recall", "F1", "AUC", "examples"]
    return grid([head, *(row(name, figures) for name, figures in per_class.items())])


def reliability_table(found: Reliability) -> str:
    """The bins that hold examples, and the expected calibration error below them."""
    rows = [
        [
            f"{found.edges[k]:.2f} to {found.edges[k + 1]:.2f}",
            f"{found.counts[k]:,}",
            f"{found.confidence[k]:.3f}",
            f"{found.accuracy[k]:.3f}",
            f"{found.accuracy[k] - found.confidence[k]:+.3f}",
        ]
        for k in np.flatnonzero(found.counts)
    ]
    head = ["confidence", "examples", "mean", "accuracy", "difference"]
    return f"{grid([head, *rows])}\nexpected calibration error {found.ece:.4f}"


def report_tables(report: dict[str, Any], width: int = 100) -> str:
    """The tables of a `classification_report.report`: its classes, confusions and bins."""
    bins = Reliability(**{name: np.asarray(x) for name, x in report["reliability"].items()})
    names = list(report["per_class"])
    return (
        f"{class_table(report['per_class'])}\n\n"
        f"{confusion_table(report['confusion'], names, width)}\n\n"
        f"{reliability_table(bins)}"
    )
