"""One trial: a training with some settings, pruned or cut off at its evaluations."""

import math
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from rich.console import Console

from jaxgen.config import Experiment
from jaxgen.errors import UserError, first_line
from jaxgen.start import open_training, read_pretrained
from jaxgen.tasks import task_of
from jaxgen.training.devices import candidate_devices
from jaxgen.training.loop import evaluations
from jaxgen.training.loop_state import Loop
from jaxgen.training.progress import Display
from jaxgen.training.runs import locked
from jaxgen.training.seeds import SeedLayout, make_seed_layout, seed_devices
from jaxgen.training.shared_programs import jit_shared_steps
from jaxgen.training.trainable import Objective
from jaxgen.tuning.space import Space, with_settings
from jaxgen.tuning.study import suggest

CORPUS = "corpus"
"""Attribute of the study: digests of the corpus of its first trial."""
PLACE, RESULT = "place", "result"
"""Attributes of a trial: where it is trained, and how it ended."""
CUT = ("pruned", "time is up", "interrupted")
"""How a trial ends that was given up before its end."""
_SECTIONS_OF_TRAINING = frozenset({"model", "optimizer", "training"})


class TrialFailedError(Exception):
    """A trial without a figure; the study goes on."""


class OtherCorpusError(UserError):
    """This worker has other files than the one that began the study; it ends."""


@dataclass(frozen=True)
class Opened:
    """Data that trials share, and what was fitted to them."""

    experiment: Experiment
    data: Any
    files: Mapping[str, str]
    objective: Objective


@dataclass
class Trials:
    """What trains trials: `study.optimize` calls it with one after the other."""

    experiment: Experiment
    """What the trials have in common."""
    space: Space
    seeds: int | None
    folder: Path
    """Each trial is trained in a directory of its own in here."""
    deadline: float
    """When, by `time.monotonic`, to end."""
    say: Callable[[str], None]
    opened: Opened
    interrupted: Callable[[], bool] = lambda: False
    stopped: bool = False
    """Whether the user ended the study."""
    number: int = -1
    """Of the last trial."""
    failed: str | None = None
    """Why it failed, if it did."""

    def __call__(self, trial: optuna.Trial) -> float:
        """Train it; returns its figure, the mean over its seeds of each one's best.

        Raises:
            TrialFailedError: It has no figure; the reason is kept with the trial.
            TrialPruned: It was not worth more time, or the time was up.
        """
        self.number, self.failed = trial.number, None
        started = time.monotonic()
        settings = suggest(self.space, trial)
        result: dict[str, Any] = {}
        cause: Exception | None = None
        try:
            result = self._train(trial, settings)
        except OtherCorpusError:
            raise
        except UserError as error:
            cause, self.failed = error, str(error)
        except Exception as error:
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
                raise
            cause, self.failed = error, f"out of memory: {first_line(error)}"
        result |= {"seconds": round(time.monotonic() - started, 1), "failure": self.failed}
        trial.set_user_attr(RESULT, result)
        if self.failed is not None:
            raise TrialFailedError(self.failed) from cause
        if result["ended"] in CUT:
            raise optuna.TrialPruned(result["ended"])
        return fmean(result["figures"])

    def _train(self, trial: optuna.Trial, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Train with these settings; returns what is known of it then."""
        experiment = with_settings(self.experiment, settings)
        directory = self.folder / f"trial-{trial.number:05d}"
        with locked(directory):
            where = {"host": socket.gethostname(), "directory": str(directory.resolve())}
            trial.set_user_attr(PLACE, where)
            loop = self._open(experiment, directory)
            self._check_corpus(trial.study, loop)
            ended = self._evaluate(trial, loop)
        figures = _best_of_seeds(loop)
        if figures is None:
            raise UserError(
                f"{ended} before an evaluation gave `{self.opened.objective.name}`; give it more "
                "time, or lower `training.evaluate_every`"
            )
        return {"figures": figures, "steps": loop.step, "ended": ended}

    def _evaluate(self, trial: optuna.Trial, loop: Loop) -> str:
        """Train to the end or to where it is given up; returns why it ended."""
        left = max(self.deadline - time.monotonic(), 1e-3) / 60
        cut = left < (loop.config.max_minutes or math.inf)
        if cut:
            loop.config = loop.config.model_copy(update={"max_minutes": left})
        pruned = False
        with closing(evaluations(loop)) as evaluated:
            for count, _ in enumerate(evaluated, start=1):
                _check_diverged(loop)
                figures = _best_of_seeds(loop)
                if figures is None:
                    continue
                trial.report(fmean(figures), count)
                self._say_figure(trial, loop, fmean(figures))
                if trial.should_prune():
                    pruned = True
                    break
        _check_diverged(loop)
        if loop.interrupted() or self.interrupted():
            self.stopped = True
        if pruned:
            return "pruned"
        if loop.reason == "time is up" and not cut:
            return "finished"
        return loop.reason

    def _open(self, experiment: Experiment, directory: Path) -> Loop:
        """The loop of a trial, in a directory that is made anew."""
        layout = _layout(experiment, self.seeds)
        task = task_of(experiment)
        opened = self._data_of(experiment)
        pretrained = read_pretrained(experiment)
        trainable = task.build(
            experiment, opened.files, opened.data, self.folder / "tokens", pretrained, seeds=layout
        )
        quiet = Display(1, trainable.objective, Console(quiet=True))
        return open_training(
            directory,
            experiment,
            opened.files,
            replace(trainable, sample=None, plotted=()),  # nobody looks at them
            layout,
            overwrite=True,
            display=quiet,
            jit_steps=jit_shared_steps,
        )

    def _data_of(self, experiment: Experiment) -> Opened:
        """The data that the settings name: those of the last trial, unless it names others."""
        if _of_data(experiment) != _of_data(self.opened.experiment):
            self.opened = open_data(experiment)
        return self.opened

    def _check_corpus(self, study: optuna.Study, loop: Loop) -> None:
        """UserError where the figures of a trial do not compare with those of the first."""
        digests = dict(loop.trainable.digests)
        kept = study.user_attrs.get(CORPUS)
        if kept is None:
            study.set_user_attr(CORPUS, digests)
            return
        fixed = all(name.partition(".")[0] in _SECTIONS_OF_TRAINING for name in self.space)
        if fixed and digests != kept:
            raise OtherCorpusError(
                "the corpus here is not the one of the study's first trial; give every worker the "
                "same files, or start another study"
            )
        per_token = (loop.trainable.objective.name, loop.trainable.objective.counts)
        if per_token == ("nll", "tokens") and digests.get("validation") != kept.get("validation"):
            raise UserError(
                "`nll` is counted per token, and the validation tokens are not those of the "
                "study's first trial, so the figures do not compare; leave settings that change "
                "them out of the space"
            )

    def _say_figure(self, trial: optuna.Trial, loop: Loop, value: float) -> None:
        objective = self.opened.objective
        epoch = loop.step / loop.schedule.epoch_steps
        self.say(
            f"trial {trial.number}  step {loop.step}  epoch {epoch:.2f}  "
            f"validation {objective.shown_name} {objective.show(value):.4f}"
        )


def open_data(experiment: Experiment) -> Opened:
    """The data of an experiment; UserError where nothing is held out to measure trials on."""
    task = task_of(experiment)
    pretrained = read_pretrained(experiment)
    data = task.open_data(experiment)
    if getattr(data, "validation", None) is None:
        raise UserError(
            "trials are compared on validation data, and the corpus holds none out; give "
            "validation files, or raise `data.validation_fraction`"
        )
    files = dict(task.fit_files(experiment, data, pretrained))
    return Opened(experiment, data, files, task.objective(experiment, files))


def _of_data(experiment: Experiment) -> dict[str, Any]:
    """The settings on which data and what is fitted to them may depend."""
    sections = experiment.sections()
    return {name: sections[name] for name in sections if name not in ("optimizer", "training")}


def _layout(experiment: Experiment, seeds: int | None) -> SeedLayout | None:
    """Where the seeds of a trial lie; None of one run. UserError where devices do not fit."""
    config = experiment.training
    if seeds is None:
        candidate_devices(config.devices, config.batch_size)
        return None
    return make_seed_layout(seeds, seed_devices(config.devices, seeds))


def _best_of_seeds(loop: Loop) -> list[float] | None:
    """The best figure of each seed so far; None while one has none."""
    best = [run.best for run in loop.runs]
    return None if None in best else [value for value in best if value is not None]


def _check_diverged(loop: Loop) -> None:
    """UserError where a seed diverged: its setting is no good, whatever the others do."""
    for run in loop.runs:
        if run.diverged:
            raise UserError(f"{run.name} diverged: {run.progress.stopped}")
