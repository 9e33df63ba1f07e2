"""The training loop: dispatch steps, watch them, evaluate, save, stop.

It knows neither models nor tokens: a `Trainable` is enough, so every task trains with it. Several
runs may train side by side on the same batches; one that diverges or stops early leaves the others
alone.
"""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.config import TrainingConfig
from jaxgen.errors import UserError
from jaxgen.training.evaluate import evaluate
from jaxgen.training.interrupts import interrupts
from jaxgen.training.loop_state import (
    ADVICE,
    Evaluated,
    Loop,
    Reason,
    fail,
    place_states,
    save,
    states_of,
)
from jaxgen.training.parallel import Layout
from jaxgen.training.plots import plot_run
from jaxgen.training.pretrained import begin_from
from jaxgen.training.processes import ALONE, Processes
from jaxgen.training.progress import Display
from jaxgen.training.run_progress import EARLY_STOPPING, RunProgress, non_finite
from jaxgen.training.runs import Run
from jaxgen.training.schedule import StepSchedule
from jaxgen.training.step import Metrics, MultiStep, TrainState
from jaxgen.training.trainable import Objective, Trainable

DISPATCH_SECONDS = 0.5
"""A dispatch is kept about this short, so that Ctrl-C and the display answer."""
SAVE_SECONDS = 60.0
"""At most so much work is lost by a kill, besides what evaluations save."""


@dataclass(frozen=True)
class Result:
    """How a training ended."""

    state: TrainState
    reason: Reason
    """`diverged` only where other runs beside it went on; else that is an error."""
    steps: int
    seconds: float
    best: float | None
    """The best figure of the evaluations, in the objective's unit (for "nll": nats per token)."""
    objective: Objective
    """What `best` is a value of."""
    run: Run
    """Where it is saved."""


class Decision(NamedTuple):
    """What the clock and the user decide, and what follows from them."""

    steps: int
    """Of the next dispatch."""
    save: bool
    """Whether to save now although nothing is evaluated."""
    reason: Reason | None
    """Why the training ends here; None where it goes on."""


class Dispatched(NamedTuple):
    """A dispatch whose metrics nobody has waited for yet."""

    metrics: Metrics
    step: int
    """Where it ends."""
    length: int


def train(loop: Loop) -> list[Result]:
    """Train until the end, early stopping, the time limit or Ctrl-C.

    Args:
        loop: From `open_loop`.

    Returns:
        Each run's state at the end, and why it ended. All is saved in the runs.

    Raises:
        UserError: A loss or gradient of the only run, or of all, is not finite (the last good
            state is saved), or the disk is full.
    """
    for _ in evaluations(loop):
        pass
    return results(loop)


def open_loop(
    trainable: Trainable,
    state: TrainState,
    multi_step: MultiStep,
    runs: Sequence[Run],
    config: TrainingConfig,
    *,
    layout: Layout | None = None,
    display: Display | None = None,
    log: Callable[[Sequence[dict[str, Any]]], None] | None = None,
    processes: Processes = ALONE,
) -> Loop:
    """The loop where its runs stand.

    Args:
        trainable: What is trained.
        state: The state before the first step, of all runs as the layout has them; their last
            checkpoints replace it, or else the pretrained parameters those in it.
        multi_step: The steps of `trainable`, from `parallel.jit_multi_step`.
        runs: The directory of each run; the caller holds the lock.
        config: Lengths, intervals and limits.
        layout: Where `multi_step` wants its inputs.
        display: Where to show the progress; by default a live display on a terminal, else plain
            lines.
        log: Called with the indexes of all runs before any of them is committed.
        processes: Those that train together.

    Raises:
        UserError: All runs diverged already, or a checkpoint cannot be read.
    """
    layout = layout or Layout()
    schedule = StepSchedule(trainable.batches, config)
    progress = [RunProgress(run, trainable) for run in runs]
    states = layout.unstack_runs(state)
    if runs[0].checkpoint("last") is not None:
        pairs = zip(progress, states, strict=True)
        states = [run.restore(state) or state for run, state in pairs]
    elif trainable.pretrained:
        states = [begin_from(state, trainable.pretrained) for state in states]
    states = [processes.state_from_first(state) for state in states]
    if all(run.diverged for run in progress):
        raise UserError(f"all {len(progress)} runs diverged already; {ADVICE}")
    furthest = max(progress, key=lambda run: (run.active, run.progress.seconds))
    step = int(states[progress.index(furthest)].step)
    started = time.perf_counter() - furthest.progress.seconds
    loop = Loop(
        trainable=trainable,
        config=config,
        schedule=schedule,
        layout=layout,
        multi_step=multi_step,
        runs=progress,
        display=display or Display(schedule.total, trainable.objective),
        log=log,
        processes=processes,
        state=state,
        step=step,
        started=started,
    )
    place_states(loop, states)
    return loop


def evaluations(loop: Loop) -> Generator[Evaluated, None, None]:
    """Train to the end, pausing after each evaluation; leave the generator to stop early."""
    with loop.display, interrupts() as interrupted:
        loop.interrupted = loop.processes.any_interrupted(interrupted)
        if loop.runs[0].run.checkpoint("last") is None:
            save(loop, loop.active)
        decision = decide_together(loop)
        pending: Dispatched | None = None
        while decision.reason is None:
            dispatched = dispatch(loop, decision.steps)
            if pending is not None:
                collect(loop, pending)  # while the device works on the one just dispatched
            pending = dispatched
            decision = decide_together(loop)
            due = loop.schedule.evaluation_due(loop.step)
            due |= decision.reason in ("finished", "time is up")
            if due or decision.save or decision.reason is not None:
                collect(loop, pending)
                pending = None
                if due:
                    yield evaluate(loop)
                    decision = decide_together(loop) if decision.reason is None else decision
                else:
                    save(loop, loop.active)
    loop.reason = decision.reason


def decide_together(loop: Loop) -> Decision:
    """What process 0 decides."""
    loop.interrupted()  # one of the others tells it
    return Decision(*loop.processes.from_first("the next steps", lambda: decide(loop)))


def decide(loop: Loop) -> Decision:
    """All that follows a clock or a signal, in one place: one process can decide for many."""
    steps = loop.schedule.length(loop.step, loop.clock.steps_within(DISPATCH_SECONDS))
    reason: Reason | None = None
    if all(not run.active or run.out_of_patience(loop.config.patience) for run in loop.runs):
        reason = "early stopping"
    elif loop.step >= loop.schedule.total:
        reason = "finished"
    elif loop.elapsed >= loop.limit:
        reason = "time is up"
    elif loop.interrupted():
        reason = "interrupted"
    return Decision(steps, loop.clock.since_save() > SAVE_SECONDS, reason)


def dispatch(loop: Loop, length: int) -> Dispatched:
    """Begin the next steps; the device makes them while Python goes on."""
    layout, accumulate = loop.layout, loop.config.accumulate_steps
    batches = loop.schedule.read(
        loop.step, length, layout.rows
    )  # while the device works on the ones before
    batches = layout.place_batches(batches, accumulate=accumulate)
    if loop.step % loop.schedule.epoch_steps == 0:
        loop.state = loop.state._replace(carry=layout.place_carry(loop.trainable.initial_carry))
    with loop.processes.waiting(f"step {loop.step}"):
        loop.state, metrics = loop.multi_step(loop.state, batches, np.int32(length))
    loop.step += length
    return Dispatched(metrics, loop.step, length)


def collect(loop: Loop, dispatched: Dispatched) -> None:
    """Wait for a dispatch, and report it."""
    metrics, step, length = dispatched
    with loop.processes.waiting(f"step {step}"):
        host = jax.tree.map(np.asarray, metrics)
    count = 0.0
    for i in loop.active:
        own = loop.layout.of_run(host, i)
        bad = non_finite(own, length, step)
        if bad is not None:
            fail(loop, i, *bad)
        else:
            loop.runs[i].progress.row.add(own, length)
            count += float(own.weight[:length].sum(dtype=np.float64))
    loop.clock.tick(length, count)
    going = [loop.runs[i] for i in loop.active]
    if not going:
        return
    left = min(
        loop.clock.seconds_per_step * (loop.schedule.total - step), loop.limit - loop.elapsed
    )
    each = [run.figures for run in going]
    means = {name: float(np.mean([figures[name] for figures in each])) for name in each[0]}
    epoch = step / loop.schedule.epoch_steps
    loop.display.update(step, epoch, means, loop.clock.per_second, left)
    if loop.schedule.row_due(step):
        speed = f"{loop.trainable.objective.counts}_per_second"
        figures = {
            speed: round(loop.clock.per_second / len(going), 1),
            "seconds": round(loop.elapsed, 3),
            **{name: float(rate(step - 1)) for name, rate in loop.trainable.rates.items()},
        }
        where = {"step": step, "epoch": round(epoch, 4)}
        for run in going:
            run.write_row(where, figures)


def results(loop: Loop) -> list[Result]:
    """How each run ended; its metrics are drawn."""
    for run in loop.runs if loop.processes.leads else ():
        plot_run(run.run, loop.trainable.objective, loop.trainable.plotted)
    return [
        Result(
            state,
            loop.reason if run.active else "diverged" if run.diverged else EARLY_STOPPING,
            loop.step if run.active else run.run.index["last"]["step"],
            loop.elapsed,
            run.best,
            loop.trainable.objective,
            run.run,
        )
        for run, state in zip(loop.runs, states_of(loop), strict=True)
    ]
