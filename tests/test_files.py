"""Files replaced as a whole: in the order that survives a power cut."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import optax
import pytest

import jax
from jaxgen.files import replacing, sync_directory, write_atomically
from jaxgen.training.runs import Run
from jaxgen.training.step import init_state
from jaxgen.trees import flatten, nest

Calls = list[tuple[str, str]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The calls that decide what survives, in order, with the file that each is about."""
    made: Calls = []

    def recorded(name: str, stat: Callable[[Any], os.stat_result]) -> Callable[..., None]:
        real = getattr(os, name)

        def call(first: Any, *rest: Any, **options: Any) -> None:
            about = stat(first)
            real(first, *rest, **options)
            made.append((name, f"{about.st_dev} {about.st_ino}"))

        return call

    monkeypatch.setattr(os, "fsync", recorded("fsync", os.fstat))
    monkeypatch.setattr(os, "replace", recorded("replace", os.stat))
    return made


def inode(path: Path) -> str:
    return f"{path.stat().st_dev} {path.stat().st_ino}"


def test_a_file_reaches_the_disk_before_its_name_does(tmp_path: Path, calls: Calls) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as file:
        file.write(b"new" * 10)
        file.flush()
        assert path.read_text() == "old"
        assert calls == []
    assert calls == [
        ("fsync", inode(path)),
        ("replace", inode(path)),
        ("fsync", inode(tmp_path)),
    ]
    assert path.read_text() == "new" * 10


def test_content_is_flushed_before_it_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, fsync = [], os.fsync

    def measured(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", measured)
    write_atomically(tmp_path / "file", "abc")
    assert sizes[0] == 3


def test_a_failure_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*arguments: Any) -> None:
        raise OSError(5, "Input/output error")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="Input/output"):
                write_atomically(path, b"new")
        assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
        assert path.read_bytes() == b"old"


def test_a_checkpoint_reaches_the_disk_before_the_index_names_it(
    tmp_path: Path, calls: Calls
) -> None:
    """Every file, every directory and the metrics, then run.json, then its directory."""
    run = Run.create(tmp_path, {})
    run.append_metrics({"step": 1})
    state = init_state({"w": jnp.ones(3)}, optax.adam(0.1), jax.random.key(0))
    calls.clear()
    run.save(state, {})
    folder = tmp_path / "checkpoints" / "000000000"
    durable = {inode(path) for path in (folder, folder.parent, tmp_path / "metrics.jsonl")}
    durable |= {inode(path) for path in folder.rglob("*")}
    named = calls.index(("replace", inode(tmp_path / "run.json")))
    assert ("fsync", inode(tmp_path / "run.json")) in calls[:named]
    assert durable <= {what for call, what in calls[:named] if call == "fsync"}
    assert ("fsync", inode(tmp_path)) in calls[named:]


def test_a_file_system_that_cannot_sync_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> Callable[[int], None]:
        def fsync(descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        return fsync

    monkeypatch.setattr(os, "fsync", fail(22))
    sync_directory(tmp_path)
    monkeypatch.setattr(os, "fsync", fail(5))
    with pytest.raises(OSError, match="Input/output"):
        sync_directory(tmp_path)


def test_trees_of_arrays_by_name() -> None:
    tree = {"lstm": {"layer_0": {"kernel": 1, "bias": 2}}, "out": 3}
    flat = flatten(tree, ".")
    assert flat == {"lstm.layer_0.bias": 2, "lstm.layer_0.kernel": 1, "out": 3}
    assert nest(flat, ".") == tree
    state = optax.ScaleByAdamState(jnp.int32(0), {"w": 1}, {"w": 2})
    assert set(flatten((state, [4]))) == {"0/count", "0/mu/w", "0/nu/w", "1/0"}
    with pytest.raises(ValueError, match=r"must not contain `\.`, got 'a\.b'"):
        flatten({"a.b": 1}, ".")
