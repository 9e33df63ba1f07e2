"""What a task is: functions that join settings, data, model, loss and figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from jaxgen.config import Experiment
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.ops.backends import RecurrenceSpec
from jaxgen.training.seeds import SeedLayout
from jaxgen.training.trainable import Objective, Trainable
from jaxgen.types import Int, PyTree

Files = Mapping[str, str]
"""What a model needs beside its parameters, such as {"tokenizer.json": text}."""


def tokenizer_of(files: Files) -> Tokenizer:
    """The tokenizer among the files of a model."""
    return _parsed(files["tokenizer.json"])


@lru_cache(maxsize=4)
def _parsed(text: str) -> Tokenizer:
    return Tokenizer.from_text(text)


class Saved(NamedTuple):
    """A trained model as it lies on the disk."""

    experiment: Experiment
    files: Files
    params: PyTree
    """Nested dicts of NumPy arrays, unchecked."""


@runtime_checkable
class Build(Protocol):
    """Makes what training needs."""

    def __call__(
        self,
        experiment: Any,
        files: Files,
        data: Any,
        cache: Path,
        pretrained: Saved | None,
        *,
        seeds: SeedLayout | None = None,
    ) -> Trainable:
        """Build it.

        Args:
            experiment: The settings.
            files: From `Task.fit_files`, or those of the resumed run.
            data: From `Task.open_data`.
            cache: A directory of the run for what is large and can be made again.
            pretrained: What `model.pretrained` names; None without it, and for a resumed run, whose
                checkpoint has all parameters.
            seeds: How the runs of several seeds lie on devices; None for one run.

        Raises:
            UserError: The settings or the data cannot be trained with.
        """


@dataclass(frozen=True)
class Task:
    """One task, as `jaxgen.experiment` and the command line see it.

    Its functions are handed opened data, files and parameters; they never open a run directory.
    Settings are those of the task's class in `jaxgen.config.EXPERIMENTS`.
    """

    open_data: Callable[[Any], Any]
    """(experiment): the corpus, opened."""
    fit_files: Callable[[Any, Any, Saved | None], Files]
    """(experiment, data, pretrained): what is fitted to the training data, or taken from the run
    that `model.pretrained` names."""
    build: Build
    load: Callable[[Any, Files, PyTree], Any]
    """(experiment, files, params): the trained model as people use it."""
    init_shapes: Callable[[Any, Files], PyTree]
    """(experiment, files): shapes and types of the parameters, to check a checkpoint against."""
    evaluate: Callable[[Any, Any, Mapping[str, Any]], dict[str, Any]]
    """(model, data, options): figures on `options["split"]` of the data. Of the other options those
    that are given, by the names in `evaluate_options`."""
    facts: Callable[[Any, Files], dict[str, Any]]
    """(experiment, files): what `info` says of the model."""
    objective: Callable[[Any, Files], Objective]
    command: str
    """The command that uses a trained model: "generate", "predict", "translate"."""
    ensemble: Callable[[Sequence[Any], Any, str], Any] | None = None
    """(models, weights, mode): several of its models as one; see `jaxgen.saved.load_ensemble`."""
    open_files: Callable[[Any, Sequence[Path]], Any] | None = None
    """(experiment, files): other data to evaluate on, all of it in the part `test`."""
    open_parallel: Callable[[Any, Sequence[Path], Sequence[Path]], Any] | None = None
    """(experiment, source files, target files): the same, of files whose lines are pairs."""
    begins_from: tuple[str, ...] = ()
    """Tasks whose runs `model.pretrained` may name, where the settings have that."""
    evaluate_runs: Callable[[Sequence[Any], Any, Mapping[str, Any]], dict[str, Any]] | None = None
    """(models, data, options): as `evaluate`, of the runs of several seeds together."""
    evaluate_options: tuple[str, ...] = ()
    """What `evaluate` takes besides `split`."""
    evaluates_with: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Those of them that name the run or export of another model, and the tasks that it may be of;
    `evaluate` is handed the loaded model."""
    training_tokens: Callable[[Any], Int[np.ndarray, " N"]] | None = None
    """(model): ids of the text that it was trained on, for `generate --report`."""
    recurrence: Callable[[Any], tuple[str, RecurrenceSpec]] | None = None
    """(experiment): the backend asked for and what it has to run, for `info --backend`."""
    card: str = "# {name}\n\nA model made with jaxgen, of {parameters} parameters.\n"
    """The model card of an export; {name}, {parameters} and the names of `facts` are filled in."""
    show: Callable[[dict[str, Any]], str | None] | None = None
    """(figures): what `jaxgen evaluate` prints of figures from `evaluate`; None: each by name."""
