"""The live loop: dispatch steps, watch them, evaluate, save, stop.

It knows neither models nor tokens: a state, a compiled chunk of steps, a stream of batches and a
function that evaluates parameters are enough, so every task trains with it.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.config import TrainingConfig
from jaxgen.errors import UserError
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

    def is_best(self) -> bool:
        """Whether the last evaluation is the best so far."""
        return min(self.validation) not in self.validation[:-1] and (
            self.validation[-1] == min(self.validation)
        )

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
    clock = _Clock()
    display = display or Display(total, unit)

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
        progress.seconds = time.perf_counter() - started
        run.save(state, asdict(progress), best=best)
        clock.restart(saved=True)

    def collect(metrics: Metrics, step: int, length: int) -> None:
        """Wait for a dispatch that ended at `step`, and report it."""
        rows = jax.tree.map(np.asarray, metrics)
        if not rows.finite[:length].all():
            bad = step - length + int(np.argmin(rows.finite))
            save()
            raise UserError(_non_finite(rows, int(np.argmin(rows.finite)), bad))
        nll_sum, count = (float(x[:length].sum(dtype=np.float64)) for x in rows[:2])
        clock.tick(length, count)
        grads = float(rows.grad_norm[:length].sum(dtype=np.float64))
        for index, value in enumerate((nll_sum, count, grads, length)):
            progress.row[index] += value
        nll = progress.row[0] / max(progress.row[1], 1.0)
        seconds = time.perf_counter() - started
        left = min(clock.seconds_per_step * (total - step), limit - seconds)
        display.update(step, step / epoch_steps, nll, clock.tokens_per_second, left)
        if step % config.steps_per_dispatch == 0 or step % evaluate_every == 0 or step == total:
            row = {
                "step": step,
                "epoch": round(step / epoch_steps, 4),
                "nll": nll,
                unit: in_unit(nll, unit),
                "grad_norm": progress.row[2] / progress.row[3],
                "tokens_per_second": round(clock.tokens_per_second, 1),
                "seconds": round(seconds, 3),
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
            best = progress.is_best()
            row |= {"validation_nll": nll, f"validation_{unit}": in_unit(nll, unit), **figures}
        samples = list(sample_fn(params)) if sample_fn is not None else []
        if samples:
            row["samples"] = [list(sample) for sample in samples]
        display.evaluation(row, best=best, samples=samples)
        run.append_metrics(row | {"seconds": round(time.perf_counter() - started, 3)})
        stalls = config.averaging == "nt_asgd" and progress.stalls(config.nt_asgd_window)
        if stalls and not is_averaging(state):
            state = layout.place_state(start_averaging(state))
            display.line("validation stalls: averaging the parameters from here on")
        save(best=best)

    def ended() -> Reason | None:
        if step >= total:
            return "finished"
        if config.patience and progress.evaluations_since_best() >= config.patience:
            return "early stopping"
        if time.perf_counter() - started >= limit:
            return "time is up"
        return None

    with display, _interrupts() as interrupted:
        pending: tuple[Metrics, int, int] | None = None
        reason = ended()
        if restored is None:
            save()
        length = next_length(step) if reason is None else 0
        batches = read(step, length) if reason is None else None
        while reason is None:
            if step % epoch_steps == 0:
                state = state._replace(carry=layout.place_carry(initial_carry))
            state, metrics = chunk(state, batches, np.int32(length))
            step += length
            at_evaluation = step % evaluate_every == 0 or step == total
            if pending is not None:  # while the device works on the chunk just sent
                collect(*pending)
            pending = (metrics, step, length)
            due = at_evaluation or interrupted() or clock.save_due()
            if due or time.perf_counter() - started >= limit:
                collect(*pending)
                pending = None
                if at_evaluation:
                    evaluate(step)
                elif due:
                    save()
            reason = "interrupted" if interrupted() else ended()
            if reason is None:
                length = next_length(step)
                batches = read(step, length)
        if reason == "time is up" and step % evaluate_every:
            evaluate(step)
    plot_run(run)
    best_nll = min(progress.validation, default=None)
    return Result(state, reason, step, time.perf_counter() - started, best_nll)


class _Clock:
    """Speed of the steps, leaving out compilation, evaluations and saves."""

    def __init__(self) -> None:
        self.seconds_per_step = 0.0
        self.tokens_per_second = 0.0
        self._mark = self._saved = time.perf_counter()
        self._ticks = 0

    def tick(self, steps: int, tokens: float) -> None:
        """A dispatch has just been waited for."""
        now = time.perf_counter()
        self._ticks += 1
        if self._ticks > 1 and self._mark:  # the first one compiled
            seconds = max(now - self._mark, 1e-9)
            share = 1.0 if self._ticks == 2 else 0.2
            self.seconds_per_step += share * (seconds / steps - self.seconds_per_step)
            self.tokens_per_second += share * (tokens / seconds - self.tokens_per_second)
        self._mark = now

    def restart(self, *, saved: bool = False) -> None:
        """Start anew after something that was not a step."""
        self._mark = time.perf_counter()
        if saved:
            self._saved = self._mark

    def steps_within(self, seconds: float) -> int:
        """Steps that take about so long; one as long as that is unknown."""
        return int(seconds / self.seconds_per_step) if self.seconds_per_step else 1

    def save_due(self) -> bool:
        """Whether it is long since the last save."""
        return time.perf_counter() - self._saved > SAVE_SECONDS


def _non_finite(rows: Metrics, index: int, step: int) -> str:
    name = "loss" if not np.isfinite(rows.loss[index]) else "grad_norm"
    value = getattr(rows, name)[index]
    return (
        f"`{name}` is {value} at step {step + 1}: training stopped, and the state after step "
        f"{step} is saved; lower `optimizer.learning_rate` or `optimizer.clip_norm` and train anew"
    )


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Within: Ctrl-C and SIGTERM only set a flag; a second Ctrl-C raises."""
    hits: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        hits.append(number)
        if len(hits) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    old = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(hits)
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
