"""The benchmark of the service: what clients see, its figures, its record and section."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
from serving.fake_engine import FakeEngine, fake_models, make_tokenizer
from serving.http_server import running

from benchmarks import report, results, serve_load
from benchmarks.load_client import NAME, Streamed, open_loop, quantile, stream
from jaxgen.serving.app import create_app


class StandIn:
    """In the place of the process: a server in this one, whose plain sampler takes no time."""

    def __init__(self, address: str, engine: FakeEngine) -> None:
        self.address, self.engine = address, engine

    def call(self, method: str, **arguments: Any) -> Any:
        held = len(self.engine.open)
        answers = {"address": self.address, "counters": {"active": held, "waiting": 0}}
        return {**answers, "resident": 2**20, "raw": 0}[method]

    def timed(self, method: str, **arguments: Any) -> float:
        return 0.01 * arguments["calls"]


@pytest.fixture
def server() -> Iterator[StandIn]:
    engine = FakeEngine(make_tokenizer())
    with running(create_app(fake_models(engine, NAME))) as address:
        yield StandIn(address, engine)


def test_streams_are_counted_and_compared(server: StandIn) -> None:
    row = serve_load.measure_streams(server, 3, tokens=8, seconds=0.05, rounds=2, batch=3)
    assert row["requests"] >= 6
    assert (row["refused"], row["failed"]) == (0, 0)
    assert row["tokens_per_second"] == pytest.approx(8 * row["requests_per_second"])
    assert 0 < row["first_token_p50"] <= row["first_token_p99"] < row["seconds"]
    assert row["raw_tokens_per_second"]["median"] == pytest.approx(3 * 8 / 0.01)


def test_refusals_are_told_from_failures(server: StandIn) -> None:
    server.engine.room = 0
    row = serve_load.measure_overload(server, rate=200, tokens=4, seconds=0.05)
    assert (row["requests"], row["refused"], row["failed"]) == (10, 10, 0)
    assert (row["first_token_p50"], row["requests_per_second"]) == (None, 0)


def test_clients_that_leave_hold_nothing(server: StandIn) -> None:
    server.engine.gate.clear()  # no text ends
    asyncio.run(stream(server.address, serve_load.fields(4), leave=0.05))
    assert serve_load.left_over(server, patience=2) == 0
    server.engine.gate.set()
    row = serve_load.measure_disconnects(server, 20, tokens=2000, within=0.05)
    assert row["left_before_the_end"] > 0
    assert (row["slots_lost"], row["answered_afterwards"]) == (0, True)


def test_memory_is_taken_after_a_tenth_and_after_all(server: StandIn) -> None:
    row = serve_load.measure_memory(server, requests=20, clients=4)
    assert (row["requests"], row["answered"], row["bytes_after_all"]) == (20, 20, 2**20)


def test_an_open_loop_does_not_wait_for_answers() -> None:
    async def slow() -> Streamed:
        await asyncio.sleep(0.2)
        return Streamed(200, 0.1, 0.2, True)

    seen, seconds = asyncio.run(open_loop(slow, rate=100, seconds=0.1))
    assert len(seen) == 10
    assert seconds < 1.0  # one after the other it would be 2


def test_quantiles() -> None:
    assert quantile([], 0.5) is None
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile(list(range(100)), 0.99) == 99


def test_the_section_says_what_was_measured(server: StandIn, tmp_path: Path) -> None:
    stream_row = serve_load.measure_streams(server, 1, tokens=8, seconds=0.02, rounds=1, batch=1)
    overload = serve_load.measure_overload(server, rate=100, tokens=4, seconds=0.05)
    found = {
        "case": "B=1 T=8 H=4 V=100",
        "streams": [stream_row],
        "overload": overload,
        "unbounded": overload,
        "memory": serve_load.measure_memory(server, requests=10),
        "disconnects": serve_load.measure_disconnects(server, 4, tokens=8, within=0.01),
    }
    results.write(tmp_path / "serve.json", "serve", models=[found])
    page = report.page({"serve.json": results.read(tmp_path / "serve.json")}, [])
    assert "## The service under load" in page
    assert "Twice the load, with the bound: 5 requests" in page
    assert "0 slots lost" in page


@pytest.mark.slow
def test_a_dry_run_measures_a_real_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "serve.json"
    assert serve_load.main(["--dry-run", "--out", str(out)]) == 0
    (found,) = results.read(out)["models"]
    assert [row["streams"] for row in found["streams"]] == [1, 2]
    assert all(row["failed"] == 0 for row in found["streams"])
    classified = results.read(out)["classifier"]
    assert all(classified[kind]["texts_per_second"]["minimum"] > 0 for kind in ("single", "bare"))
    assert found["disconnects"]["slots_lost"] == found["overload"]["left"] == 0
    assert found["memory"]["answered"] == 20
    assert "The service" not in capsys.readouterr().err
