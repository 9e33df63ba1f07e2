"""`tune`: try settings within a time or a number of trials, and keep the best model."""

import math
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxgen.config import EXPERIMENTS, Experiment
from jaxgen.config.toml import DEFAULT_TASK, read_toml, to_toml
from jaxgen.directories import listed, refuse_inside_run
from jaxgen.errors import UserError
from jaxgen.files import reason as reason_of
from jaxgen.files import write_atomically
from jaxgen.training.interrupts import interrupts
from jaxgen.training.starts import make_directory
from jaxgen.training.trainable import Objective
from jaxgen.tuning.space import read_space, with_settings

if TYPE_CHECKING:
    import optuna

    from jaxgen.tuning.records import Trial
    from jaxgen.tuning.trials import Trials

MARKER = "study.json"
"""In the directory of a study: says that jaxgen may add and remove its trials there."""
FAILURES = 10
"""Trials that fail one after the other before the study gives up."""

Reason = Literal["all trials made", "time is up", "interrupted"]


@dataclass(frozen=True)
class Tuning:
    """How a study stands."""

    trials: "list[Trial]"
    """All that have begun, of every worker, by number."""
    best: "Trial | None"
    objective: Objective
    """What `value` of a trial is a value of."""
    out: Path | None
    """The run directory of the best seed of the best trial; None where that lies on another
    machine, or there is none."""
    folder: Path
    """What belongs to the study: best.toml, study.png and, by default, its database."""
    reason: Reason


def tune(
    experiment: Experiment | str | Path | None = None,
    space: str | Path | Mapping[str, Any] = (),  # type: ignore[assignment]
    *,
    out: str | Path,
    minutes: float | None = None,
    trials: int | None = None,
    seeds: int | None = None,
    study: str | Path | None = None,
    name: str | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
) -> Tuning:
    """Train with one choice of settings after the other, and make the best model a run.

    Optuna's TPE proposes the settings (Bergstra et al. 2011), the first trial being the
    experiment as it is; from the sixth trial on, one that is worse than the median of the others
    at the same evaluation is given up. Called again, it goes on with its study; several processes
    with one `study` and `name` share the work.

    Args:
        experiment: Settings, or a TOML file with them: what all trials have in common.
        space: What they differ in, see `jaxgen.tuning.space.read_space`.
        out: The run directory of the best seed of the best trial. Beside it, in `out`.study, lie
            the trials, of which only the best one is kept.
        minutes: End after so many minutes; the trial that is cut off counts with what it reached.
        trials: End when the study has so many trials, of all workers together.
        seeds: Train so many seeds of each trial as one program; a trial's figure is their mean.
        study: Database of the study: an SQLite file or a URL; by default study.db in `out`.study.
        name: Of the study in the database; by default that of `out`.
        overwrite: Start the study anew, and replace any run at `out`.
        say: Takes each line about the progress; by default they go to standard error.

    Returns:
        All trials and the best of them; `load(out)` gives its model.

    Raises:
        UserError: Bad settings, space or corpus; Optuna is not installed; the study is of something
            else; other people's files are in the way; no trial has a figure.
    """
    _check_limits(minutes, trials, seeds)
    if find_spec("optuna") is None:
        raise UserError("`tune` needs Optuna; install it with: pip install 'jaxgen[tune]'")
    deadline = math.inf if minutes is None else time.monotonic() + 60 * minutes
    if isinstance(experiment, str | Path):
        experiment = read_toml(experiment)
    experiment = experiment or EXPERIMENTS[DEFAULT_TASK]()
    allowed = read_space(space or {}, experiment)

    from jaxgen.tuning.placing import check_out
    from jaxgen.tuning.study import identity, open_study, storage_errors
    from jaxgen.tuning.trials import Trials, open_data

    out = Path(out)
    folder = out.with_name(f"{out.name}.study")
    check_out(out, None, overwrite=overwrite)
    _check_folder(folder)
    opened = open_data(experiment)
    _make_folder(folder)
    url = _url(study, folder)
    with storage_errors(url):
        with _lock(folder):
            of = open_study(
                url,
                name or out.name,
                experiment,
                allowed,
                opened.objective,
                seeds=seeds,
                overwrite=overwrite,
            )
        check_out(out, identity(of), overwrite=overwrite)
        trainer = Trials(
            experiment, allowed, seeds, folder, deadline, say or _say_on_standard_error, opened
        )
        _free_lost_trials(of)
        reason = _make_trials(of, trainer, trials)
        return _end(of, trainer, out, reason, overwrite)


def _check_limits(minutes: float | None, trials: int | None, seeds: int | None) -> None:
    """UserError where the study would have no end, or no beginning."""
    if minutes is None and trials is None:
        raise UserError("a study needs an end; give `minutes`, `trials` or both")
    if minutes is not None and not (minutes > 0 and math.isfinite(minutes)):
        raise UserError(f"`minutes` must be a number above 0, got {minutes}")
    for name, value in (("trials", trials), ("seeds", seeds)):
        if value is not None and value < 1:
            raise UserError(f"`{name}` must be at least 1, got {value}")


def _check_folder(folder: Path) -> None:
    """UserError where the directory of the study holds something else."""
    refuse_inside_run(folder)
    if folder.is_dir() and not (folder / MARKER).is_file():
        # A name that begins with a dot is of another worker, which begins at this moment.
        if names := [path.name for path in folder.iterdir() if not path.name.startswith(".")]:
            raise UserError(
                f"{folder} is for the study and is not empty: it holds {listed(names)}; move these "
                "files away, or choose another directory with --out"
            )
    elif folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is for the study and is a file; choose another --out")


def _make_folder(folder: Path) -> None:
    make_directory(folder)
    try:
        with _lock(folder):
            write_atomically(folder / MARKER, '{"format": 1}\n')
    except OSError as error:
        raise UserError(f"cannot write in {folder}: {reason_of(error)}") from error


def _url(study: str | Path | None, folder: Path) -> str:
    """The URL of the database; a path is that of an SQLite file."""
    if study is None:
        study = folder / "study.db"
    return study if isinstance(study, str) and "://" in study else f"sqlite:///{study}"


def _say_on_standard_error(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _free_lost_trials(study: "optuna.Study") -> None:
    """Queue again what a process of this machine was training when it was killed.

    Those of other machines are found by the sign of life that they no longer give.
    """
    from filelock import FileLock, Timeout
    from optuna.trial import TrialState

    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        place = trial.user_attrs.get("place", {})
        directory = Path(place.get("directory", ""))
        if place.get("host") != socket.gethostname() or not directory.is_dir():
            continue
        try:
            with FileLock(directory / ".lock", timeout=0):
                running = study.get_trials(states=(TrialState.RUNNING,), deepcopy=False)
                if trial.number in {other.number for other in running}:  # nobody was faster
                    study.tell(trial.number, state=TrialState.FAIL)
                    study.enqueue_trial(trial.params, skip_if_exists=False)
        except Timeout:  # it is trained right now
            continue


def _make_trials(study: "optuna.Study", trainer: "Trials", most: int | None) -> Reason:
    """Make trials until the study ends; returns why it does."""
    from jaxgen.tuning.trials import TrialFailedError

    failures = 0
    with interrupts() as trainer.interrupted:
        while True:
            begun = _records(study, trainer)
            if trainer.stopped or trainer.interrupted():
                return "interrupted"
            if most is not None and sum(trial.ended != "lost" for trial in begun) >= most:
                return "all trials made"
            if time.monotonic() >= trainer.deadline:
                return "time is up"
            try:
                study.optimize(trainer, n_trials=1, catch=(TrialFailedError,))
            except KeyboardInterrupt:  # a second one
                return "interrupted"
            failures = 0 if trainer.failed is None else failures + 1
            if failures == FAILURES:
                raise UserError(
                    f"{failures} trials failed one after the other, the last because "
                    f"{trainer.failed}; mend the configuration or the space"
                )
            _tell(study, trainer)


def _records(study: "optuna.Study", trainer: "Trials") -> "list[Trial]":
    from jaxgen.tuning.records import records

    return records(study, trainer.space)


def _tell(study: "optuna.Study", trainer: "Trials") -> None:
    """Say how the last trial ended, and remove those that are beaten."""
    from jaxgen.tuning.placing import remove_beaten
    from jaxgen.tuning.records import best_of

    objective = trainer.opened.objective
    with _lock(trainer.folder):
        trials = _records(study, trainer)
        best = best_of(trials, objective)
        remove_beaten(trainer.folder, trials, best)
    own = next((trial for trial in trials if trial.number == trainer.number), None)
    if own is None:
        return
    settings = "  ".join(f"{name} {value}" for name, value in own.settings.items())
    line = f"trial {own.number} {own.ended}"
    if own.failure is not None:
        line += f": {own.failure.splitlines()[0]}"
    elif own.value is not None and best is not None:
        shown, best_value = objective.show(own.value), objective.show(best.value or 0.0)
        line += f": validation {objective.shown_name} {shown:.4f}, best {best_value:.4f}"
        line += f" of trial {best.number}"
    trainer.say(f"{line}  {settings}")


def _end(
    study: "optuna.Study", trainer: "Trials", out: Path, reason: Reason, overwrite: bool
) -> Tuning:
    """Keep the best run, its settings and the pictures."""
    from jaxgen.tuning.pictures import plot_study
    from jaxgen.tuning.placing import place, remove_beaten
    from jaxgen.tuning.records import best_of
    from jaxgen.tuning.study import identity

    objective, folder = trainer.opened.objective, trainer.folder
    with _lock(folder):
        trials = _records(study, trainer)
        best = best_of(trials, objective)
        placed = False
        if best is not None:
            settings = with_settings(trainer.experiment, best.settings)
            write_atomically(folder / "best.toml", to_toml(settings))
            placed = place(best, objective, out, identity(study), overwrite=overwrite)
            if not placed:
                trainer.say(
                    f"warning: the best trial, {best.number}, lies in {best.directory} on "
                    f"{best.host}, out of reach from here; run the same command there, or train "
                    f"with its settings, {folder / 'best.toml'}"
                )
        remove_beaten(folder, trials, best)
        plot_study(trials, trainer.space, objective, folder / "study.png")
    if best is None and reason != "interrupted":
        failed = [trial for trial in trials if trial.failure]
        why = f", the last because {failed[-1].failure}" if failed else ""
        raise UserError(
            f"no trial of the study has a figure ({reason}): {len(failed)} failed{why}; give it "
            "more `minutes` or `trials`"
        )
    return Tuning(trials, best, objective, out if placed else None, folder, reason)


def _lock(folder: Path) -> Any:
    """Held while workers that share a directory make the study, or copy and remove trials."""
    from filelock import FileLock

    return FileLock(folder / ".lock", timeout=600)
