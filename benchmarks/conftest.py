"""Options and fixtures of the suite: `pytest benchmarks --grid quick|full`.

`--benchmark-json=benchmarks/results/suite.json` keeps the results, the machine and its ceilings.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks import costs, grid, machine
from benchmarks.timing import timer, units_for
from jaxgen.training.parallel import request_host_devices

CEILINGS = pytest.StashKey[dict[str, Any]]()
DEADLINE = pytest.StashKey[float]()
ROUNDS = 7


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--grid", choices=("quick", "full"), default="quick", help="size of the grid")
    parser.addoption(
        "--run-seconds", type=float, default=0.25, help="length of one measured run, in seconds"
    )
    parser.addoption(
        "--minutes", type=float, default=60.0, help="rows not begun by then are skipped"
    )


def pytest_configure(config: pytest.Config) -> None:
    request_host_devices(2)
    config.stash[DEADLINE] = time.monotonic() + 60 * config.getoption("--minutes")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.monotonic() > item.config.stash[DEADLINE]:
        pytest.skip("--minutes are over")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with `training_entry`, `sampling_entry` or `evaluation_entry` runs over that grid."""
    for name in ("training", "sampling", "evaluation"):
        if f"{name}_entry" in metafunc.fixturenames:
            entries = getattr(grid, name)(metafunc.config.getoption("--grid"))
            metafunc.parametrize(f"{name}_entry", entries, ids=lambda entry: entry.label)


@pytest.fixture(scope="session")
def ceilings(pytestconfig: pytest.Config) -> dict[str, Any]:
    """The machine's ceilings, measured once a session."""
    pytestconfig.stash[CEILINGS] = machine.ceilings()
    return pytestconfig.stash[CEILINGS]


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: Any) -> None:
    machine_info["jaxgen_machine"] = machine.description()
    machine_info["jaxgen_ceilings"] = config.stash.get(CEILINGS, {})


Measure = Callable[..., None]


@pytest.fixture
def measure(benchmark: Any, ceilings: dict[str, Any], pytestconfig: pytest.Config) -> Measure:
    """Benchmark `run(units)` by `measure(run, suite=..., cost=..., amount=..., ...)`.

    A unit of `run` is `steps` steps; `cost` and `amount` (tokens, or what `unit` says) are those
    of one step. Further keywords go into the row. Its `peak_bytes` are its `program_bytes`, or
    where there are none what the process grows by in one more run.
    """

    def measure(
        run: Callable[[int], Any],
        *,
        cost: costs.Cost,
        amount: float,
        steps: int = 1,
        dtype: str = "float32",
        first_call_compiles: bool = False,
        **info: Any,
    ) -> None:
        first = timer(run, 1)()
        units = units_for(lambda n: timer(run, n)(), pytestconfig.getoption("--run-seconds"))
        info["peak_bytes"] = info.get("program_bytes") or machine.growth(lambda: run(1))
        benchmark.extra_info.update(info, units=units, steps_per_unit=steps, contestant="jaxgen")
        benchmark.pedantic(run, args=(units,), rounds=ROUNDS, warmup_rounds=1)
        if benchmark.stats:  # not with --benchmark-disable
            unit_seconds = benchmark.stats.stats.median / units
            if first_call_compiles:
                info["compile_seconds"] = max(0.0, first - unit_seconds)
            figures = costs.figures(cost, amount, unit_seconds / steps, ceilings, dtype)
            benchmark.extra_info.update(info, **figures)

    return measure
