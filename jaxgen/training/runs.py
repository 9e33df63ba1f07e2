"""A run directory: what one training leaves behind, safe against a kill at any moment.

    config.toml  tokenizer.json  metrics.jsonl  loss.png
    run.json                the index: format version, checkpoints, the loop's own memory
    checkpoints/000001200   one Orbax directory for each checkpoint that the index names
    .lock                   held while a process trains here

Nothing counts until `run.json` names it, and `run.json` is replaced atomically: the state, the
data position, the early-stopping memory and the length of `metrics.jsonl` change together.
"""

import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from jaxgen.errors import UserError
from jaxgen.training.checkpoints import fill, load_tree, save_tree
from jaxgen.training.formats import FORMAT, migrated
from jaxgen.training.step import TrainState
from jaxgen.types import PyTree

SEEDS_FILE = "seeds.json"
"""Index of a directory with the runs of several seeds, see `jaxgen.training.seed_runs`."""


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
    ) -> "Run":
        """Start a run directory; the index comes last, so a half-made one is seen as such.

        Args:
            directory: Made if missing.
            files: Text of each file to keep, such as config.toml and tokenizer.json.
            notes: Decisions to keep in the index, see `note`.

        Raises:
            UserError: A run is already there.
        """
        directory = Path(directory)
        if cls.exists(directory):
            raise UserError(
                f"{directory} already holds a run; continue it with --resume, or choose another "
                "directory with --out"
            )
        directory.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)
        (directory / "metrics.jsonl").unlink(missing_ok=True)
        for name, text in files.items():
            write_text(directory / name, text)
        run = cls(directory, {"format": FORMAT, "notes": dict(notes or {}), "last": None})
        run._write_index()
        return run

    @classmethod
    def open(cls, directory: Path | str) -> "Run":
        """Open a run to read or to resume it.

        Raises:
            UserError: It is missing, half-written, damaged or of a newer format.
        """
        directory = Path(directory)
        if not directory.is_dir():
            raise UserError(f"run directory {directory} does not exist")
        path = directory / "run.json"
        if (directory / SEEDS_FILE).is_file():
            names = [f"seed-{seed}" for seed in read_index(directory / SEEDS_FILE)["seeds"]]
            raise UserError(
                f"{directory} holds the runs of several seeds: {', '.join(names)}; name one of "
                f"them, such as {directory / names[0]} (`jaxgen info {directory}` says which is "
                "the best)"
            )
        if not path.is_file():
            raise UserError(
                f"{directory} is not a run directory, or one whose start was cut off: it has no "
                "run.json; train into it again without --resume"
            )
        return cls(directory, read_index(path))

    @property
    def notes(self) -> dict[str, Any]:
        """Decisions made at the start that a resumed run must repeat."""
        return self.index["notes"]

    def note(self, **decisions: Any) -> None:
        """Keep decisions, for example `devices=2`, in the index."""
        self.notes.update(decisions)
        self._write_index()

    def read_file(self, name: str) -> str:
        """Text of one of the run's files.

        Raises:
            UserError: It is missing.
        """
        path = self.directory / name
        if not path.is_file():
            raise UserError(f"run directory {self.directory} is incomplete: {name} is missing")
        return path.read_text(encoding="utf-8")

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
        folder = self.directory / "checkpoints"
        try:
            self._write_index(index)
        except Exception as error:
            raise self._unsaved(index["last"]["step"], error) from error
        self.index = index
        for other in folder.iterdir():  # also what an interrupted save left behind
            if not self._is_named(other.name):
                shutil.rmtree(other, ignore_errors=True)

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
        return fill(template, self.load_checkpoint("last"), where=where), entry["progress"]

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
                f"could not write {path}: {_reason(error)}; free some space and continue with "
                "--resume"
            ) from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last one cut short by a kill is left out."""
        path = self.directory / "metrics.jsonl"
        if not path.exists():
            return []
        whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

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
            f"{_reason(error)}; {rest}; free some space and continue with --resume"
        )

    def _is_named(self, name: str) -> bool:
        entries = (self.index.get("last"), self.index.get("best"))
        return any(entry and entry["directory"] == name for entry in entries)

    def _write_index(self, index: dict[str, Any] | None = None) -> None:
        write_text(self.directory / "run.json", json.dumps(index or self.index, indent=1) + "\n")


def read_index(path: Path) -> dict[str, Any]:
    """Read run.json or seeds.json.

    Raises:
        UserError: It is damaged, or of a newer format.
    """
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        version = int(index["format"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if version > FORMAT:
        raise UserError(
            f"{path.parent} has run format {version}, newer than the {FORMAT} that this jaxgen "
            "reads; upgrade jaxgen"
        )
    return migrated(index)


@contextmanager
def locked(directory: Path | str) -> Iterator[None]:
    """Hold a run directory against other processes that would train into it.

    Raises:
        UserError: Another process holds it; the message names it.
    """
    from filelock import FileLock, Timeout

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    owner = directory / ".owner"
    lock = FileLock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        who = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
        raise UserError(
            f"{directory} is being trained by {who}; wait for it, end it, or choose another "
            "directory with --out"
        ) from error
    try:
        write_text(owner, f"process {os.getpid()} on {socket.gethostname()}")
        yield
        owner.unlink(missing_ok=True)
    finally:
        lock.release()


def write_text(path: Path, text: str) -> None:
    """Replace a file's content at once: readers see the old text or the new, never a part."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text or type(error).__name__).strip().partition("\n")[0][:200]
