"""A run directory: what one training leaves behind, safe against a kill at any moment.

    config.toml  tokenizer.json  metrics.jsonl  loss.png
    run.json                the index: format version, checkpoints, the loop's own memory
    checkpoints/000001200   one Orbax directory for each checkpoint that the index names
    .lock                   held while a process trains here

`run.json` comes first, and says which files are about to be written. No checkpoint counts until it
is named there, and `run.json` is replaced atomically: the state, the data position, the
early-stopping memory and the length of `metrics.jsonl` change together.
"""

import json
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from jaxgen.directories import (
    EXPORT_INDEX,
    RUN_INDEX,
    SEEDS_INDEX,
    WRITTEN,
    is_export_index,
    read_json,
    written_of,
)
from jaxgen.errors import UserError, first_line
from jaxgen.files import digest, file_digest, reason, write_atomically
from jaxgen.training.checkpoints import load_tree, restore_like, save_tree
from jaxgen.training.indexes import FORMAT, read_index
from jaxgen.training.starts import (
    check_start,
    clear,
    make_directory,
    remove_checkpoints,
    written_beside,
)
from jaxgen.training.step import TrainState
from jaxgen.types import PyTree


class Run:
    """One run directory. Make it with `Run.create` or `Run.open`."""

    def __init__(self, directory: Path, index: dict[str, Any]) -> None:
        self.directory = directory
        self.index = index
        """What run.json holds."""

    @classmethod
    def exists(cls, directory: Path | str) -> bool:
        """Whether a run was ever started there (its index is written)."""
        return (Path(directory) / "run.json").is_file()

    @classmethod
    def create(
        cls,
        directory: Path | str,
        files: Mapping[str, str],
        notes: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
    ) -> "Run":
        """Start a run directory; a kill at any moment leaves one where this can be done again.

        Args:
            directory: Made if missing.
            files: Text of each file to keep, such as config.toml and tokenizer.json.
            notes: Decisions to keep in the index, see `note`.
            overwrite: Whether to replace a run that is there.

        Raises:
            UserError: A run is already there, or other people's files, or it cannot be written.
        """
        directory = Path(directory)
        check_start(directory, files=files, overwrite=overwrite)
        make_directory(directory)
        index = {"format": FORMAT, "notes": dict(notes or {}), "last": None}
        try:
            clear(directory)
            run = cls(directory, index | {WRITTEN: written_beside(directory, files)})
            run._write_index()
            (directory / SEEDS_INDEX).unlink(missing_ok=True)
            for name, text in files.items():
                write_atomically(directory / name, text)
        except OSError as error:
            raise UserError(f"cannot write the run directory {directory}: {reason(error)}") from (
                error
            )
        return run

    @classmethod
    def open(cls, directory: Path | str) -> "Run":
        """Open a run to read or to resume it.

        Raises:
            UserError: It is missing, half-written, damaged or of a newer format.
        """
        directory = Path(directory)
        if not directory.is_dir():
            what = "is a file" if directory.exists() else "does not exist"
            raise UserError(f"run directory {directory} {what}")
        path = directory / RUN_INDEX
        if (directory / SEEDS_INDEX).is_file():
            names = [f"seed-{seed}" for seed in read_index(directory / SEEDS_INDEX)["seeds"]]
            raise UserError(
                f"{directory} holds the runs of several seeds: {', '.join(names)}; name one of "
                f"them, such as {directory / names[0]} (`jaxgen info {directory}` says which is "
                "the best), or use them as one model with --ensemble"
            )
        if not path.is_file():
            raise UserError(
                f"{directory} is not a run directory, or one whose start was cut off: it has no "
                "run.json; train into it again without --resume"
            )
        index = read_index(path)
        if is_export_index(read_json(directory / EXPORT_INDEX)):
            warnings.warn(
                f"{directory} holds a run and an export; the run is read (move the export's "
                "config.json, model.safetensors and README.md elsewhere)",
                stacklevel=2,
            )
        return cls(directory, index)

    @property
    def notes(self) -> dict[str, Any]:
        """Decisions made at the start that a resumed run must repeat."""
        return self.index["notes"]

    def note(self, **decisions: Any) -> None:
        """Keep decisions, for example `devices=2`, in the index."""
        self.notes.update(decisions)
        self._write_index()

    def forget_best(self) -> None:
        """Let the best checkpoint be found anew: the figures so far no longer compare."""
        last = self.index["last"]
        if last is not None:
            progress = last["progress"] | {"validation": []}
            self.commit(self.index | {"best": None, "last": last | {"progress": progress}})

    def read_file(self, name: str) -> str:
        """Text of one of the run's files.

        Raises:
            UserError: It is missing, or not text.
        """
        path = self.directory / name
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            rest = "" if self.index["last"] else "; train into it again without --resume"
            raise UserError(
                f"run directory {self.directory} is incomplete: {name} is missing{rest}"
            ) from None
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is damaged: {first_line(error)}") from None
        except OSError as error:
            raise UserError(f"cannot read {path}: {reason(error)}") from None

    def write_file(self, name: str, text: str) -> None:
        """Replace one of the run's files.

        Raises:
            UserError: The disk is full or failing. The old file is still there.
        """
        replace_file(self.directory, self.index, self._write_index, name, text)

    def checkpoint(self, which: Literal["last", "best"]) -> dict[str, Any] | None:
        """Index entry of a checkpoint: `step`, `directory` and the loop's `progress`, or None."""
        return self.index.get(which)

    def save(self, state: TrainState, progress: Mapping[str, Any], *, best: bool = False) -> None:
        """Save a checkpoint as the last, and as the best where it is.

        Args:
            state: The training state, on any devices.
            progress: The loop's memory, as JSON values; with the state, all that resuming needs.
            best: Whether it has the best validation figure so far.

        Raises:
            UserError: The disk is full or failing. The previous checkpoint still loads.
        """
        self.commit(self.prepare(state, progress, best=best))

    def prepare(
        self, state: TrainState, progress: Mapping[str, Any], *, best: bool = False
    ) -> dict[str, Any]:
        """Write a checkpoint that counts once `commit` is called with the index returned here.

        Args and errors are those of `save`, which is both at once.
        """
        step = int(state.step)
        name = f"{step:09d}"
        while self._is_named(name):  # the same step again: never touch what the index names
            name += "+"
        folder = self.directory / "checkpoints"
        try:
            folder.mkdir(exist_ok=True)
            entry = {"step": step, "directory": name, "files": save_tree(folder / name, state)}
            memory = {"progress": dict(progress), "metrics_bytes": self._synced_metrics()}
            return self.index | {"last": entry | memory} | ({"best": entry} if best else {})
        except Exception as error:
            raise self._unsaved(step, error) from error

    def commit(self, index: dict[str, Any]) -> None:
        """Make a prepared index the run's, and remove what it does not name.

        Raises:
            UserError: As in `save`.
        """
        try:
            self._write_index(index)
        except Exception as error:
            raise self._unsaved(index["last"]["step"], error) from error
        self.index = index
        entries = (index.get("last"), index.get("best"))
        remove_checkpoints(self.directory, [entry["directory"] for entry in entries if entry])

    def restore(self, template: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """State and progress of the last checkpoint, or None where there is none yet.

        `metrics.jsonl` is cut back to what it held at that checkpoint.

        Raises:
            UserError: The checkpoint is missing, damaged, or made with other settings.
        """
        entry = self.checkpoint("last")
        metrics = self.directory / "metrics.jsonl"
        size = entry["metrics_bytes"] if entry else 0
        if metrics.exists() and metrics.stat().st_size > size:
            os.truncate(metrics, size)
        if entry is None:
            return None
        where = f"checkpoint {self.directory / 'checkpoints' / entry['directory']}"
        return restore_like(template, self.load_checkpoint("last"), where=where), entry["progress"]

    def load_checkpoint(self, which: Literal["last", "best"] | None = None) -> dict[str, Any]:
        """A whole checkpoint as nested dicts of NumPy arrays.

        Args:
            which: A checkpoint; None takes the best, or the last where none was evaluated.

        Raises:
            UserError: There is no such checkpoint, or it is damaged.
        """
        entry = self.index.get(which) if which else self.index.get("best") or self.index["last"]
        if entry is None:
            raise UserError(
                f"{self.directory} has no checkpoint yet; train it first, or continue with --resume"
            )
        return load_tree(self.directory / "checkpoints" / entry["directory"], entry["files"])

    def load_params(self, which: Literal["last", "best"] | None = None) -> PyTree:
        """Parameters to generate with, nested dicts of NumPy arrays (the average where kept).

        Args:
            which: A checkpoint; None takes the best, or the last where none was evaluated.

        Raises:
            UserError: There is no such checkpoint, or it is damaged.
        """
        saved = self.load_checkpoint(which)
        return saved["average"]["params"] if "average" in saved else saved["params"]

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl.

        Raises:
            UserError: The disk is full or failing.
        """
        path = self.directory / "metrics.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(
                f"could not write {path}: {reason(error)}; free some space and continue with "
                "--resume"
            ) from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last one cut short by a kill is left out.

        Raises:
            UserError: Another line is damaged.
        """
        path = self.directory / "metrics.jsonl"
        try:
            lines = path.read_bytes().rpartition(b"\n")[0].split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"cannot read {path}: {reason(error)}") from error
        rows = []
        for number, line in enumerate(lines if lines != [b""] else (), start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path} is damaged: line {number}: {first_line(error)}") from error
            if not isinstance(row, dict):
                raise UserError(f"{path} is damaged: line {number} is not a JSON object")
            rows.append(row)
        return rows

    def _synced_metrics(self) -> int:
        """Size of metrics.jsonl once it is on the disk."""
        path = self.directory / "metrics.jsonl"
        if not path.exists():
            return 0
        with path.open("ab") as file:
            os.fsync(file.fileno())
            return file.tell()

    def _unsaved(self, step: int, error: Exception) -> UserError:
        previous = self.index["last"]
        rest = (
            f"the checkpoint of step {previous['step']} still loads"
            if previous
            else "there was no checkpoint before it"
        )
        return UserError(
            f"could not save the checkpoint of step {step} in {self.directory / 'checkpoints'}: "
            f"{_why(error)}; {rest}; free some space and continue with --resume"
        )

    def _is_named(self, name: str) -> bool:
        entries = (self.index.get("last"), self.index.get("best"))
        return any(entry and entry["directory"] == name for entry in entries)

    def _write_index(self, index: dict[str, Any] | None = None) -> None:
        content = json.dumps(index or self.index, indent=1) + "\n"
        write_atomically(self.directory / RUN_INDEX, content)


def replace_file(
    directory: Path, index: dict[str, Any], write_index: Callable[[], None], name: str, text: str
) -> None:
    """Replace a file beside an index, which keeps its digest; see `Run.write_file`."""
    path, kept = directory / name, written_of(index) or {}
    own = kept.get(name, [])
    try:
        if file_digest(path) == digest(text):
            return
        if digest(text) not in own:
            index[WRITTEN] = kept | {name: [*own[-1:], digest(text)]}
            write_index()
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}") from error


@contextmanager
def locked(directory: Path | str) -> Iterator[None]:
    """Hold a run directory against other processes that would train into it.

    Raises:
        UserError: Another process holds it (the message names it), or it cannot be written.
    """
    from filelock import FileLock, Timeout

    directory = Path(directory)
    make_directory(directory)
    owner = directory / ".owner"
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        who = "another process"
        with suppress(OSError, UnicodeDecodeError):
            who = owner.read_text(encoding="utf-8") or who
        raise UserError(
            f"{directory} is being trained by {who}; wait for it, end it, or choose another "
            "directory with --out"
        ) from error
    except (OSError, NotImplementedError) as error:  # a file system without locks
        raise UserError(f"cannot lock {directory}: {first_line(error)}") from error
    try:
        try:
            write_atomically(owner, f"process {os.getpid()} on {socket.gethostname()}")
        except OSError as error:
            raise UserError(f"cannot write in {directory}: {reason(error)}") from error
        yield
        owner.unlink(missing_ok=True)
    finally:
        lock.release()


def _why(error: Exception) -> str:
    return (reason(error) if isinstance(error, OSError) else first_line(error))[:200]
