"""`jaxgen serve`: names of runs, keys, what is refused in one line, and a real process."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
import jaxgen
from jaxgen.serving.models import named_runs

Fail = Callable[..., str]


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here gets as far as serving."""

    def serve(*arguments: Any) -> None:
        raise AssertionError("it serves")

    monkeypatch.setattr("jaxgen.serving.server.serve", serve)


pytestmark = pytest.mark.usefixtures("never")


def test_runs_are_named_by_their_directories_or_as_wished(tmp_path: Path) -> None:
    (tmp_path / "a=b").mkdir()
    paths = [str(tmp_path / "runs" / "demo"), f"big={tmp_path}/other", str(tmp_path / "a=b")]
    assert named_runs(paths) == {
        "demo": tmp_path / "runs" / "demo",
        "big": tmp_path / "other",
        "a=b": tmp_path / "a=b",
    }


def test_a_run_without_a_name(fail: Fail, run: Path) -> None:
    assert "gives a run no name" in fail("serve", f"={run}")


def test_two_runs_of_one_name(fail: Fail, run: Path, tmp_path: Path) -> None:
    message = fail("serve", run, tmp_path / run.name)
    assert message.startswith(f"two runs would be served as `{run.name}`: {run} and ")
    assert f"NAME={tmp_path / run.name}" in message


def test_a_run_that_is_missing(fail: Fail, tmp_path: Path) -> None:
    assert str(tmp_path / "none") in fail("serve", tmp_path / "none", "--port", 0)


def test_a_run_that_is_half_written(fail: Fail, run: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.toml").write_bytes((run / "config.toml").read_bytes())
    assert str(tmp_path / "half") in fail("serve", tmp_path / "half", "--port", 0)


def test_a_port_in_use(fail: Fail, run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = fail("serve", run, "--port", port)
    assert message.startswith(f"cannot listen on port {port} of 127.0.0.1: ")
    assert message.endswith("choose another --port or --host")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--port", 99999), "cannot listen on port 99999"),
        (("--host", "no.such.host.invalid"), "cannot listen on port 8000 of no.such.host.invalid"),
        (("--slots", 0), "`slots` must be at least 1, got 0"),
        (("--grace", "nan"), "`grace` must be a number of seconds, 0 or more, got nan"),
        (("--training-runs", __file__), "`training_runs` must be a directory, got the file"),
        (("--api-key-file", "/nowhere/key"), "--api-key-file /nowhere/key cannot be read"),
    ],
)
def test_bad_options(fail: Fail, run: Path, options: tuple[Any, ...], says: str) -> None:
    assert says in fail("serve", run, *options)


def test_trainings_lie_where_they_are_told_to(
    say: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Any] = []
    monkeypatch.setattr("jaxgen.serving.server.serve", lambda app, listener: served.append(app))
    runs = tmp_path / "mine"
    code, _, err = say("serve", "--allow-training", "--training-runs", runs, "--port", 0)
    assert (code, "(model none yet)" in err) == (0, True)
    experiment = jaxgen.config.ClassifierExperiment()

    async def start() -> Any:
        job = served[0].state.training.start("reviews", experiment)
        job.cancelled = True  # before it begins
        await served[0].state.training.stop()
        return job

    assert asyncio.run(start()).directory == runs / "reviews"


def test_nothing_to_serve(fail: Fail) -> None:
    assert "name one or several" in fail("serve")


@pytest.mark.parametrize("content", [b"", b"two\nlines", "schlüssel".encode(), b"\xff"])
def test_bad_keys(fail: Fail, run: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    assert "must hold one line" in fail("serve", run, "--api-key-file", tmp_path / "key")


def test_a_short_session_key(fail: Fail, run: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("short\n")
    message = fail("serve", run, "--session-key-file", tmp_path / "key")
    assert "at least 16 bytes, got 5" in message


def test_what_is_not_installed_is_named(
    fail: Fail, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jaxgen.cli.serve.NEEDED", ("fastapi", "no_such_package"))
    message = fail("serve", run)
    assert message == "`serve` needs no_such_package; install with: pip install 'jaxgen[serve]'"


@pytest.mark.slow
def test_a_real_process_answers_and_ends_cleanly(run: Path, tmp_path: Path) -> None:
    """What is in flight at SIGTERM is finished, and the process then ends with 0."""
    (tmp_path / "key").write_text("sesame\n")
    command = [
        sys.executable,
        "-m",
        "jaxgen",
        "serve",
        f"tiny={run}",
        "--port",
        "0",
        "--slots",
        "4",
    ]
    process = subprocess.Popen(
        [*command, "--api-key-file", str(tmp_path / "key")],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "(model tiny)" in line
        address = line.split()[2]
        _wait_until_ready(address, process)
        body = {"model": "tiny", "prompt": "1 and", "seed": 2, "max_tokens": 400, "stream": True}
        with _open(f"{address}/v1/completions", body) as answer:
            first = answer.readline()
            process.send_signal(signal.SIGTERM)
            events = (first + answer.read()).decode().split("\n\n")
        assert events[-2] == "data: [DONE]"
        pieces = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
        text = "".join(piece["choices"][0]["text"] for piece in pieces)
        assert text == jaxgen.load(run).generate("1 and", key=2, max_new_tokens=400)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


def _open(url: str, body: Any = None) -> Any:
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sesame"}
    data = None if body is None else json.dumps(body).encode()
    return urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60)


def _wait_until_ready(address: str, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 600
    while time.monotonic() < until:
        assert process.poll() is None
        try:
            with _open(f"{address}/readyz") as answer:
                assert answer.status == 200
                return
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != 503:
                raise
        time.sleep(0.2)
    pytest.fail("the server did not become ready")
