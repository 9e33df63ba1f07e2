"""Opening run directories to train in: made anew, or gone on with."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgen.config import Experiment
from jaxgen.config.toml import to_toml
from jaxgen.errors import UserError
from jaxgen.training.runs import Run
from jaxgen.training.seed_runs import SeedRuns
from jaxgen.training.seeds import SeedLayout
from jaxgen.training.trainable import Trainable


def open_run(
    out: Path,
    experiment: Experiment,
    files: Mapping[str, str],
    trainable: Trainable,
    resume: bool,
    overwrite: bool,
) -> Run:
    """The run directory, made or gone on with."""
    written = {"config.toml": _config_toml(experiment), **files}
    if not resume:
        return Run.create(out, written, _notes(files, trainable), overwrite=overwrite)
    run = Run.open(out)
    _check_corpus([run], experiment, trainable)
    run.write_file("config.toml", written["config.toml"])
    return run


def open_seeds(
    out: Path,
    experiment: Experiment,
    numbers: Sequence[int],
    files: Mapping[str, str],
    trainable: Trainable,
    layout: SeedLayout,
    resume: bool,
    overwrite: bool,
) -> SeedRuns:
    """The directory of several seeds, made or gone on with."""

    def written(seed: int) -> dict[str, str]:
        own = experiment.updated(training={"seed": seed})
        return {"config.toml": _config_toml(own), **files}

    if not resume:
        notes = _notes(files, trainable)
        return SeedRuns.create(out, numbers, layout.devices, written, notes, overwrite=overwrite)
    group = SeedRuns.open(out)
    _check_corpus(group.runs, experiment, trainable)
    group.write_file("config.toml", written(numbers[0])["config.toml"])
    for run, seed in zip(group.runs, numbers, strict=True):
        run.write_file("config.toml", written(seed)["config.toml"])
    return group


def _config_toml(experiment: Experiment) -> str:
    """The settings to keep. That a changed corpus was accepted once is not accepted for ever."""
    return to_toml(experiment.updated(data={"changed": "refuse"}))


def _notes(files: Mapping[str, str], trainable: Trainable) -> dict[str, Any]:
    return {"files": list(files), "corpus": dict(trainable.digests)}


def _check_corpus(runs: Sequence[Run], experiment: Experiment, trainable: Trainable) -> None:
    """UserError where the corpus is not the one that the runs began with, unless that is accepted.

    Where it is, the best checkpoints are found anew: figures of two corpora do not compare.
    """
    now = dict(trainable.digests)
    for run in runs:
        before = run.notes.get("corpus", now)  # earlier versions noted none
        changed = sorted(p for p in now.keys() | before.keys() if now.get(p) != before.get(p))
        if changed and experiment.data.changed == "refuse":
            raise UserError(
                f"the {', '.join(changed)} data are not those that {run.directory} began with; "
                "give it the same corpus, start a new run with another --out, or go on with "
                "--data.changed accept (the best checkpoint is then found anew)"
            )
        if changed:
            run.forget_best()
        if run.notes.get("corpus") != now:
            run.note(corpus=now)
