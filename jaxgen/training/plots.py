"""loss.png: how the objective and other figures went, where matplotlib is installed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxgen.evaluation.pictures import can_draw, new_figure, save_figure
from jaxgen.training.runs import Run
from jaxgen.training.trainable import Objective


def plot_run(run: Run, objective: Objective, also: Sequence[str] = ()) -> Path | None:
    """Draw the run's metrics into its loss.png.

    Args:
        run: whose metrics are read.
        objective: its training and validation.
        also: other figures of training, drawn below.

    Returns:
        The picture's path, or None without matplotlib, without metrics or on a full disk.
    """
    rows = run.read_metrics()
    train, validation = (
        [(row["step"], row[name]) for row in rows if name in row]
        for name in (objective.name, f"validation_{objective.name}")
    )
    others = {name: [(row["step"], row[name]) for row in rows if name in row] for name in also}
    others = {name: points for name, points in others.items() if points}
    if not (train or validation or others) or not can_draw():
        return None
    count = 1 + bool(others)
    figure = new_figure(7.2, 4.5 * count)
    axes, *below = figure.subplots(count, squeeze=False)[:, 0]
    if train:
        axes.plot(*zip(*train, strict=True), color="#9db7d5", linewidth=1.0, label="training")
    if validation:
        steps, values = zip(*validation, strict=True)
        best = objective.best(values)
        label = f"validation, best {values[best]:.4f} at step {steps[best]}"
        axes.plot(steps, values, color="#c0392b", marker="o", markersize=3.5, label=label)
    axes.set_title(run.directory.name)
    _finish(axes, ", ".join(filter(None, (objective.name, objective.unit))))
    for other in below:
        for name, points in others.items():
            other.plot(*zip(*points, strict=True), linewidth=1.0, label=name.replace("_", " "))
        _finish(other, "training")
    path = run.directory / "loss.png"
    return save_figure(path, figure)


def _finish(axes: Any, label: str) -> None:
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False)
