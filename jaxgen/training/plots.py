"""loss.png: how the objective went in training and validation, where matplotlib is installed."""

from importlib.util import find_spec
from pathlib import Path

from jaxgen.files import replacing
from jaxgen.training.runs import Run
from jaxgen.training.trainable import Objective


def plot_run(run: Run, objective: Objective) -> Path | None:
    """Draw the run's metrics into its loss.png.

    Returns:
        The picture's path, or None without matplotlib or without metrics.
    """
    rows = run.read_metrics()
    train, validation = (
        [(row["step"], row[name]) for row in rows if name in row]
        for name in (objective.name, f"validation_{objective.name}")
    )
    if not train + validation or find_spec("matplotlib") is None:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if train:
        axes.plot(*zip(*train, strict=True), color="#9db7d5", linewidth=1.0, label="training")
    if validation:
        steps, values = zip(*validation, strict=True)
        best = objective.best(values)
        label = f"validation, best {values[best]:.4f} at step {steps[best]}"
        axes.plot(steps, values, color="#c0392b", marker="o", markersize=3.5, label=label)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(", ".join(filter(None, (objective.name, objective.unit))))
    axes.set_title(run.directory.name)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path = run.directory / "loss.png"
    with replacing(path) as file:
        figure.savefig(file, format="png")
    return path
