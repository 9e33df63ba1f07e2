"""Interleaved timing: every contestant runs once a round, and the ratio inside a round counts.

On a shared machine the speed drifts by tens of per cent within a minute. Two contestants that
run right after each other see nearly the same machine, so their ratio is steadier than either
time: results are medians of per-round ratios with their quartiles.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Spread:
    """Median, quartiles and extremes of repeated measurements, in the unit of the values."""

    median: float
    lower: float
    upper: float
    minimum: float
    maximum: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        ordered = sorted(values)
        if len(ordered) == 1:
            lower = upper = ordered[0]
        else:
            lower, _, upper = statistics.quantiles(ordered, n=4, method="inclusive")
        return cls(statistics.median(ordered), lower, upper, ordered[0], ordered[-1], len(ordered))

    def as_dict(self) -> dict[str, float]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.lower:.3g}, {self.upper:.3g}]"


Timer = Callable[[], float]
"""Runs a contestant once and returns seconds per unit of work."""


def timer(function: Callable[..., Any], *arguments: Any, units: int = 1) -> Timer:
    """Time a function in this process, waiting for what it returns to be computed."""

    def run() -> float:
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        return (time.perf_counter() - started) / units

    return run


def first_call(function: Callable[..., Any], *arguments: Any) -> float:
    """Seconds of the first call: compilation and one run."""
    return timer(function, *arguments)()


def interleave(
    timers: Mapping[str, Timer],
    *,
    rounds: int = 7,
    warm_up: int = 1,
    pause: float = 0.0,
    until: float = math.inf,
) -> dict[str, list[float]]:
    """Run all timers in turn: A B C, then B C A, and so on.

    Args:
        timers: by name.
        rounds: measured rounds.
        warm_up: rounds thrown away first.
        pause: seconds of quiet before each run, in which a library's spinning threads go to sleep.
        until: of `time.monotonic`: no round begins after it, once one is measured.

    Returns:
        For each name its seconds per unit, one a round; equal indices ran next to each other.
    """
    names = list(timers)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for index in range(-warm_up, rounds):
        if index > 0 and time.monotonic() > until:
            break
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            time.sleep(pause)
            taken = timers[name]()
            if index >= 0:
                seconds[name].append(taken)
    return seconds


def ratio(slower: Sequence[float], faster: Sequence[float]) -> Spread:
    """How many times faster the second is: the spread of the ratios round by round."""
    if len(slower) != len(faster):
        raise ValueError(
            f"`slower` and `faster` must come from the same rounds, got {len(slower)} and "
            f"{len(faster)} values"
        )
    return Spread.of([a / b for a, b in zip(slower, faster, strict=True)])


def units_for(run: Callable[[int], float], target_seconds: float, most: int = 10**6) -> int:
    """How many units make a run of about `target_seconds`.

    Args:
        run: runs so many units and returns the seconds of all of them.
        target_seconds: length of one measured run.
        most: upper limit.
    """
    units = 1
    while True:
        seconds = run(units)
        if seconds >= 0.2 * target_seconds or units >= most:
            wanted = round(units * target_seconds / max(seconds, 1e-9))
            return min(max(1, wanted), most)
        units = min(units * 4, most)
