"""The live loop: dispatch steps, watch them, evaluate, save, stop.

It knows neither models nor tokens: a state, a compiled chunk of steps, a stream of batches and a
function that evaluates parameters are enough, so every task trains with it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.config import TrainingConfig
from jaxgen.errors import UserError
from jaxgen.training.clock import Clock
from jaxgen.training.interrupts import interrupts
from jaxgen.training.parallel import Layout
from jaxgen.training.plots import plot_run
from jaxgen.training.progress import Display, Unit, in_unit
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

Reason = Literal["finished", "early stopping", "time is up", "interrupted"]
SampleFn = Callable[[PyTree], Sequence[tuple[float, str]]]


@runtime_checkable
class Stream(Protocol):
    """Training batches in order, a pure function of where they are."""

    @property
    def windows_per_epoch(self) -> int:
        """Batches in one pass over the data; the carry starts anew with each pass."""

    def chunk(self, epoch: int, window: int, num_windows: int) -> PyTree:
        """NumPy arrays with `num_windows` consecutive batches on their leading axis."""


@dataclass
class Progress:
    """What the loop itself remembers; saved with every checkpoint."""

    seconds: float = 0.0
    """Spent in the loop, over all resumptions."""
    validation: list[float] = field(default_factory=list)
    """Mean nll of every evaluation."""
    row: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0, 0.0])
    """Of the unfinished metrics row: nll_sum, count, summed grad_norm, steps."""

    def evaluations_since_best(self) -> int:
        """Evaluations without a better figure."""
        if not self.validation:
            return 0
        return len(self.validation) - 1 - self.validation.index(min(self.validation))

    def stalls(self, window: int) -> bool:
        """NT-ASGD's trigger: worse than the best of the evaluations before the last `window`."""
        *earlier, last = self.validation
        return len(earlier) > window and last > min(earlier[:-window])


@dataclass(frozen=True)
class Result:
    """How a training ended."""

    state: TrainState
    reason: Reason
    steps: int
    seconds: float
    best_nll: float | None
    """Best mean nll of the evaluations, nats per token."""


def total_steps(config: TrainingConfig, windows_per_epoch: int) -> int:
    """Optimizer steps of the whole training.

    Raises:
        UserError: One pass over the data has fewer windows than one step takes.
    """
    steps = round(config.epochs * steps_per_epoch(config, windows_per_epoch))
    return max(1, min(steps, config.max_steps or steps))


def steps_per_epoch(config: TrainingConfig, windows_per_epoch: int) -> int:
    """Optimizer steps of one pass; windows too few for another step are left out.

    Raises:
        UserError: One pass over the data has fewer windows than one step takes.
    """
    steps = windows_per_epoch // config.accumulate_steps
    if steps == 0:
        raise UserError(
            f"`training.accumulate_steps` must be at most the {windows_per_epoch} windows of one "
            f"pass over the training text, got {config.accumulate_steps}"
        )
    return steps


def train(
    state: TrainState,
    chunk: TrainChunk,
    stream: Stream,
    evaluate_fn: Callable[[PyTree], dict[str, float]] | None,
    run: Run,
    config: TrainingConfig,
    *,
    initial_carry: PyTree = (),
    layout: Layout | None = None,
    learning_rate: Callable[[int], Any] | None = None,
    sample_fn: SampleFn | None = None,
    unit: Unit = "perplexity",
    display: Display | None = None,
) -> Result:
    """Train until the end, early stopping, the time limit or Ctrl-C; go on where `run` stands.

    Args:
        state: The state before the first step; the run's last checkpoint replaces it.
        chunk: From `parallel.make_chunk`, made with the accumulation and averaging of `config`.
        stream: The training batches.
        evaluate_fn: Parameters to figures, of which "nll" (validation, nats per token) decides
            the best checkpoint and early stopping; None trains without evaluating.
        run: The directory; the caller holds its lock.
        config: Lengths, intervals and limits.
        initial_carry: The model's memory at the start of each epoch.
        layout: Where the chunk wants its inputs.
        learning_rate: Schedule, only to be reported.
        sample_fn: Parameters to (temperature, text) pairs, shown after each evaluation. It must
            not keep the parameters: the next step reuses their memory.
        unit: How to show the nll.
        display: Where to show it; by default a live display on a terminal, else plain lines.

    Returns:
        The state at the end, and why it ended. All is saved in `run`.

    Raises:
        UserError: A loss or gradient is not finite (the last good state is saved), or the disk
            is full.
    """
    layout = layout or Layout()
    epoch_steps = steps_per_epoch(config, stream.windows_per_epoch)
    total = total_steps(config, stream.windows_per_epoch)
    capacity = min(config.steps_per_dispatch, total)
    evaluate_every = config.evaluate_every or epoch_steps
    limit = config.max_minutes * 60.0 if config.max_minutes else float("inf")

    progress = Progress()
    restored = run.restore(state)
    if restored is not None:
        state, saved = restored
        progress = Progress(**saved)
    state = layout.place_state(state._replace(finite=jnp.bool_(True)))
    step = int(state.step)

    started = time.perf_counter() - progress.seconds
    clock = Clock()
    display = display or Display(total, unit)

    def elapsed() -> float:
        return time.perf_counter() - started

    def next_length(step: int) -> int:
        """Steps of the next dispatch: none crosses an epoch, an evaluation or a metrics row."""
        edges = (epoch_steps, evaluate_every, config.steps_per_dispatch)
        room = min(total - step, *(edge - step % edge for edge in edges))
        return max(1, min(room, capacity, clock.steps_within(DISPATCH_SECONDS)))

    def read(step: int, length: int) -> PyTree:
        """Batches of one dispatch on the devices, filled up to its capacity."""
        windows = config.accumulate_steps
        epoch, first = divmod(step, epoch_steps)
        batches = stream.chunk(epoch, first * windows, length * windows)

        def arrange(x: np.ndarray) -> np.ndarray:
            if windows > 1:
                x = x.reshape(length, windows, *x.shape[1:])
            fill = np.zeros((capacity - length, *x.shape[1:]), x.dtype)
            return np.concatenate([x, fill]) if len(fill) else x

        return layout.place_batches(jax.tree.map(arrange, batches), accumulate=windows)

    def save(*, best: bool = False) -> None:
        progress.seconds = elapsed()
        run.save(state, asdict(progress), best=best)
        clock.saved()

    def collect(metrics: Metrics, step: int, length: int) -> None:
        """Wait for a dispatch that ended at `step`, and report it."""
        rows = jax.tree.map(np.asarray, metrics)
        if not rows.finite[:length].all():
            bad = int(np.argmin(rows.finite))
            save()
            raise UserError(_non_finite(rows, bad, step - length + bad))
        values = (rows.nll_sum, rows.num_tokens, rows.grad_norm)
        sums = [float(x[:length].sum(dtype=np.float64)) for x in values]
        clock.tick(length, sums[1])
        progress.row = [old + new for old, new in zip(progress.row, [*sums, length], strict=True)]
        nll = progress.row[0] / max(progress.row[1], 1.0)
        left = min(clock.seconds_per_step * (total - step), limit - elapsed())
        display.update(step, step / epoch_steps, nll, clock.tokens_per_second, left)
        if step % config.steps_per_dispatch == 0 or step % evaluate_every == 0 or step == total:
            row = {
                "step": step,
                "epoch": round(step / epoch_steps, 4),
                "nll": nll,
                unit: in_unit(nll, unit),
                "grad_norm": progress.row[2] / progress.row[3],
                "tokens_per_second": round(clock.tokens_per_second, 1),
                "seconds": round(elapsed(), 3),
            }
            if learning_rate is not None:
                row["learning_rate"] = float(learning_rate(step - 1))
            run.append_metrics(row)
            progress.row = [0.0, 0.0, 0.0, 0.0]

    def evaluate(step: int) -> None:
        """Measure, show, decide what is best, and save."""
        nonlocal state
        params = layout.local(evaluation_params(state))
        figures = dict(evaluate_fn(params)) if evaluate_fn is not None else {}
        best = False
        row: dict[str, Any] = {"step": step, "epoch": round(step / epoch_steps, 4)}
        if figures:
            nll = float(figures.pop("nll"))
            if not np.isfinite(nll):
                save()
                raise UserError(f"validation nll is {nll} at step {step}; lower the learning rate")
            progress.validation.append(nll)
            best = progress.evaluations_since_best() == 0
            row |= {"validation_nll": nll, f"validation_{unit}": in_unit(nll, unit), **figures}
        samples = list(sample_fn(params)) if sample_fn is not None else []
        if samples:
            row["samples"] = [list(sample) for sample in samples]
        display.evaluation(row, best=best, samples=samples)
        run.append_metrics(row | {"seconds": round(elapsed(), 3)})
        stalls = config.averaging == "nt_asgd" and progress.stalls(config.nt_asgd_window)
        if stalls and not is_averaging(state):
            state = layout.place_state(start_averaging(state))
            display.line("validation stalls: averaging the parameters from here on")
        save(best=best)

    def stop() -> Reason | None:
        if step >= total:
            return "finished"
        if elapsed() >= limit:
            return "time is up"
        return "interrupted" if interrupted() else None

    def patience_is_over() -> bool:
        return config.patience is not None and progress.evaluations_since_best() >= config.patience

    with display, interrupts() as interrupted:
        if restored is None:
            save()
        reason: Reason | None = "early stopping" if patience_is_over() else stop()
        pending: tuple[Metrics, int, int] | None = None
        while reason is None:
            length = next_length(step)
            batches = read(step, length)  # while the device works on the dispatch before
            if step % epoch_steps == 0:
                state = state._replace(carry=layout.place_carry(initial_carry))
            state, metrics = chunk(state, batches, np.int32(length))
            step += length
            if pending is not None:
                collect(*pending)
            pending = (metrics, step, length)
            reason = stop()
            evaluation_due = step % evaluate_every == 0 or reason in ("finished", "time is up")
            if evaluation_due or reason or clock.since_save() > SAVE_SECONDS:
                collect(*pending)
                pending = None
                if evaluation_due:
                    evaluate(step)
                    reason = reason or ("early stopping" if patience_is_over() else None)
                else:
                    save()
    plot_run(run)
    best_nll = min(progress.validation, default=None)
    return Result(state, reason, step, elapsed(), best_nll)


def _non_finite(rows: Metrics, index: int, step: int) -> str:
    name = "loss" if not np.isfinite(rows.loss[index]) else "grad_norm"
    value = getattr(rows, name)[index]
    return (
        f"`{name}` is {value} at step {step + 1}: training stopped, and the state after step "
        f"{step} is saved; lower `optimizer.learning_rate` or `optimizer.clip_norm` and train anew"
    )
