"""Trained models as they lie on the disk, in a run directory or an export."""

from collections.abc import Iterable, Sequence
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
from jaxgen.training.seed_runs import first_run_of, runs_of

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


def read_named(name: str, path: str | Path, tasks: Sequence[str]) -> Saved:
    """The model that a setting or an option names; UserError where it is of another task."""
    try:
        saved = read_saved(path)
    except UserError as error:
        raise UserError(f"{name} cannot be read: {error}") from error
    if saved.experiment.task not in tasks:
        raise UserError(
            f"{name} must be a run or an export of task {' or '.join(tasks)}, and {path} is of "
            f"task {saved.experiment.task}; name another"
        )
    return saved


def load_ensemble(
    paths: str | Path | Iterable[str | Path],
    *,
    weights: Sequence[float] | None = None,
    mode: str = "average",
    which: CheckpointName | None = None,
) -> Any:
    """Load several trained models as one that decides as they do together.

    Args:
        paths: Runs and exports of one task and one tokenizer. A directory of seeds stands for all
            its runs; a run that comes up twice is one model.
        weights: One for each path; the runs of a directory of seeds share its own evenly. None:
            every model has the same.
        mode: "average" of the probabilities, or their "product" to the power of the weights, where
            negative ones steer away from a model.
        which: As in `load`.

    Returns:
        A `jaxgen.TextModel`, `Classifier` or `Translator`, used as that of one run.

    Raises:
        UserError: As in `load`; there is one model alone; the models are of different tasks or
            vocabularies, or classifiers of different labels; there is not one weight a path, or
            weights are not finite, all 0, or negative in an average.
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    if weights is not None and len(weights) != len(paths):
        raise UserError(
            f"`weights` must hold one number for each of the {len(paths)} paths of the ensemble, "
            f"got {len(weights)}"
        )
    runs: dict[Path, Path] = {}
    shares: dict[Path, float] = {}
    for place, path in enumerate(paths):
        found = runs_of(Path(path))
        for run in found:
            runs.setdefault(run.resolve(), run)
            share = 0.0 if weights is None else weights[place] / len(found)
            shares[run.resolve()] = shares.get(run.resolve(), 0.0) + share
    if len(runs) < 2:
        raise UserError(
            f"an ensemble needs two models or more, got {', '.join(map(str, paths)) or 'none'}; "
            "name a directory of seeds (`jaxgen train --seeds`), or more runs"
        )
    members = [(read_saved(run, which), str(run)) for run in runs.values()]
    tasks = dict.fromkeys(saved.experiment.task for saved, _ in members)
    if len(tasks) > 1:
        raise UserError(
            f"the models of an ensemble must be of one task, got {' and '.join(tasks)}; leave some "
            "out"
        )
    task = task_of(members[0][0].experiment)
    if task.ensemble is None:
        raise UserError(f"task {next(iter(tasks))} has no ensembles; use its runs one by one")
    models = [load_saved(saved, where) for saved, where in members]
    return task.ensemble(models, None if weights is None else list(shares.values()), mode)


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
