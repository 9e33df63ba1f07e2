"""Runs from settings, and models from runs: `train`, `load`, `evaluate`, `describe`, `export`.

All that is known here are run directories and exports; what a model is, its task knows.
"""

from pathlib import Path
from typing import Any, Literal, overload

import jax
import numpy as np

from jaxgen.config import Experiment, changes
from jaxgen.config.distributed import Distributed
from jaxgen.directories import kind_of
from jaxgen.errors import UserError
from jaxgen.exports import check_export, write_export
from jaxgen.saved import (
    CheckpointName,
    files_of_run,
    load_ensemble,
    load_saved,
    read_named,
    read_saved,
    settings_of,
    settings_of_run,
)
from jaxgen.start import Start, train_from
from jaxgen.tasks import check_evaluate_options, task_of
from jaxgen.tasks.other_files import OtherFiles, Paths
from jaxgen.training.loop import Result
from jaxgen.training.processes import joined
from jaxgen.training.progress import Display
from jaxgen.training.run_progress import history
from jaxgen.training.runs import Run
from jaxgen.training.seed_runs import (
    SeedRuns,
    first_run_of,
    runs_of,
    seeds_history,
)

Split = Literal["train", "validation", "test"]


@overload
def train(
    experiment: Experiment | str | Path | None = None,
    *,
    out: str | Path,
    seeds: None = None,
    resume: bool = False,
    overwrite: bool = False,
    display: Display | None = None,
    distributed: Distributed | None = None,
) -> Result: ...


@overload
def train(
    experiment: Experiment | str | Path | None = None,
    *,
    out: str | Path,
    seeds: int,
    resume: bool = False,
    overwrite: bool = False,
    display: Display | None = None,
    distributed: Distributed | None = None,
) -> list[Result]: ...


def train(
    experiment: Experiment | str | Path | None = None,
    *,
    out: str | Path,
    seeds: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    display: Display | None = None,
    distributed: Distributed | None = None,
) -> Result | list[Result]:
    """Train a model into a run directory.

    Args:
        experiment: Settings, or a TOML file with them; None takes a language model's defaults, and
            with `resume` those of the run.
        out: The run directory.
        seeds: Train so many runs together as one program, in `out`/seed-0, `out`/seed-1 and so on,
            each with the next seed from `training.seed` and each a run directory like any other.
            One that diverges leaves the others alone, and says so in its result.
        resume: Continue the run there, bit for bit. Only lengths, limits, samples and the place
            of the files may differ from the run's settings.
        overwrite: Start anew where there is a run already.
        display: Where to show progress; by default on standard error.
        distributed: Where this process stands among several that train together, each of which
            calls this with the same arguments but for that; None where it is alone. See
            docs/scaling.md.

    Returns:
        How it ended, of each seed with `seeds`. `load(out)` gives the trained model.

    Raises:
        UserError: Bad settings or corpus, a corpus that has changed since the run began, a run that
            is there already (or is not, with `resume`), a pretrained run that is missing or does
            not fit, other people's files, another process training there, a loss that is not
            finite, a full disk; other settings or versions than those of process 0.
        ProcessLostError: Another process ended or hangs.
    """
    if resume and overwrite:
        raise UserError(
            f"`resume` goes on with the run in {out} and `overwrite` (--force) starts anew; choose "
            "one of them"
        )
    with joined(distributed) as processes:
        start = Start(Path(out), experiment, seeds, resume, overwrite)
        return train_from(start, display, processes)


def load(path: str | Path, which: CheckpointName | None = None) -> Any:
    """Load a trained model from a run directory or an export.

    Args:
        path: The directory.
        which: Checkpoint of a run; None takes the best, or the last where none was evaluated.

    Returns:
        The model as its task has it: of a language model a `jaxgen.TextModel`.

    Raises:
        UserError: It is missing, half-written, damaged or of a newer format.
    """
    return load_saved(read_saved(path, which), str(path))


def evaluate(
    path: str | Path,
    *,
    split: Split | None = None,
    files: Paths = (),
    source_files: Paths = (),
    target_files: Paths = (),
    which: CheckpointName | None = None,
    ensemble: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Measure a trained model on held-out data.

    Args:
        path: A run directory or an export; of a text GAN also a directory of seeds, whose figures
            are means over its runs.
        split: Part of its corpus; None takes the test part, or the validation part where there
            is no other.
        files: A file, or several, to measure on instead of the model's corpus.
        source_files: Of an encoder-decoder, in the place of `files`: texts with a source in each
            line, beside `target_files`.
        target_files: As many, whose lines are the targets of these lines.
        which: As in `load`.
        ensemble: Measure the runs of a directory of seeds as one model, see `load_ensemble`.
        **options: Of the model's task: for a language model `protocol`, see
            `jaxgen.tasks.language_model.evaluate`; for a classifier `threshold`, `temperature`,
            `plots` and `baselines`, see `jaxgen.tasks.classifier_evaluation.evaluate`; for a
            labelled language model `control` and `judge`, runs or exports of a classifier and of a
            language model, see `jaxgen.tasks.conditional_control.evaluate_control`; for an
            encoder-decoder `beam_size`, `bleu_tokenize` and `baselines`, see
            `jaxgen.tasks.seq2seq_evaluation.evaluate`; for a text GAN `samples`, `temperatures`
            and more, see `jaxgen.tasks.text_gan_evaluation.evaluate`.

    Returns:
        What was measured, and the figures of the task: of a language model `tokens` counted, `nll`
        in nats per token, `perplexity`, and `bpc` where tokens are characters or bytes; of a
        classifier `accuracy`, `f1_macro`, `nll`, `ece` and more, also of each class; of an
        encoder-decoder `exact_match`, `bleu` and `chrf`, beside those of the nearest training pair.

    Raises:
        UserError: The model, its corpus or that part of it is not there, the task does not know an
            option, or an option names a model of another task.
    """
    other = OtherFiles.named(files, source_files, target_files)
    other.check(split)
    together = SeedRuns.exists(path) and task_of(settings_of(path)).evaluate_runs is not None
    saved = read_saved(first_run_of(Path(path)) if ensemble or together else path, which)
    experiment, task = saved.experiment, task_of(saved.experiment)
    check_evaluate_options(experiment.task, options)
    data = other.open(task, experiment)
    split = split or ("validation" if data.test is None else "test")
    if getattr(data, split) is None:
        raise UserError(f"the corpus of {path} holds out no {split} text; choose another --split")
    for name, tasks in task.evaluates_with.items():
        if (named := options.get(name)) is not None:
            options[name] = load_saved(read_named(f"`{name}`", named, tasks), str(named))
    options["split"] = split
    if ensemble:
        figures = task.evaluate(load_ensemble(path, which=which), data, options)
    elif together and task.evaluate_runs is not None:
        models = [load(run, which) for run in runs_of(Path(path))]
        figures = task.evaluate_runs(models, data, options)
    else:
        figures = task.evaluate(load_saved(saved, str(path)), data, options)
    return {"path": str(path), "split": None if any(other) else split, **figures}


def describe(path: str | Path) -> dict[str, Any]:
    """What is known about a run or an export without running it.

    Raises:
        UserError: As in `load`.
    """
    directory = Path(path)
    facts: dict[str, Any] = {"path": str(path)}
    if SeedRuns.exists(directory):
        first = Run.open(first_run_of(directory))
        experiment, files = settings_of_run(first), files_of_run(first)
        objective = task_of(experiment).objective(experiment, files)
        history_of_seeds = seeds_history(directory, objective)
        return facts | {"kind": "seeds", "task": experiment.task, **history_of_seeds}
    saved = read_saved(directory)
    experiment, files = saved.experiment, dict(saved.files)
    task = task_of(experiment)
    exported = kind_of(directory) == "export"
    facts |= {
        "kind": "export" if exported else "run",
        "task": experiment.task,
        "parameters": sum(np.size(leaf) for leaf in jax.tree.leaves(saved.params)),
        **task.facts(experiment, files),
    }
    if not exported:
        facts |= history(Run.open(directory), task.objective(experiment, files))
    plain = type(experiment)()
    facts["settings"] = {name: new for name, _, new in changes(plain, experiment)}
    return facts


def export(
    path: str | Path,
    directory: str | Path,
    *,
    which: CheckpointName | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model as safetensors with its settings and files; `load` reads it.

    Args:
        path: A run directory (or another export).
        directory: Made if missing.
        which: As in `load`.
        overwrite: Replace an export that is there.

    Raises:
        UserError: The run cannot be read, or the directory not be written: it is or lies inside a
            run, or holds an export (without `overwrite`) or other files.
    """
    check_export(directory, overwrite=overwrite)
    experiment, files, params = read_saved(path, which)
    task = task_of(experiment)
    settings = experiment.model_dump(mode="json", exclude_defaults=True)
    config = {
        "model_type": f"jaxgen_{experiment.task}",
        **task.facts(experiment, files),
        "experiment": {"task": experiment.task, **settings},
    }
    card = task.card
    for name, value in task.facts(experiment, files).items():
        card = card.replace(f"{{{name}}}", f"{value:,}" if isinstance(value, int) else str(value))
    write_export(directory, params, files, config, card, overwrite=overwrite)
