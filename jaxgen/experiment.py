"""Runs from settings, and models from runs: `train`, `load`, `evaluate`, `describe`, `export`.

All that is known here are run directories and exports; what a model is, its task knows.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import jax
import numpy as np
from rich.console import Console

from jaxgen.config import EXPERIMENTS, Experiment, changes
from jaxgen.config.distributed import Distributed
from jaxgen.config.toml import DEFAULT_TASK, read_toml
from jaxgen.directories import kind_of
from jaxgen.errors import UserError
from jaxgen.exports import check_export, write_export
from jaxgen.saved import (
    CheckpointName,
    files_of_run,
    load_ensemble,
    load_saved,
    read_saved,
    settings_of,
    settings_of_run,
)
from jaxgen.tasks import Saved, check_evaluate_options, task_of
from jaxgen.tasks.other_files import OtherFiles, Paths
from jaxgen.training.devices import candidate_devices, choose_devices, devices_wanted, jitted_init
from jaxgen.training.loop import Result, open_loop
from jaxgen.training.loop import train as train_runs
from jaxgen.training.memory import check_memory, tree_bytes
from jaxgen.training.open_runs import open_seeds
from jaxgen.training.parallel import jit_multi_step
from jaxgen.training.pretrained import check_pretrained
from jaxgen.training.processes import Processes, joined
from jaxgen.training.progress import Display
from jaxgen.training.run_progress import history
from jaxgen.training.runs import Run, locked
from jaxgen.training.schedule import StepSchedule
from jaxgen.training.seed_runs import (
    SeedRuns,
    first_run_of,
    runs_of,
    seed_group_of,
    seeds_history,
    seeds_to_resume,
)
from jaxgen.training.seeds import SeedLayout, first_states, make_seed_layout, seed_devices
from jaxgen.training.starts import check_start
from jaxgen.training.step import TrainState
from jaxgen.training.together import check_processes, open_run_together, request_devices_of_each
from jaxgen.training.trainable import Trainable

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
        LostProcess: Another process ended or hangs.
    """
    if resume and overwrite:
        raise UserError(
            f"`resume` goes on with the run in {out} and `overwrite` (--force) starts anew; choose "
            "one of them"
        )
    with joined(distributed) as processes:
        start = Start(Path(out), experiment, seeds, resume, overwrite)
        return _train(start, display, processes)


class Start(NamedTuple):
    """What `train` is asked for, see there."""

    out: Path
    experiment: Experiment | str | Path | None
    seeds: int | None
    resume: bool
    overwrite: bool

    def settled(self) -> tuple[Experiment, int | None]:
        """The settings, those of the run where one is resumed, and how many seeds."""
        out, wanted, seeds = self.out, self.experiment, self.seeds
        if isinstance(wanted, str | Path):
            wanted = read_toml(wanted)
        if seed_group_of(out):
            raise UserError(
                f"{out} trains together with the seeds beside it; continue all of them with "
                f"--resume --out {seed_group_of(out)}, or copy it elsewhere to go on with it alone"
            )
        if self.resume:
            seeds = seeds_to_resume(out, seeds)
            wanted = _resumed(out, wanted)
        return wanted or EXPERIMENTS[DEFAULT_TASK](), seeds


def _train(start: Start, display: Display | None, processes: Processes) -> Result | list[Result]:
    experiment, seeds = start.settled()
    out, resume, overwrite = start.out, start.resume, start.overwrite
    config = experiment.training
    numbers = range(config.seed, config.seed + (1 if seeds is None else seeds))
    if processes.count > 1:
        check_processes(experiment, seeds, {"--resume": resume, "--force": overwrite}, processes)
        request_devices_of_each(config, _notes(out) if resume else {}, processes)
    if not resume and processes.leads:
        check_start(out, seeds=() if seeds is None else numbers, overwrite=overwrite)
    layout = None
    if seeds is None:  # an error now, not after the corpus
        wanted = devices_wanted(config, _notes(out) if resume else {})
        candidate_devices(wanted, config.batch_size)
    else:
        layout = make_seed_layout(seeds, seed_devices(config.devices, seeds))
    task = task_of(experiment)
    pretrained = _pretrained(experiment, out if resume else None)
    data = processes.first_before_others("the corpus", lambda: task.open_data(experiment))
    with locked(out) if processes.leads else nullcontext():

        def fitted() -> dict[str, str]:
            if resume:
                return dict(files_of_run(Run.open(first_run_of(out))))
            return dict(task.fit_files(experiment, data, pretrained))

        files = processes.from_first("the tokenizer", fitted)
        trainable = processes.first_before_others(
            "the tokens",
            lambda: task.build(experiment, files, data, out / "tokens", pretrained, seeds=layout),
        )
        if processes.count > 1:
            digests = {f"the digest of the {k} data": v for k, v in trainable.digests.items()}
            processes.check_same(digests)
        init = jitted_init(trainable)
        shapes = jax.eval_shape(init, jax.random.key(0))
        check_pretrained(trainable.pretrained, shapes.params, where="`model.pretrained`")
        check_memory((tree_bytes(shapes) + tree_bytes(shapes.params)) * len(numbers))
        if layout is None:
            run = open_run_together(out, experiment, files, trainable, resume, overwrite, processes)
            return _train_one(trainable, init, experiment, run, display, processes)
        group = open_seeds(out, experiment, numbers, files, trainable, layout, resume, overwrite)
        return _train_seeds(trainable, experiment, group, layout, display)


def _notes(out: Path) -> dict[str, Any]:
    """What the run there decided when it began."""
    return Run.open(first_run_of(out)).notes


def _pretrained(experiment: Experiment, resumed: Path | None) -> Saved | None:
    """What `model.pretrained` names, unless the resumed run has its own parameters by now."""
    path = getattr(experiment.model, "pretrained", None)
    if path is None:
        return None
    if resumed is not None and Run.open(first_run_of(resumed)).checkpoint("last") is not None:
        return None
    return _read_named("`model.pretrained`", path, task_of(experiment).begins_from)


def _read_named(name: str, path: str | Path, tasks: Sequence[str]) -> Saved:
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


def _train_one(
    trainable: Trainable,
    init: Callable[[jax.Array], TrainState],
    experiment: Experiment,
    run: Run,
    display: Display | None,
    processes: Processes,
) -> Result:
    config = experiment.training
    schedule = StepSchedule(trainable.batches, config)
    if not processes.leads:
        display = Display(schedule.total, trainable.objective, Console(quiet=True))
    display = display or Display(schedule.total, trainable.objective)
    layout, multi_step = choose_devices(trainable, init, schedule, config, run, display)
    state = init(jax.random.key(config.seed))
    loop = open_loop(
        trainable,
        state,
        multi_step,
        [run],
        config,
        layout=layout,
        display=display,
        processes=processes,
    )
    (result,) = train_runs(loop)
    return result


def _train_seeds(
    trainable: Trainable,
    experiment: Experiment,
    group: SeedRuns,
    layout: SeedLayout,
    display: Display | None,
) -> list[Result]:
    config = experiment.training
    keys = [jax.random.key(seed) for seed in group.index["seeds"]]
    train_step = trainable.train_step_on(layout.axis_name)
    loop = open_loop(
        trainable,
        first_states(trainable.init_state, keys, layout),
        jit_multi_step(train_step, layout, accumulate=config.accumulate_steps),
        group.runs,
        config,
        layout=layout,
        display=display,
        log=group.log,
    )
    return train_runs(loop)


def _resumed(out: Path, wanted: Experiment | None) -> Experiment:
    """The settings of a run, with those of `wanted` that a resumed run may set anew."""
    path = out / "config.toml"
    kept = settings_of(out)
    wanted = wanted or kept
    if wanted.task != kept.task:
        raise UserError(
            f"a resumed run keeps its task: {path} has {kept.task}, got {wanted.task}; leave it "
            "out, or start a new run with another --out"
        )
    for name, old, new in changes(kept, wanted):
        section, _, setting = name.partition(".")
        if setting not in getattr(kept, section).changeable_on_resume:
            raise UserError(
                f"a resumed run keeps its settings: `{name}` is {old!r} in {path}, got {new!r}; "
                "leave it out, or start a new run with another --out"
            )
    return wanted


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
            options[name] = load_saved(_read_named(f"`{name}`", named, tasks), str(named))
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
