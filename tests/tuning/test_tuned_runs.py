"""Trials that are really trained: the best seed of the best one becomes an ordinary run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tiny_run import write_config

import jaxgen
from jaxgen.config import EXPERIMENTS
from jaxgen.errors import UserError
from jaxgen.training.runs import Run

pytest.importorskip("optuna")

SPACE = {"optimizer": {"learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}}
SMALL = {"model": {"hidden_size": 4, "embedding_size": 4}}
SHORT = {"training": {"max_steps": 4, "evaluate_every": 2, "devices": 1}}
BUCKET = {"data": {"buckets": 1}}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "classifier": ("accuracy", SMALL | SHORT | BUCKET),
    "conditional_language_model": ("nll", SMALL | SHORT | BUCKET),
    "seq2seq": ("nll", SMALL | SHORT | {"data": {"examples": 500, "buckets": 1}}),
    "text_gan": (
        "bleu_f1",
        {
            "model": {
                **SMALL["model"],
                "discriminator_embedding_size": 4,
                "discriminator_hidden_size": 4,
            },
            "training": {"epochs": 0.01, "evaluate_every": 2, "devices": 1},
            "adversarial": {"steps": 2, "discriminator_pretrain_steps": 1},
            "samples": {"measured": 10},
        },
    ),
}
"""The figure of each other task, and settings that train in a moment once they are compiled."""
ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path)


def tune(config: Path, **options: Any) -> Any:
    options = {"space": SPACE, "out": config.parent / "best", "say": lambda line: None, **options}
    return jaxgen.tune(config, **options)


@pytest.mark.slow
def test_the_best_trial_is_what_train_makes_with_its_settings(config: Path) -> None:
    tuning = tune(config, trials=2)
    assert {trial.ended for trial in tuning.trials} == {"finished"}
    tuned, alone = Run.open(tuning.out), config.parent / "alone"
    result = jaxgen.train(tuning.folder / "best.toml", out=alone)
    np.testing.assert_allclose(tuning.best.value, result.best, rtol=1e-6)
    one, other = (run.load_params("last") for run in (tuned, Run.open(alone)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), one, other)
    assert [row["step"] for row in tuned.read_metrics() if "validation_nll" in row] == [2, 4]
    assert isinstance(jaxgen.load(tuning.out).generate("1 ", max_new_tokens=3, key=0), str)
    resumed = jaxgen.load(tuning.out).config.updated(training={"max_steps": 6})
    assert jaxgen.train(resumed, out=tuning.out, resume=True).steps == 6
    with pytest.raises(UserError, match="was trained on since a study put it there"):
        tune(config, trials=3)
    assert tune(config, trials=3, overwrite=True).reason == "all trials made"
    assert Run.open(tuning.out).checkpoint("last")["step"] == 4


@pytest.mark.slow
def test_the_best_seed_is_kept(config: Path) -> None:
    tuning = tune(config, trials=2, seeds=2)
    number = int(np.argmin(tuning.best.figures))
    tuned = jaxgen.load(tuning.out).config
    assert tuned.training.seed == number
    alone = jaxgen.train(tuned, out=config.parent / "alone")
    np.testing.assert_allclose(tuning.best.figures[number], alone.best, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_each_task_by_its_own_figure(task: str, tmp_path: Path) -> None:
    figure, settings = TASKS[task]
    experiment = EXPERIMENTS[task].model_validate(settings)
    tuning = jaxgen.tune(experiment, SPACE, out=tmp_path / "best", trials=2, say=print)
    assert [trial.ended for trial in tuning.trials] == ["finished"] * 2
    assert tuning.objective.name == figure
    rows = Run.open(tuning.out).read_metrics()
    measured = [row[f"validation_{figure}"] for row in rows if f"validation_{figure}" in row]
    best = max(measured) if tuning.objective.higher_is_better else min(measured)
    np.testing.assert_allclose(tuning.best.value, best, rtol=1e-6)
    assert jaxgen.load(tuning.out).config.task == task


@pytest.mark.slow
def test_what_diverges_is_a_failed_trial(config: Path) -> None:
    space = {"optimizer": {"learning_rate": [2e-3, 1e38], "name": ["sgd"]}}
    tuning = tune(config, space=space, trials=4)
    failures = {trial.settings["optimizer.learning_rate"]: trial.failure for trial in tuning.trials}
    assert failures[2e-3] is None
    assert "training stopped" in failures[1e38]


def test_another_run_is_not_replaced(config: Path) -> None:
    fixture = ROOT / "tests" / "fixtures" / "format_1" / "run"
    shutil.copytree(fixture, config.parent / "best")
    with pytest.raises(UserError, match=r"already holds a run; .* replace it with --force"):
        tune(config, trials=1)


@pytest.mark.slow
def test_workers_in_processes_of_their_own_and_one_killed(config: Path) -> None:
    """Two share a study; one is killed in a trial, and a third takes its place."""
    space = config.with_name("space.toml")
    space.write_text("[optimizer]\nlearning_rate = {low = 1e-3, high = 1e-1, log = true}\n")
    command = [sys.executable, "-m", "jaxgen", "tune", str(config), "--space", str(space)]
    command += ["--out", str(config.parent / "best"), "--trials", "6"]
    start = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def worker() -> Any:
        return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **start)

    first, second = worker(), worker()
    folder = config.parent / "best.study"
    while not list(folder.glob("trial-*/checkpoints")):
        time.sleep(0.05)
        assert first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.communicate()
    third = worker()
    for process in (second, third):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    tuning = tune(config, space=space, trials=6)
    ended = [trial.ended for trial in tuning.trials]
    assert ended.count("lost") <= 1
    assert 6 <= len(ended) - ended.count("lost") <= 7
    found = json.loads((tuning.out / "run.json").read_text())["notes"]["tuned"]["trial"]
    assert found == tuning.best.number
