"""A directory of runs that differ only in their seed and train together.

    seed-0  seed-1  ...     ordinary run directories
    config.toml  tokenizer.json     those of the first seed
    seeds.json              format version, seeds, devices; and each run's index

The runs go on together, so they are saved together: `seeds.json` is replaced atomically before the
index of any run is, and `SeedRuns.open` ends what a kill cut short in between. It comes first, and
holds no indexes until the start is complete.
"""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgen.directories import RUN_INDEX, SEEDS_INDEX, WRITTEN
from jaxgen.errors import UserError
from jaxgen.files import reason, write_atomically
from jaxgen.training.indexes import FORMAT, read_index
from jaxgen.training.run_progress import history
from jaxgen.training.runs import Run, replace_file
from jaxgen.training.starts import (
    check_start,
    clear,
    make_directory,
    run_directory,
    written_beside,
)
from jaxgen.training.trainable import Objective


class SeedRuns:
    """The runs of one directory. Make it with `SeedRuns.create` or `SeedRuns.open`."""

    def __init__(self, directory: Path, index: dict[str, Any], runs: list[Run]) -> None:
        self.directory = directory
        self.index = index
        """What seeds.json holds."""
        self.runs = runs

    @classmethod
    def exists(cls, directory: Path | str) -> bool:
        """Whether seeds were ever trained there."""
        return (Path(directory) / SEEDS_INDEX).is_file()

    @classmethod
    def create(
        cls,
        directory: Path | str,
        seeds: Sequence[int],
        devices: int,
        files: Callable[[int], Mapping[str, str]],
        notes: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
    ) -> "SeedRuns":
        """Start the run of each seed; a kill at any moment lets this be done again.

        Args:
            directory: Made if missing.
            seeds: The seeds.
            devices: Over which the seeds are divided; a resumed training must repeat it.
            files: Text of each file to keep in the run of a seed; those of the first seed are kept
                here too.
            notes: Decisions to keep in the index of each run, see `Run.note`.
            overwrite: Whether to replace runs that are there.

        Raises:
            UserError: There is a run already, or other people's files, or it cannot be written.
        """
        directory = Path(directory)
        own = files(seeds[0])
        check_start(directory, files=own, seeds=seeds, overwrite=overwrite)
        make_directory(directory)
        index = {"format": FORMAT, "seeds": list(seeds), "devices": devices, "runs": None}
        # A copy of a run, resumed alone, goes on with the steps of one device.
        notes = {**(notes or {}), "devices": 1}
        try:
            clear(directory)
            made = cls(directory, index | {WRITTEN: written_beside(directory, own)}, [])
            made._write_index()
            (directory / RUN_INDEX).unlink(missing_ok=True)
            for seed in seeds:
                made.runs.append(Run.create(run_directory(directory, seed), files(seed), notes))
            for name, text in own.items():
                write_atomically(directory / name, text)
        except OSError as error:
            raise UserError(f"cannot write the directory {directory}: {reason(error)}") from error
        made.log([run.index for run in made.runs])
        return made

    @classmethod
    def open(cls, directory: Path | str) -> "SeedRuns":
        """Open the runs to go on training them; the caller holds the lock.

        Raises:
            UserError: They are damaged or of a newer format.
        """
        directory = Path(directory)
        index = read_index(directory / SEEDS_INDEX)
        if not index.get("runs"):
            raise UserError(
                f"the start of the seeds in {directory} was cut off; train into it again without "
                "--resume"
            )
        runs = [Run.open(run_directory(directory, seed)) for seed in index["seeds"]]
        for run, logged in zip(runs, index["runs"], strict=True):
            if run.index != logged:
                run.commit(logged)
        return cls(directory, index, runs)

    def log(self, indexes: Sequence[dict[str, Any]]) -> None:
        """Keep the indexes that the runs are about to have.

        Raises:
            UserError: The disk is full or failing. The previous checkpoints still load.
        """
        self.index["runs"] = list(indexes)
        try:
            self._write_index()
        except OSError as error:
            raise UserError(
                f"could not write {self.directory / SEEDS_INDEX}: {reason(error)}; the previous "
                "checkpoints still load; free some space and continue with --resume"
            ) from error

    def write_file(self, name: str, text: str) -> None:
        """Replace one of the files kept here; see `Run.write_file`."""
        replace_file(self.directory, self.index, self._write_index, name, text)

    def _write_index(self) -> None:
        write_atomically(self.directory / SEEDS_INDEX, json.dumps(self.index) + "\n")


def seed_group_of(directory: Path | str) -> Path | None:
    """The directory of the seeds that a run trains together with; None for a run alone."""
    directory = Path(directory).resolve()
    index = directory.parent / SEEDS_INDEX
    if not index.is_file():
        return None
    names = [f"seed-{seed}" for seed in read_index(index)["seeds"]]
    return directory.parent if directory.name in names else None


def seeds_to_resume(directory: Path | str, wanted: int | None) -> int | None:
    """How many seeds train together there; None for a single run.

    Raises:
        UserError: That is not how many are wanted.
    """
    directory = Path(directory)
    there = None
    if SeedRuns.exists(directory):
        there = len(read_index(directory / SEEDS_INDEX)["seeds"])
    if wanted not in (None, there):
        kind = f"{there} seeds" if there else "no seeds that train together"
        raise UserError(f"`seeds` is {wanted}, but {directory} has {kind}; leave it out to resume")
    return there


def seeds_history(directory: Path, objective: Objective) -> dict[str, Any]:
    """How far each run is, and how good; then mean, deviation and the best."""
    seeds = read_index(directory / SEEDS_INDEX)["seeds"]
    runs = {f"seed-{seed}": run_directory(directory, seed) for seed in seeds}
    facts: dict[str, Any] = {
        "runs": {run: history(Run.open(path), objective) for run, path in runs.items()}
    }
    shown = f"best_validation_{objective.shown_name}"
    reached = {run: own for run, own in facts["runs"].items() if shown in own}
    if reached:
        values = [own[shown] for own in reached.values()]
        facts[f"{shown}_mean"] = statistics.fmean(values)
        facts[f"{shown}_deviation"] = statistics.pstdev(values)
        decisive = [own[f"best_validation_{objective.name}"] for own in reached.values()]
        facts["best_run"] = str(runs[list(reached)[objective.best(decisive)]])
    return facts


def runs_of(directory: Path) -> list[Path]:
    """The run directories of several seeds; of a run alone, its own."""
    if not SeedRuns.exists(directory):
        return [directory]
    seeds = read_index(directory / SEEDS_INDEX)["seeds"]
    return [run_directory(directory, seed) for seed in seeds]


def first_run_of(directory: Path) -> Path:
    """The run directory of the first seed of several; of a run alone, its own."""
    return runs_of(directory)[0]
