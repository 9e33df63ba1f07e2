"""Options and fixtures of the suite: `pytest benchmarks --grid quick|full`.

`--benchmark-json=benchmarks/results/suite.json` keeps the results, the machine and its ceilings.
"""

from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import grid, machine
from benchmarks.timing import timer, units_for

CEILINGS = pytest.StashKey[dict[str, Any]]()
ROUNDS = 7


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--grid", choices=("quick", "full"), default="quick", help="size of the grid")
    parser.addoption(
        "--run-seconds", type=float, default=0.25, help="length of one measured run, in seconds"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with `training_entry` or `sampling_entry` runs over that grid."""
    for name in ("training", "sampling"):
        if f"{name}_entry" in metafunc.fixturenames:
            entries = getattr(grid, name)(metafunc.config.getoption("--grid"))
            metafunc.parametrize(f"{name}_entry", entries, ids=grid.label)


def measured_ceilings(config: pytest.Config) -> dict[str, Any]:
    """The machine's ceilings, measured once a session."""
    if CEILINGS not in config.stash:
        config.stash[CEILINGS] = machine.ceilings()
    return config.stash[CEILINGS]


@pytest.fixture(scope="session")
def ceilings(pytestconfig: pytest.Config) -> dict[str, Any]:
    return measured_ceilings(pytestconfig)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: Any) -> None:
    machine_info["jaxgen_machine"] = machine.description()
    machine_info["jaxgen_ceilings"] = config.stash.get(CEILINGS, {})


Measure = Callable[..., float]


@pytest.fixture
def measure(benchmark: Any, pytestconfig: pytest.Config) -> Measure:
    """Benchmark `run(units)` by `measure(run, **info)`: median seconds a unit, NaN if disabled."""

    def measure(run: Callable[[int], Any], **info: Any) -> float:
        timed = units_for(_seconds(run), pytestconfig.getoption("--run-seconds"))
        benchmark.extra_info.update(info, units=timed, contestant="jaxgen")
        benchmark.pedantic(run, args=(timed,), rounds=ROUNDS, warmup_rounds=1)
        return benchmark.stats.stats.median / timed if benchmark.stats else float("nan")

    return measure


def _seconds(run: Callable[[int], Any]) -> Callable[[int], float]:
    return lambda units: timer(run, units)()
