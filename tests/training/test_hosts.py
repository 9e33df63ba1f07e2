"""Several processes train what one trains, whatever becomes of one of them."""

import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from gang import Gang, command, environment, wait_for
from tiny_run import write_config

from jaxgen.cli import main

pytestmark = pytest.mark.slow
LENGTH = ("--training.max-steps", 300, "--training.evaluate-every", 100)
DROPOUT = ("--model.dropout", 0.1, "--training.devices", 2)


def rows(run: Path) -> list[dict[str, float]]:
    """The metrics, but for what follows a clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clocks = ("seconds", "tokens_per_second", "samples")
    return [{k: v for k, v in line.items() if k not in clocks} for line in lines]


def assert_same(run: Path, other: Path) -> None:
    """The same metrics, to the order of float additions."""
    ours, theirs = rows(run), rows(other)
    assert [row.keys() for row in ours] == [row.keys() for row in theirs]
    for row, expected in zip(ours, theirs, strict=True):
        for name, value in row.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, its settings, and what one process makes of them with two devices."""
    folder = tmp_path_factory.mktemp("hosts")
    options = (write_config(folder), "--out", folder / "one", *LENGTH, *DROPOUT)
    assert main(["train", *map(str, options)]) == 0
    return folder


@pytest.mark.parametrize("killed", [(0,), (1,), (0, 1)])
def test_two_killed_at_any_moment_end_as_one(
    folder: Path, tmp_path: Path, killed: tuple[int, ...]
) -> None:
    out = tmp_path / "run"
    options = (folder / "tiny.toml", "--out", out, *LENGTH, *DROPOUT)
    gang = Gang(tmp_path, 2, *options)
    wait_for(out / "metrics.jsonl")
    time.sleep(random.uniform(0, 0.3))
    for index in killed:
        gang.processes[index].kill()
    start = time.monotonic()
    codes = gang.wait()
    assert time.monotonic() - start < 60
    if killed == (1,) and codes[0]:  # else it was over before
        assert codes[0] == 75
        assert "error: another process ended" in gang.said(0)
    if any(codes):
        gang = Gang(tmp_path, 2, "--resume", "--out", out)
        assert gang.wait() == [0, 0], gang.said(0) + gang.said(1)
    assert_same(out, folder / "one")
    assert "[distributed]" not in (out / "config.toml").read_text()
    assert "finished" not in gang.said(1)  # process 0 alone shows


def test_another_number_of_processes_goes_on(folder: Path, tmp_path: Path) -> None:
    out, short = tmp_path / "run", ("--training.max-steps", 20, "--training.evaluate-every", 100)
    gang = Gang(tmp_path, 2, folder / "tiny.toml", "--out", out, *short, *DROPOUT)
    assert gang.wait() == [0, 0], gang.said(0)
    assert main(["train", "--resume", "--out", str(out), "--training.max-steps", "40"]) == 0
    gang = Gang(tmp_path, 1, "--resume", "--out", out, "--training.max-steps", 60)
    assert gang.wait() == [0]
    assert rows(out)[-1]["step"] == 60
    for row in (r for r in rows(out) if "nll" in r):
        expected = next(r for r in rows(folder / "one") if r["step"] == row["step"] and "nll" in r)
        np.testing.assert_allclose(row["nll"], expected["nll"], rtol=1e-4)


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="needs Open MPI")
def test_open_mpi_says_where_each_of_four_stands(folder: Path, tmp_path: Path) -> None:
    plain = (folder / "tiny.toml", "--training.batch-size", 4, "--training.max-steps", 40)
    options = (*plain, "--training.evaluate-every", 20)
    one, four = tmp_path / "one", tmp_path / "four"
    assert main(["train", *map(str, (*options, "--out", one))]) == 0
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "4"]
    auto = ("--out", four, "--distributed.coordinator", "auto", "--training.devices", 4)
    done = subprocess.run(
        [*mpirun, *command(*options, *auto)], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert_same(four, one)


def test_a_straggler_is_waited_for_but_not_for_ever(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = (folder / "tiny.toml", "--out", out, *LENGTH, *DROPOUT)
    gang = Gang(tmp_path, 2, *options, "--distributed.timeout-seconds", 12)
    wait_for(out / "metrics.jsonl")
    gang.processes[1].send_signal(signal.SIGSTOP)
    time.sleep(2)
    gang.processes[1].send_signal(signal.SIGCONT)
    time.sleep(0.3)
    assert all(process.poll() in (None, 0) for process in gang.processes), gang.said(0)
    gang.processes[1].send_signal(signal.SIGSTOP)
    start = time.monotonic()
    code = gang.processes[0].wait(60)
    gang.processes[1].send_signal(signal.SIGCONT)
    codes = gang.wait(60)
    if code == 0:  # it was over before
        assert codes == [0, 0]
        return
    assert code == 75
    assert 5 < time.monotonic() - start < 40
    assert "process 1 has been silent for 12 s" in gang.said(0) or "waited 12 s" in gang.said(0)
    assert codes[1] != 0


def test_a_full_disk_ends_all_with_its_error(folder: Path, tmp_path: Path) -> None:
    full = (
        "import shutil, collections\nusage = shutil.disk_usage\ncalls = []\n"
        "def full(path):\n"
        "    calls.append(path)\n"
        "    return usage(path)._replace(free=0) if len(calls) > 1 else usage(path)\n"
        "shutil.disk_usage = full"
    )
    options = (folder / "tiny.toml", "--out", tmp_path / "run", *LENGTH, *DROPOUT)
    gang = Gang(tmp_path, 2, *options, before=(full, ""))
    assert gang.wait(60) == [2, 2]
    message = "could not save the checkpoint of step 100"
    assert f"error: {message}" in gang.said(0)
    assert f"error: process 0 ended: {message}" in gang.said(1)
    assert "No space left on device; the checkpoint of step 0 still loads" in gang.said(1)


def test_a_coordinator_that_never_comes(folder: Path, tmp_path: Path) -> None:
    start = time.monotonic()
    place = ("--distributed.coordinator", "localhost:1", "--distributed.num-processes", 2)
    limit = ("--distributed.process-id", 1, "--distributed.connect-seconds", 3)
    options = (folder / "tiny.toml", "--out", tmp_path / "run", *place, *limit)
    done = subprocess.run(command(*options), env=environment(), capture_output=True, text=True)
    assert done.returncode == 75
    assert time.monotonic() - start < 30
    assert done.stderr.splitlines()[-1].startswith(
        "error: after 3 s the coordinator localhost:1 or some process had not come; start all"
    )


def test_different_settings_are_named(folder: Path, tmp_path: Path) -> None:
    rates = [("--optimizer.learning-rate", rate) for rate in (0.01, 0.02)]
    options = (folder / "tiny.toml", "--out", tmp_path / "run", *DROPOUT)
    gang = Gang(tmp_path, 2, *options, own=rates)
    assert gang.wait(60) == [2, 2]
    message = "process 1 has `optimizer.learning_rate` 0.02, and process 0 has 0.01"
    assert message in gang.said(1)
    assert f"process 1 ended: {message}" in gang.said(0)
    assert not (tmp_path / "run" / "run.json").exists()
