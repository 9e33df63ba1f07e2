"""Interleaving and its spreads, with clocks that only count."""

import pytest

from benchmarks.timing import Spread, interleave, ratio, units_for
from benchmarks.worker import Worker, WorkerError


def test_spread_by_hand() -> None:
    spread = Spread.of([4.0, 1.0, 3.0, 2.0, 5.0])
    assert (spread.median, spread.lower, spread.upper) == (3, 2, 4)
    assert (spread.minimum, spread.maximum, spread.count) == (1, 5, 5)
    assert Spread.of([7.0]).lower == 7


def test_interleave_takes_turns_and_drops_the_warm_up() -> None:
    order: list[str] = []
    clock = iter(range(100))

    def timer(name: str) -> float:
        order.append(name)
        return float(next(clock))

    timers = {name: (lambda name=name: timer(name)) for name in "abc"}
    seconds = interleave(timers, rounds=3, warm_up=1)
    assert "".join(order[3:]) == "abcbcacab"
    assert [len(values) for values in seconds.values()] == [3, 3, 3]
    assert seconds["a"] == [3.0, 8.0, 10.0]
    stopped = interleave(timers, rounds=3, warm_up=1, until=0.0)
    assert [len(values) for values in stopped.values()] == [1, 1, 1]


def test_ratio_is_taken_round_by_round() -> None:
    spread = ratio([2.0, 20.0, 200.0], [1.0, 10.0, 100.0])
    assert (spread.minimum, spread.maximum) == (2, 2)
    with pytest.raises(ValueError, match="same rounds"):
        ratio([1.0], [1.0, 2.0])


def test_units_for_reaches_the_target() -> None:
    assert units_for(lambda units: 0.01 * units, 1.0) == 100
    assert units_for(lambda units: 5.0 * units, 1.0) == 1
    assert units_for(lambda units: 0.0, 1.0, most=50) == 50


def test_a_worker_builds_answers_and_reports_errors() -> None:
    with Worker("benchmarks.cases:Case", B=1, T=2, H=3) as worker:
        assert worker.call("input_size", layer=1) == 3
        assert worker.timed("as_dict") >= 0
        assert worker.peak_bytes() > 2**20
        with pytest.raises(WorkerError, match="no_such_method"):
            worker.call("no_such_method")
        assert worker.call("input_size", layer=0) == 65


def test_a_worker_that_cannot_build_says_why() -> None:
    with pytest.raises(WorkerError, match="NoSuchClass"):
        Worker("benchmarks.cases:NoSuchClass")
