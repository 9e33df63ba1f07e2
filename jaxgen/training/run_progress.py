"""What the loop remembers of one run between its steps, and writes of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from jaxgen.training.runs import Run
from jaxgen.training.step import Metrics, TrainState
from jaxgen.training.trainable import Objective, Trainable
from jaxgen.types import Sum

EARLY_STOPPING: Literal["early stopping"] = "early stopping"


@dataclass
class Row:
    """The unfinished row of the metrics: sums over its steps so far."""

    sums: dict[str, list[Any]] = field(default_factory=dict)
    """Total and weight of each `Sum`, as JSON values."""
    grad_norm: float = 0.0
    steps: int = 0

    def add(self, metrics: Metrics, length: int) -> None:
        """Count the first `length` steps of a dispatch in."""
        for name, new in metrics.sums.items():
            added = [np.asarray(x)[:length].sum(axis=0, dtype=np.float64) for x in new]
            old = self.sums.get(name, [0.0, 0.0])
            self.sums[name] = [
                (np.asarray(a) + b).tolist() for a, b in zip(old, added, strict=True)
            ]
        self.grad_norm += float(metrics.grad_norm[:length].sum(dtype=np.float64))
        self.steps += length

    def as_sums(self) -> dict[str, Sum]:
        """The sums as arrays."""
        return {name: Sum(np.asarray(a), np.asarray(b)) for name, (a, b) in self.sums.items()}


@dataclass
class Progress:
    """What is saved with every checkpoint beside the state."""

    seconds: float = 0.0
    """Spent in the loop, over all resumptions."""
    validation: list[float] = field(default_factory=list)
    """The objective's figure of every evaluation."""
    row: Row = field(default_factory=Row)
    stopped: str | None = None
    """Why this run goes on no more while others beside it do: early stopping, or what was not
    finite."""
    alarmed: bool = False
    """Whether the user was told what is wrong with its figures."""

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any]) -> "Progress":
        """What `asdict` made."""
        return cls(**{**saved, "row": Row(**saved["row"])})

    def best(self, objective: Objective) -> float | None:
        """The best figure so far."""
        return self.validation[objective.best(self.validation)] if self.validation else None

    def evaluations_since_best(self, objective: Objective) -> int:
        """Evaluations without a better figure."""
        if not self.validation:
            return 0
        return len(self.validation) - 1 - objective.best(self.validation)

    def stalls(self, window: int, objective: Objective) -> bool:
        """NT-ASGD's trigger: worse than the best of the evaluations before the last `window`."""
        *earlier, last = self.validation
        if len(earlier) <= window:
            return False
        before = earlier[:-window]
        return objective.better(before[objective.best(before)], last)


class RunProgress:
    """One run and its progress."""

    def __init__(self, run: Run, trainable: Trainable) -> None:
        self.run, self.progress = run, Progress()
        self._figures, self._objective = trainable.figures, trainable.objective

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
    def figures(self) -> dict[str, float]:
        """Figures of the unfinished row of the metrics."""
        return self._figures(self.progress.row.as_sums())

    @property
    def best(self) -> float | None:
        """The objective's best figure of all evaluations."""
        return self.progress.best(self._objective)

    def restore(self, template: TrainState) -> TrainState | None:
        """State and progress of the last checkpoint, or None where there is none yet."""
        restored = self.run.restore(template)
        if restored is None:
            return None
        state, saved = restored
        self.progress = Progress.from_saved(saved)
        return state

    def prepare(self, state: TrainState, seconds: float, *, best: bool) -> dict[str, Any]:
        """Write a checkpoint, to be committed with the index returned."""
        self.progress.seconds = seconds
        return self.run.prepare(state, asdict(self.progress), best=best)

    def write_row(self, where: Mapping[str, Any], figures: Mapping[str, Any]) -> None:
        """End the row of the metrics: `where` it stands, its means, and other figures."""
        row = self.progress.row
        means = {**self.figures, "grad_norm": row.grad_norm / row.steps}
        self.run.append_metrics({**where, **means, **figures})
        self.progress.row = Row()

    def add_evaluation(self, figure: float) -> bool:
        """Remember the objective's figure of an evaluation; returns whether it is the best."""
        self.progress.validation.append(figure)
        return self.progress.evaluations_since_best(self._objective) == 0

    def out_of_patience(self, patience: int | None) -> bool:
        """Whether so many evaluations brought nothing better."""
        since = self.progress.evaluations_since_best(self._objective)
        return patience is not None and since >= patience

    def stalls(self, window: int) -> bool:
        """See `Progress.stalls`."""
        return self.progress.stalls(window, self._objective)


def non_finite(metrics: Metrics, length: int, end: int) -> tuple[str, int] | None:
    """What was not finite in a dispatch of `length` steps that ended at step `end`, if anything.

    Returns:
        Its name, value and step, and the number of the last good step.
    """
    if metrics.finite[:length].all():
        return None
    index = int(np.argmin(metrics.finite))
    name = "loss" if not np.isfinite(metrics.loss[index]) else "grad_norm"
    step = end - length + index
    return f"`{name}` is {getattr(metrics, name)[index]} at step {step + 1}", step


def history(run: Run, objective: Objective) -> dict[str, Any]:
    """How far a run is, and how good."""
    last, best = run.checkpoint("last"), run.checkpoint("best")
    if last is None:
        return {"steps": 0}
    progress = Progress.from_saved(last["progress"])
    facts: dict[str, Any] = {"steps": last["step"], "seconds": round(progress.seconds, 1)}
    value = progress.best(objective)
    if best is not None and value is not None:
        facts |= {
            "best_step": best["step"],
            f"best_validation_{objective.name}": value,
            f"best_validation_{objective.shown_name}": objective.show(value),
        }
    if progress.stopped:
        facts["stopped"] = progress.stopped
    return facts
