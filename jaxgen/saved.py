"""Trained models as they lie on the disk, in a run directory or an export."""

from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from jaxgen.config import Experiment
from jaxgen.config.toml import parse_toml
from jaxgen.directories import kind_of
from jaxgen.errors import UserError
from jaxgen.exports import read_export, read_export_settings
from jaxgen.tasks import Saved, task_of
from jaxgen.training.checkpoints import restore_like
from jaxgen.training.runs import Run
from jaxgen.training.seed_runs import first_run_of

CheckpointName = Literal["best", "last"]


def load_saved(saved: Saved, where: str) -> Any:
    """As `load`, from what `read_saved` gave; `where` names it in errors."""
    experiment, files, params = saved
    task = task_of(experiment)
    params = restore_like(task.init_shapes(experiment, files), params, where=where)
    return task.load(experiment, files, jax.tree.map(jnp.asarray, params))


def read_saved(path: str | Path, which: CheckpointName | None = None) -> Saved:
    """Settings, files and parameters (NumPy arrays) of a run or an export, unchecked.

    Raises:
        UserError: As in `load`.
    """
    directory = Path(path)
    if kind_of(directory) == "export":
        if which is not None:
            raise UserError(
                f"{path} is an export and holds one set of parameters, got checkpoint {which}; "
                "leave it out"
            )
        return Saved(*read_export(directory))
    run = Run.open(directory)
    return Saved(settings_of_run(run), files_of_run(run), run.load_params(which))


def settings_of(path: str | Path) -> Experiment:
    """The settings of a run, of several seeds (those of the first) or of an export.

    Raises:
        UserError: As in `load`.
    """
    directory = Path(path)
    if kind_of(directory) == "export":
        return read_export_settings(directory)
    return settings_of_run(Run.open(first_run_of(directory)))


def check_command(path: str | Path, command: str) -> None:
    """UserError where a model is of a task that another command uses; the error names it."""
    experiment = settings_of(path)
    wanted = task_of(experiment).command
    if wanted != command:
        raise UserError(
            f"{path} is of task {experiment.task}, which has no `jaxgen {command}`; use "
            f"`jaxgen {wanted} {path}`"
        )


def settings_of_run(run: Run) -> Experiment:
    """The settings of a run."""
    return parse_toml(run.read_file("config.toml"), str(run.directory / "config.toml"))


def files_of_run(run: Run) -> dict[str, str]:
    """The files of a run's task."""
    return {name: run.read_file(name) for name in run.notes["files"]}
