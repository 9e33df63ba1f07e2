"""control.png: control accuracy and perplexity over the strength of guidance."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxgen.evaluation.classification_tables import shorten
from jaxgen.evaluation.pictures import BLUE, GREY, RED, new_figure, plain_names, save_figure

_NAMED = 10
"""With more labels than this their lines have no names."""
_LINE = {"color": GREY, "linewidth": 1.1, "linestyle": (0, (4, 3))}


def plot_control(path: Path, figures: Mapping[str, Any]) -> Path | None:
    """Draw the curve of `jaxgen.tasks.conditional_control.control`; matplotlib must be installed.

    Above the accuracy, its mean and that of each label, with the classifier's recall of real texts
    beside it; below the perplexity, with that of real texts.

    Returns:
        The path, or None on a full disk.
    """
    with plain_names():
        figure = new_figure(7.2, 6.0)
        above, below = figure.subplots(2, sharex=True, height_ratios=[3, 2])
        _draw_accuracy(above, figures)
        _draw_perplexity(below, figures)
        for axes in (above, below):
            axes.grid(alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)
        return save_figure(path, figure)


def _draw_accuracy(axes: Any, figures: Mapping[str, Any]) -> None:
    import matplotlib

    strengths, names = [row["strength"] for row in figures["strengths"]], figures["labels"]
    colors = matplotlib.color_sequences["Set2"]
    mean = [_number(row["accuracy"]) for row in figures["strengths"]]
    axes.plot(strengths, mean, color=BLUE, marker="o", markersize=5, linewidth=2.2, label="mean")
    if (recall := figures["real"]["accuracy"]) is not None:
        axes.axhline(recall, label=f"recall of real texts, {recall:.3f}", **_LINE)
    for index, name in enumerate(names):
        shares = [_number(row["per_label"][name]) for row in figures["strengths"]]
        color = colors[index % len(colors)]
        label = shorten(name, 18) if len(names) <= _NAMED else None
        axes.plot(strengths, shares, color=color, linewidth=1.1, zorder=1.5, label=label)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("control accuracy")


def _draw_perplexity(axes: Any, figures: Mapping[str, Any]) -> None:
    strengths = [row["strength"] for row in figures["strengths"]]
    values = [_number(row["perplexity"]) for row in figures["strengths"]]
    axes.plot(
        strengths, values, color=RED, marker="o", markersize=5, linewidth=2.2, label="samples"
    )
    if (real := figures["real"]["perplexity"]) is not None:
        axes.axhline(real, label=f"real texts, {real:.1f}", **_LINE)
    axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    axes.set_xlabel("strength (0: no label, 1: plain conditioning)")
    axes.set_ylabel("perplexity by the judge")


def _number(value: float | None) -> float:
    """NaN, which is not drawn, where there is no figure."""
    return float("nan") if value is None else value
