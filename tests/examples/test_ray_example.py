"""The example on a Ray cluster: a worker that dies is replaced, and the run goes on to its end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny_run import write_config

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "ray_train.py"


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")
def test_a_worker_dies_and_the_run_goes_on(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    longer = {"max_steps = 4": "max_steps = 600", "evaluate_every = 2": "evaluate_every = 100"}
    text = config.read_text().replace("devices = 1", "devices = 2")
    for short, long in longer.items():
        text = text.replace(short, long)
    config.write_text(text)
    out, log = tmp_path / "run", tmp_path / "log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_TRAIN_V2_ENABLED": "1"}
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    with log.open("w") as file:
        child = subprocess.Popen(
            [sys.executable, str(EXAMPLE), str(config), "--out", str(out)],
            env=environment,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 240
        while not (out / "metrics.jsonl").exists():
            assert child.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        worker = int((out / ".owner").read_text().split()[1])
        os.kill(worker, signal.SIGKILL)
        assert child.wait(180) == 0, log.read_text()
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    index = json.loads((out / "run.json").read_text())
    assert index["last"]["step"] == 600
    assert index["notes"]["processes"] == 2
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "nll" in line]
    assert steps == sorted({*steps})
    said = log.read_text()
    assert "'reason': 'finished'" in said
    workers = {int(pid) for pid in re.findall(r"RayTrainWorker pid=(\d+)", said)}
    assert workers - {worker}, "the run was over before the worker was ended"


def test_it_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 100
