"""What the loop remembers of one run between its steps, and writes of it."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from jaxgen.training.progress import Unit, in_unit
from jaxgen.training.runs import Run
from jaxgen.training.step import Metrics, TrainState

EARLY_STOPPING = "early stopping"


@dataclass
class Progress:
    """What the loop itself remembers; saved with every checkpoint."""

    seconds: float = 0.0
    """Spent in the loop, over all resumptions."""
    validation: list[float] = field(default_factory=list)
    """Mean nll of every evaluation."""
    row: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    """Of the unfinished metrics row: nll_sum, count, summed grad_norm, steps."""
    stopped: str | None = None
    """Why this run goes on no more while others beside it do: early stopping, or what was not
    finite."""

    def evaluations_since_best(self) -> int:
        """Evaluations without a better figure."""
        if not self.validation:
            return 0
        return len(self.validation) - 1 - self.validation.index(min(self.validation))

    def stalls(self, window: int) -> bool:
        """NT-ASGD's trigger: worse than the best of the evaluations before the last `window`."""
        *earlier, last = self.validation
        return len(earlier) > window and last > min(earlier[:-window])


class Record:
    """One run and its progress."""

    def __init__(self, run: Run, unit: Unit) -> None:
        self.run, self.unit, self.progress = run, unit, Progress()

    @property
    def name(self) -> str:
        """What to call the run among others."""
        return self.run.directory.name

    @property
    def active(self) -> bool:
        """Whether it goes on."""
        return self.progress.stopped is None

    @property
    def diverged(self) -> bool:
        """Whether it stopped because something was not finite."""
        return self.progress.stopped not in (None, EARLY_STOPPING)

    @property
    def nll(self) -> float:
        """Nats per token of the unfinished metrics row."""
        return self.progress.row[0] / max(self.progress.row[1], 1.0)

    @property
    def best_nll(self) -> float | None:
        """Best mean nll of the evaluations."""
        return min(self.progress.validation, default=None)

    def restore(self, template: TrainState) -> TrainState | None:
        """State and progress of the last checkpoint, or None where there is none yet."""
        restored = self.run.restore(template)
        if restored is None:
            return None
        state, saved = restored
        self.progress = Progress(**saved)
        return state

    def prepare(self, state: TrainState, seconds: float, *, best: bool) -> dict[str, Any]:
        """Write a checkpoint, to be committed with the index returned."""
        self.progress.seconds = seconds
        return self.run.prepare(state, asdict(self.progress), best=best)

    def add(self, rows: Metrics, length: int) -> float:
        """Count the first `length` steps of a dispatch into the row; returns their tokens."""
        values = (rows.nll_sum, rows.num_tokens, rows.grad_norm)
        sums = [float(x[:length].sum(dtype=np.float64)) for x in values]
        row = self.progress.row
        self.progress.row = [old + new for old, new in zip(row, [*sums, length], strict=True)]
        return sums[1]

    def write_row(self, where: dict[str, Any], figures: dict[str, Any]) -> None:
        """End the metrics row: `where` it stands, its means, and other figures."""
        means = {
            "nll": self.nll,
            self.unit: in_unit(self.nll, self.unit),
            "grad_norm": self.progress.row[2] / self.progress.row[3],
        }
        self.run.append_metrics(where | means | figures)
        self.progress.row = [0.0, 0.0, 0.0, 0.0]

    def add_validation(self, nll: float) -> bool:
        """Remember the nll of an evaluation; returns whether it is the best."""
        self.progress.validation.append(nll)
        return self.progress.evaluations_since_best() == 0


def non_finite(rows: Metrics, length: int, end: int) -> tuple[str, int] | None:
    """What was not finite in a dispatch of `length` steps that ended at step `end`, if anything.

    Returns:
        Its name, value and step, and the number of the last good step.
    """
    if rows.finite[:length].all():
        return None
    index = int(np.argmin(rows.finite))
    name = "loss" if not np.isfinite(rows.loss[index]) else "grad_norm"
    step = end - length + index
    return f"`{name}` is {getattr(rows, name)[index]} at step {step + 1}", step


def history(run: Run, unit: Unit) -> dict[str, Any]:
    """How far a run is, and how good."""
    last, best = run.checkpoint("last"), run.checkpoint("best")
    if last is None:
        return {"steps": 0}
    progress = last["progress"]
    history = {"steps": last["step"], "seconds": round(progress["seconds"], 1)}
    if best is not None:
        history["best_step"] = best["step"]
        history["best_validation_nll"] = min(progress["validation"])
        history[f"best_validation_{unit}"] = in_unit(min(progress["validation"]), unit)
    if progress.get("stopped"):
        history["stopped"] = progress["stopped"]
    return history
