"""The state of the training loop, and how it is saved."""

import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from jaxgen.config import TrainingConfig
from jaxgen.errors import UserError
from jaxgen.training.clock import Clock
from jaxgen.training.parallel import Layout
from jaxgen.training.processes import Processes
from jaxgen.training.progress import Display
from jaxgen.training.run_progress import RunProgress
from jaxgen.training.schedule import StepSchedule
from jaxgen.training.step import MultiStep, TrainState
from jaxgen.training.trainable import Trainable

ADVICE = (
    "lower `optimizer.learning_rate` or `optimizer.clip_norm` (where several models train, of the "
    "one that diverged) and train anew"
)

Reason = Literal["finished", "early stopping", "time is up", "interrupted", "diverged"]


class Evaluated(NamedTuple):
    """What one evaluation found."""

    step: int
    figures: list[dict[str, float]]
    """Of each run; empty where it has ended or nothing is held out."""


@dataclass
class Loop:
    """The state of the loop."""

    trainable: Trainable
    config: TrainingConfig
    schedule: StepSchedule
    layout: Layout
    multi_step: MultiStep
    runs: list[RunProgress]
    display: Display
    log: Callable[[Sequence[dict[str, Any]]], None] | None
    processes: Processes
    state: TrainState
    step: int
    started: float
    """When it would have started, had it never been interrupted."""
    clock: Clock = field(default_factory=Clock)
    interrupted: Callable[[], bool] = lambda: False
    reason: Reason = "interrupted"
    """Why it ended, once it has."""

    @property
    def elapsed(self) -> float:
        """Seconds in the loop, over all resumptions."""
        return time.perf_counter() - self.started

    @property
    def limit(self) -> float:
        """Seconds that it may take."""
        return self.config.max_minutes * 60.0 if self.config.max_minutes else float("inf")

    @property
    def active(self) -> list[int]:
        """The runs that go on."""
        return [index for index, run in enumerate(self.runs) if run.active]

    @property
    def where(self) -> dict[str, Any]:
        """How every row of the metrics begins."""
        return {"step": self.step, "epoch": round(self.step / self.schedule.epoch_steps, 4)}


def states_of(loop: Loop) -> list[TrainState]:
    """The state of each run."""
    with loop.processes.waiting(f"the carry of step {loop.step}"):
        return loop.layout.unstack_runs(loop.state)


def save(loop: Loop, which: Sequence[int], best: Collection[int] = ()) -> None:
    """Save some runs, together: none counts until all are written."""
    states = states_of(loop)
    indexes = [run.run.index for run in loop.runs]

    def prepare(i: int) -> None:
        indexes[i] = loop.runs[i].prepare(states[i], loop.elapsed, best=i in best)

    with ThreadPoolExecutor(8) as pool:  # a save waits more than it works
        list(pool.map(prepare, which))
    if loop.log is not None:
        loop.log(indexes)
    for i in which:
        loop.runs[i].run.commit(indexes[i])
    loop.clock.saved()


def fail(loop: Loop, i: int, what: str, saved_step: int) -> None:
    """Save a run that is not finite, and go on without it; UserError where it is the last."""
    saved = f"the state after step {saved_step} is saved"
    if len(loop.runs) > 1:
        loop.runs[i].progress.stopped = what
    save(loop, [i])
    if len(loop.runs) == 1:
        raise UserError(f"{what}: training stopped, and {saved}; {ADVICE}")
    loop.display.line(f"{loop.runs[i].name} diverged: {what}; {saved}, and the others go on")
    if all(run.diverged for run in loop.runs):
        raise UserError(f"all {len(loop.runs)} runs diverged, the last because {what}; {ADVICE}")


def place_states(loop: Loop, states: Sequence[TrainState]) -> None:
    """Put the state of each run on the devices; those of ended runs change no more."""
    marked = [
        state._replace(finite=jnp.bool_(run.active))
        for run, state in zip(loop.runs, states, strict=True)
    ]
    loop.state = loop.layout.stack_runs(marked)
