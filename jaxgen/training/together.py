"""How several processes start one training: alike, with as many devices each, in one directory."""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jaxgen.config import Experiment, TrainingConfig
from jaxgen.errors import UserError
from jaxgen.training.followed_run import FollowedRun
from jaxgen.training.open_runs import open_run
from jaxgen.training.parallel import request_host_devices
from jaxgen.training.processes import Processes
from jaxgen.training.runs import Run
from jaxgen.training.trainable import Trainable


def check_processes(
    experiment: Experiment, seeds: int | None, flags: Mapping[str, bool], processes: Processes
) -> None:
    """Check that all processes are about to train the same.

    Args:
        experiment: The settings.
        seeds: How many train together; None for one run.
        flags: Options by name.
        processes: Those that train.

    Raises:
        UserError: Settings or versions are not those of process 0, or there are several seeds.
    """
    sections = experiment.model_dump(mode="json", include={*experiment.section_types()})
    settings = {
        f"`{section}.{name}`": value
        for section, values in sections.items()
        for name, value in values.items()
    }
    versions = {f"the version of {name}": version(name) for name in ("jax", "jaxlib")}
    versions["the version of jaxgen"] = import_module("jaxgen").__version__
    processes.check_same({**versions, "`task`": experiment.task, **flags, **settings})
    if seeds is not None:
        raise UserError(
            f"`seeds` trains several models in one process, got {seeds} with {processes.count} "
            "processes; train each seed by its own processes, with --training.seed"
        )


def request_devices_of_each(
    config: TrainingConfig, notes: Mapping[str, Any], processes: Processes
) -> None:
    """Let the CPU of each process appear as its share of the devices; one where none are named."""
    devices = notes.get("devices", config.devices)
    if processes.count == 1:  # a job of several that has shrunk to one
        request_host_devices(devices)
        return
    request_host_devices(1 if devices == "auto" else max(1, devices // processes.count))


def open_run_together(
    out: Path,
    experiment: Experiment,
    files: Mapping[str, str],
    trainable: Trainable,
    resume: bool,
    overwrite: bool,
    processes: Processes,
) -> Run:
    """The run directory, made or gone on with by process 0; see `open_run`."""
    run: Run | None = None

    def index() -> dict[str, Any]:
        nonlocal run
        run = open_run(out, experiment, files, trainable, resume, overwrite)
        return run.index

    shared = processes.from_first("the run directory", index)
    return run or FollowedRun(out, shared)
