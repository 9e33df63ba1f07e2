"""The task of docs/add_a_task.md: it trains, is killed, resumes, and all commands know it."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxgen.cli import main
from jaxgen.config import EXPERIMENTS
from jaxgen.config.toml import parse_toml
from jaxgen.errors import UserError
from jaxgen.experiment import describe, evaluate, export, load, train
from jaxgen.tasks import TASKS
from jaxgen.training import loop
from jaxgen.training.runs import Run

DOCUMENT = Path(__file__).parents[2] / "docs" / "add_a_task.md"
(CODE,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.S)
SETTINGS = """
task = "alternation"
[model]
symbols = 3
[optimizer]
learning_rate = 0.1
[training]
batch_size = 64
epochs = 2
evaluate_every = 5
steps_per_dispatch = 4
devices = 1
"""


@pytest.fixture(scope="module", autouse=True)
def joined() -> Iterator[None]:
    exec(compile(CODE, "alternation.py", "exec"), {"__name__": "alternation"})
    yield
    del EXPERIMENTS["alternation"], TASKS["alternation"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, joined: None) -> Path:
    out = tmp_path_factory.mktemp("toy") / "run"
    result = train(parse_toml(SETTINGS), out=out)
    assert (result.reason, result.best) == ("finished", 1.0)
    return out


def test_the_task_is_short() -> None:
    lines = [line for line in CODE.splitlines() if line.strip()]
    assert len(lines) < 100


def test_it_is_measured_described_and_exported(run: Path, tmp_path: Path) -> None:
    assert evaluate(run)["accuracy"] == 1.0
    facts = describe(run)
    assert (facts["task"], facts["symbols"], facts["parameters"]) == ("alternation", 3, 9)
    assert facts["best_validation_accuracy"] == 1.0
    export(run, tmp_path / "export")
    np.testing.assert_array_equal(load(tmp_path / "export")["scores"], load(run)["scores"])
    assert json.loads((tmp_path / "export/config.json").read_text())["model_type"] == (
        "jaxgen_alternation"
    )
    assert "next of 3 symbols; 9 parameters" in (tmp_path / "export/README.md").read_text()
    assert evaluate(tmp_path / "export", split="validation")["accuracy"] == 1.0


def test_killed_and_resumed_it_is_the_same_run(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    calls = 0

    def dying(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 8:
            raise Killed
        return collect(*arguments)

    collect = loop.collect
    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(loop, "collect", dying)
        train(parse_toml(SETTINGS), out=tmp_path)
    assert 0 < Run.open(tmp_path).index["last"]["step"] < 32
    train(None, out=tmp_path, resume=True)
    ends = [Run.open(path).load_checkpoint("last") for path in (run, tmp_path)]
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_seeds_train_together(run: Path, tmp_path: Path) -> None:
    results = train(parse_toml(SETTINGS), out=tmp_path, seeds=2)
    assert [result.best for result in results] == [1.0, 1.0]
    ends = [Run.open(path).load_params("last")["scores"] for path in (run, tmp_path / "seed-0")]
    np.testing.assert_allclose(*ends, rtol=1e-5)
    assert describe(tmp_path)["best_validation_accuracy_mean"] == 1.0


def test_commands_name_the_right_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(run)]) == 2
    assert "jaxgen evaluate" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"`model\.symbols` is a setting of task alternation"):
        parse_toml("[model]\nsymbols = 3")


def test_options_and_files_that_it_does_not_have(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(run), "--protocol", "exact"]) == 2
    assert "`protocol` (--protocol) is for task language_model, and" in capsys.readouterr().err
    with pytest.raises(UserError, match="alternation has no option `x`; it has none"):
        evaluate(run, x=1)
    with pytest.raises(UserError, match="task alternation reads no `files`"):
        evaluate(run, files=["x.txt"])


def test_a_run_of_a_task_that_is_not_there(run: Path) -> None:
    code = f"import jaxgen.cli; raise SystemExit(jaxgen.cli.main(['info', {str(run)!r}]))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 2
    known = ", ".join(name for name in EXPERIMENTS if name != "alternation")
    assert f"`task` must be one of {known}, got 'alternation'" in ended.stderr
