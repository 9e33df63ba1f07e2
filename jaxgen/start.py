"""From what `jaxgen.train` is asked for to the training loop: settings, data, files, directory."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console

from jaxgen.config import EXPERIMENTS, Experiment, changes
from jaxgen.config.toml import DEFAULT_TASK, read_toml
from jaxgen.errors import UserError
from jaxgen.saved import files_of_run, read_named, settings_of
from jaxgen.tasks import Saved, task_of
from jaxgen.training.devices import candidate_devices, choose_devices, devices_wanted, jitted_init
from jaxgen.training.loop import Result, open_loop
from jaxgen.training.loop import train as train_runs
from jaxgen.training.loop_state import Loop
from jaxgen.training.memory import check_memory, tree_bytes
from jaxgen.training.open_runs import open_seeds
from jaxgen.training.parallel import JitSteps, jit_multi_step
from jaxgen.training.pretrained import check_pretrained
from jaxgen.training.processes import ALONE, Processes
from jaxgen.training.progress import Display
from jaxgen.training.runs import Run, locked
from jaxgen.training.schedule import StepSchedule
from jaxgen.training.seed_runs import SeedRuns, first_run_of, seed_group_of, seeds_to_resume
from jaxgen.training.seeds import SeedLayout, first_states, make_seed_layout, seed_devices
from jaxgen.training.starts import check_start
from jaxgen.training.step import TrainState
from jaxgen.training.together import check_processes, open_run_together, request_devices_of_each
from jaxgen.training.trainable import Trainable


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


def train_from(
    start: Start, display: Display | None, processes: Processes
) -> Result | list[Result]:
    """Train what is asked for; see `jaxgen.train`."""
    experiment, seeds = start.settled()
    out, resume, overwrite = start.out, start.resume, start.overwrite
    config = experiment.training
    numbers = range(config.seed, config.seed + (1 if seeds is None else seeds))
    if processes.count > 1:
        check_processes(experiment, seeds, {"--resume": resume, "--force": overwrite}, processes)
    if jax.distributed.is_initialized():
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
    pretrained = read_pretrained(experiment, out if resume else None)
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
        loop = open_training(
            out,
            experiment,
            files,
            trainable,
            layout,
            resume,
            overwrite,
            display=display,
            processes=processes,
        )
        results = train_runs(loop)
    return results[0] if layout is None else results


def open_training(
    out: Path,
    experiment: Experiment,
    files: Mapping[str, str],
    trainable: Trainable,
    layout: SeedLayout | None,
    resume: bool = False,
    overwrite: bool = False,
    *,
    display: Display | None = None,
    jit_steps: JitSteps = jit_multi_step,
    processes: Processes = ALONE,
) -> Loop:
    """The loop of what a task has built: run directories made or gone on with, steps compiled.

    The caller holds the lock of `out`. Arguments and errors are those of `train`; `layout` is that
    of several seeds, `jit_steps` compiles the steps, `processes` train together.
    """
    config = experiment.training
    numbers = range(config.seed, config.seed + (1 if layout is None else layout.seeds))
    init = jitted_init(trainable)
    shapes = jax.eval_shape(init, jax.random.key(0))
    check_pretrained(trainable.pretrained, shapes.params, where="`model.pretrained`")
    check_memory((tree_bytes(shapes) + tree_bytes(shapes.params)) * len(numbers))
    if layout is None:
        run = open_run_together(out, experiment, files, trainable, resume, overwrite, processes)
        return _open_one(trainable, init, experiment, run, display, jit_steps, processes)
    group = open_seeds(out, experiment, numbers, files, trainable, layout, resume, overwrite)
    return _open_seeds(trainable, experiment, group, layout, display, jit_steps)


def _notes(out: Path) -> dict[str, Any]:
    """What the run there decided when it began."""
    return Run.open(first_run_of(out)).notes


def read_pretrained(experiment: Experiment, resumed: Path | None = None) -> Saved | None:
    """What `model.pretrained` names, unless the resumed run has its own parameters by now."""
    path = getattr(experiment.model, "pretrained", None)
    if path is None:
        return None
    if resumed is not None and Run.open(first_run_of(resumed)).checkpoint("last") is not None:
        return None
    return read_named("`model.pretrained`", path, task_of(experiment).begins_from)


def _open_one(
    trainable: Trainable,
    init: Callable[[jax.Array], TrainState],
    experiment: Experiment,
    run: Run,
    display: Display | None,
    jit_steps: JitSteps,
    processes: Processes,
) -> Loop:
    config = experiment.training
    schedule = StepSchedule(trainable.batches, config)
    if not processes.leads:
        display = Display(schedule.total, trainable.objective, Console(quiet=True))
    display = display or Display(schedule.total, trainable.objective)
    layout, multi_step = choose_devices(
        trainable, init, schedule, config, run, display, jit_steps=jit_steps
    )
    return open_loop(
        trainable,
        init(jax.random.key(config.seed)),
        multi_step,
        [run],
        config,
        layout=layout,
        display=display,
        processes=processes,
    )


def _open_seeds(
    trainable: Trainable,
    experiment: Experiment,
    group: SeedRuns,
    layout: SeedLayout,
    display: Display | None,
    jit_steps: JitSteps,
) -> Loop:
    config = experiment.training
    keys = [jax.random.key(seed) for seed in group.index["seeds"]]
    train_step = trainable.train_step_on(layout.axis_name)
    return open_loop(
        trainable,
        first_states(trainable.init_state, keys, layout),
        jit_steps(train_step, layout, accumulate=config.accumulate_steps),
        group.runs,
        config,
        layout=layout,
        display=display,
        log=group.log,
    )


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
