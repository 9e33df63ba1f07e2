"""The curve of quality and diversity: a text GAN beside maximum likelihood at any temperature."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgen.evaluation.gan_figures import Row, known
from jaxgen.evaluation.gan_verdict import PLANES, Plane
from jaxgen.evaluation.pictures import BLUE, GREY, RED, new_figure, plain_names, save_figure


def plot_curve(path: Path, figures: Mapping[str, Any]) -> Path | None:
    """Draw what `jaxgen.evaluation.gan_verdict.joined` gives; matplotlib must be installed.

    MLE is a line through its temperatures, the GAN a point, or a line where it has several
    temperatures, with bars of the deviation over the seeds; the training texts are a cross.

    Returns:
        The path, or None on a full disk.
    """
    plane = next(p for p in PLANES if p.quality.name == figures["verdict"]["quality"])
    with plain_names():
        figure = new_figure(6.4, 5.2)
        axes = figure.subplots()
        _draw(axes, figures["mle_sweep"], plane, "MLE", BLUE)
        for row in figures["mle_sweep"]:
            place = (row[plane.diversity.name], row[plane.quality.name])
            label = f"{row['temperature']:g}"
            axes.annotate(label, place, xytext=(5, 5), textcoords="offset points", fontsize=8)
        _draw(axes, figures.get("gan_sweep", [figures["gan"]]), plane, "GAN", RED)
        real = figures["train"]
        if all(known(real, axis.name) for axis in plane):
            at = [real[plane.diversity.name]], [real[plane.quality.name]]
            axes.plot(*at, "x", color=GREY, markersize=8, label="training texts")
        axes.invert_xaxis()
        if not plane.quality.higher_is_better:
            axes.invert_yaxis()
        axes.set_xlabel(f"{plane.diversity.title} (more diverse to the right)")
        axes.set_ylabel(f"{plane.quality.title} (better upwards)")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
        return save_figure(path, figure)


def _draw(axes: Any, rows: Sequence[Row], plane: Plane, label: str, color: str) -> None:
    """A line through rows, with their deviations where they have some."""
    shown = [row for row in rows if all(known(row, axis.name) for axis in plane)]
    quality, diversity = (
        [
            [row.get(kind, {}).get(axis.name, 0.0) if kind else row[axis.name] for row in shown]
            for kind in ("", "deviation")
        ]
        for axis in plane
    )
    axes.errorbar(
        diversity[0],
        quality[0],
        xerr=diversity[1],
        yerr=quality[1],
        color=color,
        marker="o",
        markersize=5,
        linewidth=1.8,
        elinewidth=0.9,
        label=label,
    )
