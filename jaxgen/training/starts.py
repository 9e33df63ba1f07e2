"""Starting to train in a directory: what is refused, and what of an earlier training is removed.

A kill at any moment leaves a directory in which the same command simply starts again: the old
index is first replaced by one without checkpoints that says which files are jaxgen's, then these
files are removed, and the index itself goes last or gives way to the new one.
"""

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxgen.directories import (
    CHECKPOINT,
    LOGS,
    RUN_FILES,
    RUN_INDEX,
    SEEDS_INDEX,
    WRITTEN,
    digests,
    is_seeds_index,
    kind_of,
    last_of,
    owned_files,
    read_json,
    refuse_foreign_files,
    refuse_inside_run,
    written_of,
)
from jaxgen.errors import UserError
from jaxgen.files import file_digest, reason, write_atomically


def check_start(
    directory: Path | str,
    *,
    files: Collection[str] = (),
    seeds: Sequence[int] = (),
    overwrite: bool = False,
) -> None:
    """Check that training may begin in a directory; nothing is written.

    Args:
        directory: The run directory, or that of the seeds.
        files: Names of the files to be written, where they are known already.
        seeds: Their numbers, where several are to be trained together.
        overwrite: Whether runs that are there may be replaced. Other people's files never are.

    Raises:
        UserError: The directory holds a run, an export, or files that are not jaxgen's.
    """
    directory = Path(directory)
    kind = kind_of(directory)
    if kind in ("run", "seeds") and not overwrite:
        raise UserError(
            f"{directory} already holds a run; continue it with --resume, replace it with --force, "
            "or choose another directory with --out"
        )
    if kind == "export":
        raise UserError(f"{directory} holds an export; choose another directory with --out")
    refuse_foreign_files(directory, kind, "a run")
    refuse_inside_run(directory)
    _owned(directory, files)
    for seed in {*seeds, *_seeds(directory)}:
        folder = run_directory(directory, seed)
        allowed = {"missing", "empty", "unfinished"}
        if seed in _seeds(directory):
            allowed.add("run")
        if kind_of(folder) not in allowed:
            raise UserError(
                f"{folder} is not one of the seeds that train together in {directory}; move it "
                "away, or choose another directory with --out"
            )
        _owned(folder, files)


def clear(directory: Path | str) -> None:
    """Remove what jaxgen wrote there, of one run or of several seeds, and nothing else.

    The index stays, without checkpoints, until another takes its place; token files stay too.
    The caller has called `check_start` and holds the lock.
    """
    directory = Path(directory)
    seeds = _seeds(directory)
    _remove_contents(directory)
    for seed in seeds:
        folder = run_directory(directory, seed)
        if kind_of(folder) not in ("run", "unfinished"):
            continue
        _remove_contents(folder)
        left = {path.name for path in folder.iterdir()}
        if left <= {
            RUN_INDEX
        }:  # else the index says that the rest is not somebody else's directory
            (folder / RUN_INDEX).unlink(missing_ok=True)
            folder.rmdir()


def remove_checkpoints(directory: Path, keep: Collection[str] = ()) -> None:
    """Remove a run's checkpoints, and what interrupted saves left, but nothing by another name."""
    folder = directory / "checkpoints"
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if CHECKPOINT.fullmatch(path.name) and path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)


def run_directory(directory: Path, seed: int) -> Path:
    """Where the run of a seed lies."""
    return directory / f"seed-{seed}"


def make_directory(directory: Path) -> None:
    """Make a directory where there is none; UserError where that is not possible."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the directory {directory}: {reason(error)}") from error


def written_beside(directory: Path, files: Mapping[str, str]) -> dict[str, list[str]]:
    """For a new index: digests of the files to be written, and of those of ours that are there."""
    return _owned(directory) | digests(files)


def _remove_contents(directory: Path) -> None:
    owned = _owned(directory)
    blanks: dict[str, dict[str, Any]] = {SEEDS_INDEX: {"seeds": [], "runs": None}}
    blanks[RUN_INDEX] = {"notes": {}, "last": None}
    for name, blank in blanks.items():
        path = directory / name
        if path.is_file():
            seeds = {"seeds": _seeds(directory)} if name == SEEDS_INDEX else {}
            index = {"format": 1, **blank, **seeds, WRITTEN: owned}  # any version reads it
            write_atomically(path, json.dumps(index) + "\n")
    for name in owned:
        (directory / name).unlink(missing_ok=True)
    remove_checkpoints(directory)
    with suppress(OSError):  # somebody's files lie there
        (directory / "checkpoints").rmdir()


def _owned(directory: Path, more: Collection[str] = ()) -> dict[str, list[str]]:
    """Digests of the files there that are jaxgen's.

    UserError where something else lies by such a name, or by one of `more`.
    """
    indexes = [read_json(directory / name) for name in (RUN_INDEX, SEEDS_INDEX)]
    kept = [own for index in indexes if (own := written_of(index)) is not None]
    written: dict[str, list[str]] = {}
    for names in kept:
        for name, digests_kept in names.items():
            written[name] = written.get(name, []) + digests_kept
    if any(last_of(index) for index in indexes):  # the loop has begun to write them
        for name in LOGS:
            written.setdefault(name, []).extend(filter(None, [file_digest(directory / name)]))
    kind = kind_of(directory)
    by_name = kind in ("run", "seeds") or (kind == "unfinished" and not kept)
    known = {*RUN_FILES, *written}
    owned_files(directory, set(more) - known, {})
    return owned_files(directory, known, None if by_name else written)


def _seeds(directory: Path) -> list[int]:
    """The seeds whose runs lie in a directory."""
    index = read_json(directory / SEEDS_INDEX)
    if not is_seeds_index(index) or not isinstance(index["seeds"], list):
        return []
    return [seed for seed in index["seeds"] if type(seed) is int]
