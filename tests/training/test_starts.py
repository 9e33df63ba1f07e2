"""Starting in a directory: other people's files stay, and a kill at any moment is started again."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxgen.directories import kind_of
from jaxgen.errors import UserError
from jaxgen.training.runs import Run, locked
from jaxgen.training.seed_runs import SeedRuns
from jaxgen.training.starts import check_start
from jaxgen.training.step import init_state

OURS = {"config.toml": "seed = 1\n", "tokenizer.json": "{}"}
OPERATIONS = ("replace", "rename", "unlink", "mkdir", "rmdir", "fsync")


class Killed(BaseException):
    """Ends everything as a kill does: nothing may catch it."""


@pytest.fixture(autouse=True)
def small_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in a checkpoint does not matter here."""

    def save_tree(directory: Path, tree: Any) -> dict[str, list[int]]:
        directory.mkdir()
        (directory / "data").write_bytes(b"x")
        return {"data": [1, 0]}

    monkeypatch.setattr("jaxgen.training.runs.save_tree", save_tree)


def train_a_little(run: Run, step: int = 1) -> None:
    """What a run has once it goes."""
    state = init_state({"w": jnp.ones(2)}, optax.sgd(0.1), jax.random.key(0))
    run.append_metrics({"step": step})
    run.save(state._replace(step=jnp.int32(step)), {"seconds": 1.0})
    (run.directory / "loss.png").write_bytes(b"png")


def trained_run(directory: Path) -> Path:
    train_a_little(Run.create(directory, OURS))
    return directory


def trained_seeds(directory: Path, seeds: range = range(2)) -> Path:
    home = SeedRuns.create(directory, seeds, 1, lambda seed: OURS)
    for run in home.runs:
        train_a_little(run)
    home.log([run.index for run in home.runs])
    return directory


def start_run(directory: Path, *, overwrite: bool = False) -> None:
    with locked(directory):
        Run.create(
            directory,
            {"config.toml": "seed = 2\n", "tokenizer.json": "[]"},
            {},
            overwrite=overwrite,
        )


def start_seeds(directory: Path, *, overwrite: bool = False) -> None:
    with locked(directory):
        SeedRuns.create(
            directory,
            range(1, 3),
            1,
            lambda seed: {"config.toml": f"seed = {seed}\n", "tokenizer.json": "[]"},
            overwrite=overwrite,
        )


def contents(directory: Path) -> dict[str, bytes]:
    """All files below a directory but those of the lock."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name not in (".lock", ".owner")
    }


def strange(directory: Path) -> dict[str, bytes]:
    """Put other people's files among jaxgen's."""
    files = {"notes.md": b"mine", "checkpoints/my.pt": b"weights", "seed-0/log.txt": b"line"}
    files["tokens/words.txt"] = b"a b"
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(content)
    return files


@pytest.mark.parametrize(
    "name", ["config.toml", "checkpoints/my.pt", "run.json", "tokens/words.txt", "movie.part"]
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_other_peoples_directories_are_refused(tmp_path: Path, name: str, overwrite: bool) -> None:
    out = tmp_path / "p"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text('{"mine": 1}')
    before = contents(out)
    first = name.partition("/")[0]
    for create in (start_run, start_seeds):
        with pytest.raises(UserError, match=f"is not empty and not a run: it holds {first}; "):
            check_start(out, overwrite=overwrite)
        with pytest.raises(UserError, match=f"it holds {first}; choose a new"):
            create(out, overwrite=overwrite)
    assert contents(out) == before


def test_what_a_cut_off_start_leaves_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "tokens").mkdir()
    for name in (".lock", ".owner", ".run.json.part", "tokens/train-0123456789abcdef-99.uint8"):
        (tmp_path / name).write_text("x")
    (tmp_path / "tokens/train-0123456789abcdef-x1y2.part").write_text("x")
    assert kind_of(tmp_path) == "unfinished"
    start_run(tmp_path)
    assert Run.open(tmp_path).read_file("config.toml") == "seed = 2\n"


Start = Callable[..., None]
SCENES: dict[str, tuple[Callable[[Path], Any] | None, Start, bool]] = {
    "a new run": (None, start_run, False),
    "new seeds": (None, start_seeds, False),
    "a run for a run": (trained_run, start_run, True),
    "seeds for a run": (trained_run, start_seeds, True),
    "a run for seeds": (trained_seeds, start_run, True),
    "seeds for seeds": (trained_seeds, start_seeds, True),
}


def killed_everywhere(
    scene: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, dict[str, bytes]]]:
    """Yield the directory after a kill before each operation of a start, and other people's files.

    The last one was not killed.
    """
    before, start, overwrite = SCENES[scene]
    if before:
        before(tmp_path / "before")
    for number in range(1000):
        out, left = tmp_path / str(number), [number]
        if before:
            shutil.copytree(tmp_path / "before", out)
        foreign_files = strange(out) if before else {}

        def dying(name: str, left: list[int] = left) -> Callable[..., Any]:
            real = getattr(os, name)

            def operation(*arguments: Any, **options: Any) -> Any:
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return real(*arguments, **options)

            return operation

        with monkeypatch.context() as patch:
            for name in OPERATIONS:
                patch.setattr(os, name, dying(name))
            try:
                start(out, overwrite=overwrite)
                done = True
            except Killed:
                done = False
        yield out, foreign_files
        if done:
            return
    raise AssertionError("more operations than expected")


SLOW = {"seeds for a run", "a run for seeds", "seeds for seeds"}


@pytest.mark.parametrize(
    "scene",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in SCENES],
)
def test_a_start_that_is_killed_is_started_again(
    scene: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, start, overwrite = SCENES[scene]
    ends = []
    for out, foreign_files in killed_everywhere(scene, tmp_path, monkeypatch):
        assert foreign_files.items() <= contents(out).items()
        start(out, overwrite=overwrite)
        end = contents(out)
        if "seed-0/run.json" in end:  # of a seed that is no more: it still says what was removed
            assert kind_of(out / "seed-0") == "unfinished"
            del end["seed-0/run.json"]
        ends.append(end)
        assert kind_of(out) == "unfinished"
    assert len(ends) > 15
    for end in ends:
        assert end == ends[-1]
    assert foreign_files.items() <= ends[-1].items()
    rest = ends[-1].keys() - foreign_files.keys()
    assert not any("checkpoints/0" in name or name.endswith(("jsonl", "png")) for name in rest)


def test_a_configuration_put_into_a_cut_off_start_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for out, _ in killed_everywhere("a new run", tmp_path, monkeypatch):
        out.mkdir(exist_ok=True)
        (out / "config.toml").write_text("mine")
        with pytest.raises(UserError, match=r"config\.toml"):
            start_run(out)
        assert (out / "config.toml").read_text() == "mine"


def test_a_run_is_replaced_only_when_told_to(tmp_path: Path) -> None:
    for make in (trained_run, trained_seeds):
        out = make(tmp_path / make.__name__)
        foreign_files, before = strange(out), contents(out)
        for start in (start_run, start_seeds):
            with pytest.raises(UserError, match=r"already holds a run; .*--resume.*--force"):
                start(out)
        assert contents(out) == before
        start_run(out, overwrite=True)
        assert foreign_files.items() <= contents(out).items()


def test_a_run_before_its_first_step_is_started_again(tmp_path: Path) -> None:
    """The loop saves before it makes a step; no work is lost."""
    train_a_little(Run.create(tmp_path, OURS), step=0)
    assert kind_of(tmp_path) == "unfinished"
    (tmp_path / "config.toml").write_text("mine")
    with pytest.raises(UserError, match=r"config\.toml was not written by jaxgen"):
        start_run(tmp_path)
    (tmp_path / "config.toml").write_text(OURS["config.toml"])
    start_run(tmp_path)
    assert set(contents(tmp_path)) == {"config.toml", "run.json", "tokenizer.json"}


def test_saving_leaves_other_peoples_checkpoints(tmp_path: Path) -> None:
    run = Run.create(tmp_path, OURS)
    train_a_little(run)
    (tmp_path / "checkpoints" / "000000001").rename(tmp_path / "checkpoints" / "keep-this")
    (tmp_path / "checkpoints" / "000000007.orbax-checkpoint-tmp").mkdir()
    train_a_little(run)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {
        *("000000001+", "keep-this")
    }


def test_a_directory_in_the_place_of_a_seed_is_refused(tmp_path: Path) -> None:
    out = trained_run(tmp_path / "p")
    trained_run(tmp_path / "q").rename(tmp_path / "seed-1")
    (out / "seed-2").mkdir()
    (out / "seed-2" / "notes.md").write_text("mine")
    before = contents(out)
    with pytest.raises(UserError, match="seed-2 is not one of the seeds"):
        start_seeds(out, overwrite=True)
    assert contents(out) == before
    (out / "seed-2" / "notes.md").unlink()
    (tmp_path / "seed-1").rename(out / "seed-1")
    with pytest.raises(UserError, match="seed-1 is not one of the seeds"):
        start_seeds(out, overwrite=True)


def test_a_directory_inside_a_run_is_refused(tmp_path: Path) -> None:
    out = trained_run(tmp_path / "p")
    with pytest.raises(UserError, match=r"lies inside the run .*p; choose"):
        check_start(out / "checkpoints" / "000000009")
    trained_seeds(tmp_path / "s")
    check_start(tmp_path / "s" / "other")


def test_files_in_the_place_of_directories(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to("loop")
    for out, message in (
        ("file", "file is a file, not a directory"),
        ("file/run", "file is a file, so .*run cannot be a directory"),
        ("nowhere", "is a symbolic link to a directory that does not exist"),
        ("loop", "cannot read the directory"),
        ("x" * 300, "cannot read the directory .*name too long"),
    ):
        with pytest.raises(UserError, match=message):
            check_start(tmp_path / out)
        with pytest.raises(UserError):
            start_run(tmp_path / out)


def test_a_damaged_run_is_a_run(tmp_path: Path) -> None:
    out = trained_run(tmp_path / "p")
    (out / "run.json").write_text('{"format":')
    assert kind_of(out) == "run"
    with pytest.raises(UserError, match="already holds a run"):
        start_run(out)
    start_run(out, overwrite=True)
    assert not (out / "metrics.jsonl").exists()
