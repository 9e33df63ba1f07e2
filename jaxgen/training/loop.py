"""The live loop: dispatch steps, watch them, evaluate, save, stop.

It knows neither models nor tokens: a state, a compiled chunk of steps, a stream of batches and a
function that evaluates parameters are enough, so every task trains with it. Several runs may train
side by side on the same batches; one that diverges or stops early leaves the others alone.
"""

import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.config import TrainingConfig
from jaxgen.errors import UserError
from jaxgen.training.clock import Clock
from jaxgen.training.dispatches import Dispatches, Stream
from jaxgen.training.interrupts import interrupts
from jaxgen.training.parallel import Layout
from jaxgen.training.plots import plot_run
from jaxgen.training.progress import Display, Unit, in_unit, spread
from jaxgen.training.records import EARLY_STOPPING, Record, non_finite
from jaxgen.training.runs import Run
from jaxgen.training.step import (
    Metrics,
    TrainChunk,
    TrainState,
    evaluation_params,
    is_averaging,
    start_averaging,
)
from jaxgen.types import PyTree

DISPATCH_SECONDS = 0.5
"""A dispatch is kept about this short, so that Ctrl-C and the display answer."""
SAVE_SECONDS = 60.0
"""At most so much work is lost by a kill, besides what evaluations save."""
ADVICE = "lower `optimizer.learning_rate` or `optimizer.clip_norm` and train anew"

Reason = Literal["finished", "early stopping", "time is up", "interrupted", "diverged"]
SampleFn = Callable[[PyTree], Sequence[tuple[float, str]]]


@dataclass(frozen=True)
class Result:
    """How a training ended."""

    state: TrainState
    reason: Reason
    """`diverged` only where other runs beside it went on; else that is an error."""
    steps: int
    seconds: float
    best_nll: float | None
    """Best mean nll of the evaluations, nats per token."""
    run: Run
    """Where it is saved."""


def train(
    state: TrainState,
    chunk: TrainChunk,
    stream: Stream,
    evaluate_fn: Callable[[PyTree], dict[str, Any]] | None,
    runs: Sequence[Run],
    config: TrainingConfig,
    *,
    initial_carry: PyTree = (),
    layout: Layout | None = None,
    learning_rate: Callable[[int], Any] | None = None,
    sample_fn: SampleFn | None = None,
    unit: Unit = "perplexity",
    display: Display | None = None,
    log: Callable[[Sequence[dict[str, Any]]], None] | None = None,
) -> list[Result]:
    """Train until the end, early stopping, the time limit or Ctrl-C; go on where `runs` stand.

    Args:
        state: The state before the first step, of all runs as the layout has them; their last
            checkpoints replace it.
        chunk: From `parallel.make_chunk`, made with the accumulation and averaging of `config`.
        stream: The training batches.
        evaluate_fn: Parameters to figures, of which "nll" (validation, nats per token) decides
            the best checkpoint and early stopping; of several runs, an array of each figure. None
            trains without evaluating.
        runs: The directory of each run; the caller holds the lock.
        config: Lengths, intervals and limits.
        initial_carry: The model's memory at the start of each epoch.
        layout: Where the chunk wants its inputs.
        learning_rate: Schedule, only to be reported.
        sample_fn: Parameters to (temperature, text) pairs, shown after each evaluation of a
            single run. It must not keep the parameters: the next step reuses their memory.
        unit: How to show the nll.
        display: Where to show it; by default a live display on a terminal, else plain lines.
        log: Called with the indexes of all runs before any of them is committed.

    Returns:
        Each run's state at the end, and why it ended. All is saved in `runs`.

    Raises:
        UserError: A loss or gradient of the only run, or of all, is not finite (the last good
            state is saved), or the disk is full.
    """
    layout = layout or Layout()
    dispatches = Dispatches(stream, config)
    epoch_steps, total = dispatches.epoch_steps, dispatches.total
    limit = config.max_minutes * 60.0 if config.max_minutes else float("inf")

    records = [Record(run, unit) for run in runs]
    states = layout.members(state)
    fresh = runs[0].checkpoint("last") is None
    if not fresh:
        pairs = zip(records, states, strict=True)
        states = [record.restore(state) or state for record, state in pairs]
    states = [
        state._replace(finite=jnp.bool_(record.active))
        for record, state in zip(records, states, strict=True)
    ]
    state = layout.place_members(states)
    if all(record.diverged for record in records):
        raise UserError(f"all {len(records)} runs diverged already; {ADVICE}")
    furthest = max(records, key=lambda record: (record.active, record.progress.seconds))
    step = int(states[records.index(furthest)].step)

    started = time.perf_counter() - furthest.progress.seconds
    clock = Clock()
    display = display or Display(total, unit)

    def elapsed() -> float:
        return time.perf_counter() - started

    def active() -> list[int]:
        """The runs that go on."""
        return [index for index, record in enumerate(records) if record.active]

    def evaluation_due(step: int) -> bool:
        return step % dispatches.evaluate_every == 0

    def save(which: Sequence[int], best: Collection[int] = ()) -> None:
        states, indexes = layout.members(state), [run.index for run in runs]

        def prepare(i: int) -> None:
            indexes[i] = records[i].prepare(states[i], elapsed(), best=i in best)

        with ThreadPoolExecutor(8) as pool:  # a save waits more than it works
            list(pool.map(prepare, which))
        if log is not None:
            log(indexes)
        for i in which:
            runs[i].commit(indexes[i])
        clock.saved()

    def fail(i: int, what: str, saved_step: int) -> None:
        """Save a run that is not finite, and go on without it; UserError where it is the last."""
        saved = f"the state after step {saved_step} is saved"
        if len(records) > 1:
            records[i].progress.stopped = what
        save([i])
        if len(records) == 1:
            raise UserError(f"{what}: training stopped, and {saved}; {ADVICE}")
        display.line(f"{records[i].name} diverged: {what}; {saved}, and the others go on")
        if all(record.diverged for record in records):
            raise UserError(f"all {len(records)} runs diverged, the last because {what}; {ADVICE}")

    def collect(metrics: Metrics, step: int, length: int) -> None:
        """Wait for a dispatch that ended at `step`, and report it."""
        rows = jax.tree.map(lambda x: np.asarray(x).reshape(len(records), -1), metrics)
        tokens = 0.0
        for i in active():
            own = jax.tree.map(lambda x, i=i: x[i], rows)
            bad = non_finite(own, length, step)
            if bad is not None:
                fail(i, *bad)
            else:
                tokens += records[i].add(own, length)
        clock.tick(length, tokens)
        going = [records[i] for i in active()]
        if not going:
            return
        nll = float(np.mean([record.nll for record in going]))
        left = min(clock.seconds_per_step * (total - step), limit - elapsed())
        display.update(step, step / epoch_steps, nll, clock.tokens_per_second, left)
        if step % config.steps_per_dispatch == 0 or evaluation_due(step) or step == total:
            figures = {
                "tokens_per_second": round(clock.tokens_per_second / len(going), 1),
                "seconds": round(elapsed(), 3),
            }
            if learning_rate is not None:
                figures["learning_rate"] = float(learning_rate(step - 1))
            for record in going:
                record.write_row(where(step), figures)

    def where(step: int) -> dict[str, Any]:
        return {"step": step, "epoch": round(step / epoch_steps, 4)}

    def evaluate(step: int) -> None:
        """Measure, show, decide what is best and what stops, and save."""
        nonlocal state
        states = layout.members(state)
        params = layout.local(evaluation_params(state))
        figures = dict(evaluate_fn(params)) if evaluate_fn is not None else {}
        rows: dict[int, dict[str, Any]] = {}
        best, stalled = set(), []
        for i in active():
            record, row = records[i], where(step)
            own = {name: float(np.ravel(value)[i]) for name, value in figures.items()}
            if own:
                nll = own.pop("nll")
                if not np.isfinite(nll):
                    fail(i, f"validation nll is {nll} at step {step}", step)
                    continue
                if record.add_validation(nll):
                    best.add(i)
                row |= {"validation_nll": nll, f"validation_{unit}": in_unit(nll, unit), **own}
            samples = list(sample_fn(params)) if sample_fn is not None else []
            if samples:
                row["samples"] = [list(sample) for sample in samples]
            if len(records) == 1:
                display.evaluation(row, best=i in best, samples=samples)
            record.run.append_metrics(row | {"seconds": round(elapsed(), 3)})
            rows[i] = row
            if config.averaging == "nt_asgd" and record.progress.stalls(config.nt_asgd_window):
                stalled += [] if is_averaging(states[i]) else [i]
        if len(records) > 1 and figures and rows:
            name = f"validation_{unit}"
            values = {records[i].name: row[name] for i, row in rows.items()}
            display.line(f"step {step}  epoch {step / epoch_steps:.2f}  {name} {spread(values)}")
        for i in stalled:
            states[i] = start_averaging(states[i])
            who = "" if len(records) == 1 else f"{records[i].name}: "
            display.line(f"{who}validation stalls: averaging the parameters from here on")
        if stalled:
            state = layout.place_members(states)
        for i in rows:
            if len(records) > 1 and out_of_patience(records[i]):
                records[i].progress.stopped = EARLY_STOPPING
                display.line(f"{records[i].name} stops early, at step {step}")
        save(list(rows), best)
        if len(active()) < len(records):
            flags = [jnp.bool_(record.active) for record in records]
            pairs = zip(layout.members(state), flags, strict=True)
            state = layout.place_members([s._replace(finite=flag) for s, flag in pairs])

    def out_of_patience(record: Record) -> bool:
        since = record.progress.evaluations_since_best()
        return config.patience is not None and since >= config.patience

    def stop() -> Reason | None:
        if all(not record.active or out_of_patience(record) for record in records):
            return "early stopping"
        if step >= total:
            return "finished"
        if elapsed() >= limit:
            return "time is up"
        return "interrupted" if interrupted() else None

    with display, interrupts() as interrupted:
        if fresh:
            save(active())
        reason = stop()
        pending: tuple[Metrics, int, int] | None = None
        while reason is None:
            length = dispatches.length(step, clock.steps_within(DISPATCH_SECONDS))
            batches = dispatches.read(step, length)  # while the device works on the one before
            batches = layout.place_batches(batches, accumulate=config.accumulate_steps)
            if step % epoch_steps == 0:
                state = state._replace(carry=layout.place_carry(initial_carry))
            state, metrics = chunk(state, batches, np.int32(length))
            step += length
            if pending is not None:
                collect(*pending)
            pending = (metrics, step, length)
            reason = stop()
            due = evaluation_due(step) or reason in ("finished", "time is up")
            if due or reason or clock.since_save() > SAVE_SECONDS:
                collect(*pending)
                pending = None
                if due:
                    evaluate(step)
                    reason = reason or stop()
                else:
                    save(active())
    for run in runs:
        plot_run(run)
    return [
        Result(
            state,
            reason if record.active else "diverged" if record.diverged else "early stopping",
            step if record.active else record.run.index["last"]["step"],
            elapsed(),
            record.best_nll,
            record.run,
        )
        for record, state in zip(records, layout.members(state), strict=True)
    ]
