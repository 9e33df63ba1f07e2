"""A run that begins with the parameters of another one, and outlives it; the task is the toy."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_add_a_task import CODE, SETTINGS

from jaxgen.cli import main
from jaxgen.config import EXPERIMENTS
from jaxgen.config.toml import parse_toml
from jaxgen.errors import UserError
from jaxgen.experiment import describe, export, load, train
from jaxgen.tasks import TASKS
from jaxgen.training.runs import Run


@pytest.fixture(scope="module", autouse=True)
def joined() -> Iterator[None]:
    exec(compile(CODE, "alternation.py", "exec"), {"__name__": "alternation"})
    yield
    del EXPERIMENTS["alternation"], TASKS["alternation"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, joined: None) -> Path:
    out = tmp_path_factory.mktemp("toy") / "first"
    train(parse_toml(SETTINGS).updated(training={"max_steps": 2}), out=out)
    return out


@pytest.fixture
def first(made: Path, tmp_path: Path) -> Path:
    """A run to begin with, which the test may remove."""
    return Path(shutil.copytree(made, tmp_path / "first"))


def scores(path: Path) -> np.ndarray:
    return Run.open(path).load_checkpoint("last")["params"]["scores"]


def standing(first: Path, **training: Any) -> Any:
    """Settings that begin from a run and move by nothing that float32 can say."""
    return parse_toml(SETTINGS).updated(
        model={"pretrained": first},
        optimizer={"name": "sgd", "learning_rate": 1e-30},
        training={"max_steps": 1, **training},
    )


@pytest.mark.parametrize(("source", "averaging"), [("run", "ema"), ("export", "none")])
def test_it_begins_with_the_parameters(
    source: str, averaging: str, made: Path, tmp_path: Path
) -> None:
    start = made
    if source == "export":
        export(made, start := tmp_path / "export", which="last")
    train(standing(start, averaging=averaging), out=tmp_path / "run")
    np.testing.assert_array_equal(scores(tmp_path / "run"), scores(made))
    np.testing.assert_allclose(load(tmp_path / "run")["scores"], scores(made), rtol=1e-6)
    assert describe(tmp_path / "run")["settings"]["model.pretrained"] == start


@pytest.mark.slow
def test_all_seeds_begin_with_them(made: Path, tmp_path: Path) -> None:
    train(standing(made), out=tmp_path / "seeds", seeds=2)
    for seed in (0, 1):
        np.testing.assert_array_equal(scores(tmp_path / f"seeds/seed-{seed}"), scores(made))


def test_it_outlives_the_other_run(first: Path, tmp_path: Path) -> None:
    """Resumed bit for bit, loaded and exported where the pretrained directory is gone."""
    longer = parse_toml(SETTINGS).updated(model={"pretrained": first}, training={"max_steps": 6})
    train(longer, out=tmp_path / "whole")
    train(longer.updated(training={"max_steps": 4}), out=tmp_path / "run")
    shutil.rmtree(first)
    train(longer, out=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(scores(tmp_path / "run"), scores(tmp_path / "whole"))
    export(tmp_path / "run", tmp_path / "export")
    np.testing.assert_array_equal(
        load(tmp_path / "export")["scores"], load(tmp_path / "run")["scores"]
    )
    elsewhere = longer.updated(model={"pretrained": tmp_path})
    with pytest.raises(UserError, match=r"a resumed run keeps .* `model\.pretrained` is"):
        train(elsewhere, out=tmp_path / "run", resume=True)


def test_cut_off_before_the_first_checkpoint_it_still_begins_there(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(*arguments: object, **options: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("jaxgen.start.open_loop", die)
        with pytest.raises(Killed):
            train(standing(made), out=tmp_path / "run")
    train(None, out=tmp_path / "run", resume=True)
    np.testing.assert_array_equal(scores(tmp_path / "run"), scores(made))


def test_from_the_command_line(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy.toml").write_text(SETTINGS)
    monkeypatch.chdir(tmp_path)
    command = ["train", "toy.toml", "--model.pretrained", "first", "--training.max-steps", "1"]
    assert main([*command, "--out", "run"]) == 0
    assert 'pretrained = "first"' in (tmp_path / "run/config.toml").read_text()
    assert main(["info", "run"]) == 0
    assert "model.pretrained" in capsys.readouterr().out


def test_what_cannot_be_begun_with(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error each, and no run is begun."""
    run = tmp_path / "run"
    with pytest.raises(
        UserError, match=r"`model\.pretrained` cannot be read: .*none does not exist"
    ):
        train(standing(tmp_path / "none"), out=run)
    sizes = standing(first).updated(model={"symbols": 4})
    with pytest.raises(
        UserError, match=r"`scores` is float32\[3, 3\] there and float32\[4, 4\] he"
    ):
        train(sizes, out=run)
    checkpoints = next((first / "checkpoints").iterdir()).parent
    shutil.rmtree(checkpoints)
    with pytest.raises(
        UserError, match=r"`model\.pretrained` cannot be read: checkpoint .* missing"
    ):
        train(standing(first), out=run)
    (first / "run.json").unlink()
    with pytest.raises(UserError, match=r"cannot be read: .* is not a run directory"):
        train(standing(first), out=run)
    assert not (run / "run.json").exists()


def test_a_run_of_another_task(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picky = dataclasses.replace(TASKS["alternation"], begins_from=("language_model",))
    monkeypatch.setitem(TASKS, "alternation", picky)
    with pytest.raises(UserError, match=r"of task language_model, and .*first is of task alter"):
        train(standing(made), out=tmp_path / "run")
