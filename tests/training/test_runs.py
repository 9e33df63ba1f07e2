"""Run directories and checkpoints: what is written is read, and what is broken is named."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from jaxgen.errors import UserError
from jaxgen.training import runs
from jaxgen.training.checkpoints import load_tree, restore_like, save_tree
from jaxgen.training.runs import Run, locked
from jaxgen.training.step import TrainState, init_state

FILES = {"config.toml": "epochs = 1\n", "tokenizer.json": "{}"}
PROGRESS = {"seconds": 1.5, "validation": [2.0, 1.0]}


def state_at(step: int, averaging: Any = "none") -> TrainState:
    params = {
        "lstm": {"kernel": jax.numpy.arange(6.0).reshape(2, 3) + step},
        "bias": jax.numpy.ones(2),
    }
    state = init_state(
        params, optax.adam(0.1), jax.random.key(3), carry=(jax.numpy.ones(4),), averaging=averaging
    )
    return state._replace(step=jax.numpy.int32(step))


def assert_same(left: Any, right: Any) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", FILES)


def test_round_trip(run: Run) -> None:
    state = state_at(7, "ema")
    run.note(devices=2)
    run.save(state, PROGRESS, best=True)
    again = Run.open(run.directory)
    restored = again.restore(state_at(0, "ema"))
    assert restored is not None
    assert_same(restored[0], state)
    assert isinstance(restored[0], TrainState)
    assert restored[1] == PROGRESS
    assert again.notes == {"devices": 2}
    assert again.read_file("config.toml") == FILES["config.toml"]


def test_best_and_last_are_kept_and_nothing_else(run: Run) -> None:
    for step in (1, 2, 3, 4):
        run.save(state_at(step), PROGRESS, best=step == 2)
    assert sorted(p.name for p in (run.directory / "checkpoints").iterdir()) == [
        "000000002",
        "000000004",
    ]
    run.save(state_at(4), PROGRESS)  # the same step: neither a clash nor a gap
    assert_same(Run.open(run.directory).load_params("last"), state_at(4).params)
    assert len(list((run.directory / "checkpoints").iterdir())) == 2
    assert_same(run.load_params(), state_at(2).params)
    assert_same(run.load_params("last"), state_at(4).params)


def test_params_to_generate_with(run: Run) -> None:
    with pytest.raises(UserError, match="has no checkpoint yet"):
        run.load_params()
    state = state_at(1, "ema")
    mean = jax.tree.map(lambda x: x / 2, state.params)
    run.save(state._replace(average=state.average._replace(params=mean)), PROGRESS)
    assert_same(run.load_params(), mean)
    with pytest.raises(UserError, match="has no checkpoint yet"):
        run.load_params("best")


def test_saving_the_same_step_again_keeps_it(run: Run) -> None:
    run.save(state_at(1), PROGRESS)
    run.save(state_at(1), {"seconds": 2.0}, best=True)
    assert run.restore(state_at(0))[1] == {"seconds": 2.0}


def test_metrics_are_cut_back_to_the_checkpoint(run: Run) -> None:
    run.append_metrics({"step": 1, "nll": 2.0})
    run.save(state_at(1), PROGRESS)
    run.append_metrics({"step": 2, "nll": 1.5})
    with (run.directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "nl')
    assert [row["step"] for row in run.read_metrics()] == [1, 2]
    run.restore(state_at(0))
    assert run.read_metrics() == [{"step": 1, "nll": 2.0}]


def test_resuming_before_the_first_checkpoint_starts_anew(run: Run) -> None:
    run.append_metrics({"step": 1})
    assert run.restore(state_at(0)) is None
    assert run.read_metrics() == []


def test_a_run_is_not_overwritten(run: Run) -> None:
    run.save(state_at(1), PROGRESS)
    with pytest.raises(UserError, match="already holds a run; continue it with --resume"):
        Run.create(run.directory, FILES)


def test_missing_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Run.open(tmp_path / "no")


def test_half_written_run(run: Run) -> None:
    (run.directory / "run.json").unlink()
    with pytest.raises(UserError, match="cut off: it has no run"):
        Run.open(run.directory)


def test_missing_file(run: Run) -> None:
    (run.directory / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"incomplete: tokenizer\.json is missing"):
        run.read_file("tokenizer.json")


def test_newer_format(run: Run) -> None:
    index = json.loads((run.directory / "run.json").read_text())
    (run.directory / "run.json").write_text(json.dumps(index | {"format": runs.FORMAT + 1}))
    with pytest.raises(UserError, match="newer than the 1 that this jaxgen reads; upgrade"):
        Run.open(run.directory)


ENTRY = '{"format": 1, "notes": {}, "last": %s}'


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", '{"format": "x"}', "null", "\xff", "[" * 100_000),
        *('{"format": 1}', '{"format": 1, "notes": [], "last": null}'),
        *(ENTRY % 3, ENTRY % '{"step": 1}', ENTRY % '{"step": "1", "directory": "x", "files": {}}'),
    ],
)
def test_damaged_index(run: Run, text: str) -> None:
    (run.directory / "run.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        Run.open(run.directory)


@pytest.mark.parametrize("line", [b"{", b"\xff", b"3", b""])
def test_damaged_metrics(run: Run, line: bytes) -> None:
    run.append_metrics({"step": 1})
    with (run.directory / "metrics.jsonl").open("ab") as file:
        file.write(line + b"\n")
    run.append_metrics({"step": 3})
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged: line 2"):
        run.read_metrics()


def test_files_that_cannot_be_read(run: Run) -> None:
    (run.directory / "config.toml").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"config\.toml is damaged"):
        run.read_file("config.toml")
    for name in ("config.toml", "run.json"):
        (run.directory / name).unlink()
        (run.directory / name).symlink_to(name)
    with pytest.raises(UserError, match=r"cannot read .*config\.toml"):
        run.read_file("config.toml")
    with pytest.raises(UserError):
        Run.open(run.directory)


def test_damaged_checkpoint(run: Run) -> None:
    """Any file of a checkpoint, cut in half or with one byte changed."""
    state = state_at(1)
    run.save(state, PROGRESS)
    folder = run.directory / "checkpoints" / "000000001"
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match=f"{path.name} is truncated: it has"):
            run.restore(state_at(0))
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        with pytest.raises(UserError, match=f"{path.name} is damaged: its checksum"):
            run.load_params()
        path.write_bytes(content)
    assert_same(run.restore(state_at(0))[0], state)


def test_missing_checkpoint(run: Run) -> None:
    run.save(state_at(1), PROGRESS)
    shutil.rmtree(run.directory / "checkpoints")
    with pytest.raises(UserError, match="000000001 is missing"):
        run.restore(state_at(0))
    with pytest.raises(UserError, match="000000001 is missing"):
        run.load_params()


def test_checkpoint_of_other_settings(tmp_path: Path) -> None:
    manifest = save_tree(tmp_path / "x", {"a": np.ones(3), "b": {"c": np.ones(2)}})
    saved = load_tree(tmp_path / "x", manifest)
    shape = jax.ShapeDtypeStruct
    good = {"a": shape((3,), np.float64), "b": {"c": shape((2,), np.float64)}}
    assert_same(restore_like(good, saved, where="x"), {"a": np.ones(3), "b": {"c": np.ones(2)}})
    with pytest.raises(UserError, match="x has no `b/d`"):
        restore_like({"a": good["a"], "b": {"d": good["a"]}}, saved, where="x")
    with pytest.raises(UserError, match="x has `b/c` too"):
        restore_like({"a": good["a"]}, saved, where="x")
    with pytest.raises(UserError, match=r"`a` is float64\[3\] there and float64\[4\] here"):
        restore_like(good | {"a": shape((4,), np.float64)}, saved, where="x")


def test_a_kill_while_saving_loses_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a save has done when it dies, the checkpoint before it loads."""
    run.save(state_at(1), PROGRESS, best=True)

    class Killed(BaseException):
        pass

    def die(*arguments: Any, **options: Any) -> None:
        raise Killed

    def die_half_way(directory: Path, tree: Any) -> None:
        directory.mkdir()
        (directory / "part").write_bytes(b"x")
        raise Killed

    deaths = [
        ("runs.save_tree", die_half_way),
        ("runs.write_atomically", die),
        ("starts.shutil.rmtree", die),
    ]
    for step, (name, death) in enumerate(deaths, start=2):
        with monkeypatch.context() as patch:
            patch.setattr(f"jaxgen.training.{name}", death)
            with pytest.raises(Killed):
                run.save(state_at(step), PROGRESS)
        run = Run.open(run.directory)
        expected = 4 if name == "starts.shutil.rmtree" else 1
        assert_same(run.restore(state_at(0))[0], state_at(expected))
    run.save(state_at(2), PROGRESS)  # where a half-written directory already lies
    assert_same(run.restore(state_at(0))[0], state_at(2))
    assert len(list((run.directory / "checkpoints").iterdir())) == 2


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import jax, numpy as np, optax
from jaxgen.errors import UserError
from jaxgen.training.runs import Run
from jaxgen.training.step import init_state

def state(step):
    params = {{"kernel": jax.random.normal(jax.random.key(step), (300, 300))}}
    made = init_state(params, optax.sgd(0.1), jax.random.key(3))
    return made._replace(step=jax.numpy.int32(step))

run = Run.create(Path({out!r}), {{}})
run.save(state(1), {{"seconds": 1.0}}, best=True)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    run.save(state(2), {{"seconds": 2.0}})
except UserError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for opened in (run, Run.open(Path({out!r}))):
    restored, progress = opened.restore(state(0))
    np.testing.assert_array_equal(restored.params["kernel"], state(1).params["kernel"])
    assert progress == {{"seconds": 1.0}}
run.save(state(2), {{"seconds": 2.0}})
restored, progress = run.restore(state(0))
np.testing.assert_array_equal(restored.params["kernel"], state(2).params["kernel"])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_full_disk(tmp_path: Path) -> None:
    code = FULL_DISK.format(tests=str(Path(__file__).parent), out=str(tmp_path / "run"))
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("could not save the checkpoint of step 2"), result.stdout
    assert "the checkpoint of step 1 still loads; free some space" in result.stdout


def test_full_disk_for_metrics(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match=r"could not write .*metrics\.jsonl: No space left"):
        run.append_metrics({"step": 1})


def test_two_processes(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom jaxgen.errors import UserError\nfrom jaxgen.training.runs import locked\n"
        "try:\n    with locked(sys.argv[1]):\n        print('got it')\n"
        "except UserError as error:\n    print(error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    root = Path(__file__).parents[2]
    with locked(tmp_path / "run"):
        refused = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    free = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert f"is being trained by process {os.getpid()} on" in refused.stdout
    assert "choose another directory with --out" in refused.stdout
    assert free.stdout == "got it\n"
