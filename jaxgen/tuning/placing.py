"""The best run of a study as an ordinary run directory, and the removal of the others."""

import re
import shutil
from pathlib import Path
from typing import Any

from jaxgen.directories import RUN_INDEX, kind_of, last_of, read_json
from jaxgen.errors import UserError
from jaxgen.files import reason
from jaxgen.training.plots import plot_run
from jaxgen.training.runs import Run, locked
from jaxgen.training.seed_runs import runs_of
from jaxgen.training.starts import check_start
from jaxgen.training.trainable import Objective
from jaxgen.tuning.records import Trial

NOTE = "tuned"
"""Key of a run's notes: the study and the trial that it was taken from."""
_TRIAL = re.compile(r"trial-(\d{5,})")


def check_out(out: Path, study: str | None, *, overwrite: bool) -> None:
    """Check that the best run may be put there.

    Args:
        out: The run directory.
        study: The identity of the study, whose earlier best run may be replaced.
        overwrite: Whether any run may be.

    Raises:
        UserError: It may not: there is another run, or one that was trained on since, or other
            people's files.
    """
    index = read_json(out / RUN_INDEX) if kind_of(out) == "run" else None
    note: Any = index["notes"].get(NOTE) if isinstance(index, dict) else None
    own = note is not None and (study is None or note["study"] == study)
    if own and not overwrite and note["step"] != (last_of(index) or {}).get("step"):
        raise UserError(
            f"{out} was trained on since a study put it there, so the study does not replace it; "
            "replace it with --force, or choose another directory with --out"
        )
    check_start(out, overwrite=overwrite or own)


def place(
    best: Trial, objective: Objective, out: Path, study: str, *, overwrite: bool = False
) -> bool:
    """Make the best seed of a trial an ordinary run, in the place of an earlier one.

    Args:
        best: The trial.
        objective: Of the study.
        out: The run directory.
        study: The identity of the study.
        overwrite: Write it even where the same trial of such a study lies there.

    Returns:
        Whether it could: a trial of another machine may not be within reach.

    Raises:
        UserError: The directory cannot be written, or another process holds it.
    """
    directory = Path(best.directory)
    if not directory.is_dir() or kind_of(directory) not in ("run", "seeds"):
        return False
    source = Run.open(runs_of(directory)[objective.best(best.figures)])
    last = source.checkpoint("last")
    note = {"study": study, "trial": best.number, "step": last["step"] if last else 0}
    if _note_of(out) == note and not overwrite:
        return True
    names = ["config.toml", *source.notes["files"]]
    files = {name: source.read_file(name) for name in names}
    with locked(out):
        run = Run.create(out, files, {**source.notes, NOTE: note}, overwrite=True)
        try:
            shutil.copytree(source.directory / "checkpoints", out / "checkpoints")
            if (source.directory / "metrics.jsonl").exists():
                shutil.copy(source.directory / "metrics.jsonl", out / "metrics.jsonl")
        except (OSError, shutil.Error) as error:
            why = reason(error) if isinstance(error, OSError) else str(error)
            raise UserError(f"cannot copy {source.directory} to {out}: {why}") from error
        run.commit(run.index | {name: source.index.get(name) for name in ("last", "best")})
        plot_run(run, objective)
    return True


def remove_beaten(folder: Path, trials: list[Trial], best: Trial | None) -> None:
    """Remove the directories of trials that have ended and are not the best."""
    running = {trial.number for trial in trials if trial.ended == "running"}
    for path in folder.iterdir():
        match = _TRIAL.fullmatch(path.name)
        number = int(match[1]) if match else None
        if match and number not in running and (best is None or number != best.number):
            shutil.rmtree(path, ignore_errors=True)


def _note_of(out: Path) -> Any:
    index = read_json(out / RUN_INDEX)
    finished = isinstance(index, dict) and last_of(index) is not None
    return index["notes"].get(NOTE) if finished else None
