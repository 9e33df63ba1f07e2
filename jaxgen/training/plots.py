"""loss.png: how training and validation loss went, where matplotlib is installed."""

from importlib.util import find_spec
from pathlib import Path

from jaxgen.files import replacing
from jaxgen.training.runs import Run


def plot_run(run: Run) -> Path | None:
    """Draw the run's metrics into its loss.png.

    Returns:
        The picture's path, or None without matplotlib or without metrics.
    """
    rows = run.read_metrics()
    train = [(row["step"], row["nll"]) for row in rows if "nll" in row]
    validation = [(row["step"], row["validation_nll"]) for row in rows if "validation_nll" in row]
    if not train or find_spec("matplotlib") is None:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(*zip(*train, strict=True), color="#9db7d5", linewidth=1.0, label="training")
    if validation:
        steps, losses = zip(*validation, strict=True)
        best = steps[losses.index(min(losses))]
        label = f"validation, best {min(losses):.4f} at step {best}"
        axes.plot(steps, losses, color="#c0392b", marker="o", markersize=3.5, label=label)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("nll, nats per token")
    axes.set_title(run.directory.name)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path = run.directory / "loss.png"
    with replacing(path) as file:
        figure.savefig(file, format="png")
    return path
