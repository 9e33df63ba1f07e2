"""Who takes part in a comparison: start them, hold them to the same numbers, time them in turn."""

import argparse
import dataclasses
import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from benchmarks.timing import Spread, interleave, ratio, units_for
from benchmarks.worker import Worker, WorkerError

PAUSE = 0.05


@dataclasses.dataclass
class Contestant:
    """One program of one library.

    Attributes:
        name: as the tables show it.
        group: contestants of one group are variants: the fastest in a trial stands for them.
        target: `module:Class` of the worker.
        options: its keyword arguments, besides `case`.
        python: interpreter; None for this one.
        tolerance: largest difference of its first loss from the reference, in nats.
        parts: a unit of its `run` is only one of so many parts of the others' unit: for a peer so
            slow that a whole one would take minutes.
        env: variables of its process, such as `XLA_FLAGS`.
    """

    name: str
    group: str
    target: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    python: str | None = None
    tolerance: float = 1e-5
    parts: int = 1
    env: dict[str, str] = dataclasses.field(default_factory=dict)
    worker: Worker | None = None

    @property
    def is_trial(self) -> bool:
        """Runs with what jaxgen does not do by itself: no ratio to a peer rests on it."""
        return bool(self.env) or "unroll" in self.options

    def start(self, case: dict[str, Any]) -> None:
        python = self.python or sys.executable
        self.worker = Worker(self.target, python=python, env=self.env, case=case, **self.options)

    def stop(self) -> None:
        if self.worker:
            self.worker.close()
            self.worker = None

    def call(self, method: str, **arguments: Any) -> Any:
        assert self.worker
        return self.worker.call(method, **arguments)

    def run(self, steps: int) -> float:
        """Seconds a whole unit, over so many runs."""
        assert self.worker
        return self.worker.timed("run", steps=steps) / steps * self.parts

    def facts(self) -> dict[str, Any]:
        """Compile time and memory, as far as the contestant knows them."""
        assert self.worker
        facts = {"peak_bytes": self.worker.peak_bytes(), "options": self.options}
        try:
            return facts | self.worker.call("facts")
        except WorkerError:
            return facts


def installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def start_all(
    contestants: list[Contestant], case: dict[str, Any], deadline: float = math.inf
) -> list[Contestant]:
    """Those that start before `deadline` (of `time.monotonic`); the others are named."""
    running = []
    for contestant in contestants:
        try:
            if time.monotonic() > deadline:
                raise WorkerError("the minutes are over")
            contestant.start(case)
            running.append(contestant)
        except WorkerError as error:
            print(f"{contestant.name} does not take part: {str(error).splitlines()[-1]}")
    return running


def agreeing(
    running: list[Contestant], method: str, *, mean: bool = False, **arguments: Any
) -> list[Contestant]:
    """Those whose `method` returns what the first one's does, within their tolerance.

    The others are stopped and named, as their times would compare nothing; so are those that fail.

    Args:
        running: contestants; the first that answers is the reference.
        method: returns a list of numbers, or of rows of tokens.
        mean: the tolerance is one of each number; else it is the share of tokens that may differ.
        arguments: of the method.
    """
    kept: list[Contestant] = []
    reference: Any = None
    for contestant in running:
        try:
            mine = np.asarray(contestant.call(method, **arguments))
            reference = mine if reference is None else reference
            off = np.abs(mine - reference).max() if mean else np.mean(mine != reference)
            if off <= contestant.tolerance:
                kept.append(contestant)
                continue
            reason = f"`{method}` is off by {off:.3g}"
        except WorkerError as error:
            reason = str(error).splitlines()[-1]
        print(f"{contestant.name} does not take part: {reason}")
        contestant.stop()
    return kept


def gpu_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that the comparisons share for `benchmarks.gpu`."""
    parser.add_argument("--minutes", type=float, default=60.0, help="cases not begun are left out")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes, on any machine")
    parser.add_argument("--trials", action="store_true", help="also what jaxgen does not do itself")


def gpu_is_here() -> bool:
    """Whether JAX sees a GPU, said on stderr if not. Lets several processes share its memory."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    platform = jax.default_backend()
    if platform != "gpu":
        message = f"error: JAX sees no GPU here (its platform is {platform}); on a machine with one"
        print(f"{message}: pip install 'jaxgen[cuda]'. A trial: --dry-run", file=sys.stderr)
    return platform == "gpu"


def each_case(
    cases: Iterable[Any], compare: Callable[[Any], tuple[list, list]], deadline: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and ratios of all cases begun before `deadline`; the others are named."""
    rows: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for case in cases:
        if time.monotonic() > deadline:
            print(f"left out, the minutes are over: {case.name}")
            continue
        case_rows, case_ratios = compare(case)
        rows += case_rows
        found += case_ratios
    return rows, found


def stop_all(contestants: list[Contestant]) -> None:
    for contestant in contestants:
        contestant.stop()


def measure(
    contestants: list[Contestant],
    *,
    rounds: int,
    seconds: float,
    most: int = 10**6,
    warm_up: int = 1,
    until: float = math.inf,
) -> dict[str, list[float]]:
    """Seconds a step for each contestant and round, interleaved.

    Args:
        contestants: running.
        rounds: measured rounds.
        seconds: length of one run.
        most: most steps of one run.
        warm_up: rounds thrown away, after the runs that find how many steps each makes.
        until: see `interleave`.
    """
    steps = {
        c.name: units_for(lambda n, c=c: c.run(n) * n / c.parts, seconds, most) for c in contestants
    }
    timers = {c.name: (lambda c=c: c.run(steps[c.name])) for c in contestants}
    return interleave(timers, rounds=rounds, pause=PAUSE, warm_up=warm_up, until=until)


def best_of_groups(
    contestants: list[Contestant], *, rounds: int, seconds: float, most: int = 10**6
) -> tuple[list[Contestant], dict[str, list[float]]]:
    """Try all, keep the fastest of each group and stop the others.

    Returns:
        The winners in their old order, and the trial's seconds a step of everyone.
    """
    trial = measure(contestants, rounds=rounds, seconds=seconds, most=most)
    winners = []
    for contestant in contestants:
        rivals = [c for c in contestants if c.group == contestant.group]
        if contestant is min(rivals, key=lambda c: Spread.of(trial[c.name]).median):
            winners.append(contestant)
        else:
            contestant.stop()
    return winners, trial


def ratios(
    seconds: dict[str, list[float]], references: list[Contestant], others: list[Contestant]
) -> list[dict[str, Any]]:
    """How many times faster each reference is than each of the others."""
    return [
        {
            "slower": other.name,
            "faster": reference.name,
            "times": ratio(seconds[other.name], seconds[reference.name]).as_dict(),
        }
        for reference in references
        for other in others
    ]
