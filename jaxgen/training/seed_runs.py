"""A directory of runs that differ only in their seed and train together.

    seed-0  seed-1  ...     ordinary run directories
    config.toml  tokenizer.json     those of the first seed
    seeds.json              format version, seeds, devices; and each run's index

The runs go on together, so they are saved together: `seeds.json` is replaced atomically before the
index of any run is, and `SeedRuns.open` ends what a kill cut short in between.
"""

import json
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxgen.errors import UserError
from jaxgen.training.run_progress import history
from jaxgen.training.runs import FORMAT, SEEDS_FILE, Run, read_index, write_text
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
        return (Path(directory) / SEEDS_FILE).is_file()

    @classmethod
    def create(
        cls,
        directory: Path | str,
        seeds: Sequence[int],
        devices: int,
        files: Callable[[int], Mapping[str, str]],
    ) -> "SeedRuns":
        """Start the run of each seed.

        Args:
            directory: Made if missing.
            seeds: The seeds.
            devices: Over which the seeds are divided; a resumed training must repeat it.
            files: Text of each file to keep in the run of a seed; those of the first seed are kept
                here too.

        Raises:
            UserError: There is a run already.
        """
        directory = Path(directory)
        for seed in seeds:  # what a start that was cut off left behind
            folder = run_directory(directory, seed)
            if Run.exists(folder) and Run.open(folder).checkpoint("last") is None:
                (folder / "run.json").unlink()
        notes = {"devices": 1}  # a copy of a run, resumed alone, goes on with these steps
        runs = [Run.create(run_directory(directory, seed), files(seed), notes) for seed in seeds]
        for name, text in files(seeds[0]).items():
            write_text(directory / name, text)
        index = {"format": FORMAT, "seeds": list(seeds), "devices": devices, "runs": None}
        made = cls(directory, index, runs)
        made.log([run.index for run in runs])
        return made

    @classmethod
    def open(cls, directory: Path | str) -> "SeedRuns":
        """Open the runs to go on training them; the caller holds the lock.

        Raises:
            UserError: They are damaged or of a newer format.
        """
        directory = Path(directory)
        index = read_index(directory / SEEDS_FILE)
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
            write_text(self.directory / SEEDS_FILE, json.dumps(self.index) + "\n")
        except OSError as error:
            raise UserError(
                f"could not write {self.directory / SEEDS_FILE}: {error.strerror}; the previous "
                "checkpoints still load; free some space and continue with --resume"
            ) from error


def run_directory(directory: Path, seed: int) -> Path:
    """Where the run of a seed lies."""
    return directory / f"seed-{seed}"


def together(directory: Path | str) -> Path | None:
    """The directory of the seeds that a run trains together with, if it does."""
    directory = Path(directory).resolve()
    index = directory.parent / SEEDS_FILE
    if not index.is_file():
        return None
    names = [f"seed-{seed}" for seed in read_index(index)["seeds"]]
    return directory.parent if directory.name in names else None


def clear(directory: Path | str) -> None:
    """Remove what training left in a directory, of one run or of several seeds."""
    directory = Path(directory)
    if SeedRuns.exists(directory):
        for seed in read_index(directory / SEEDS_FILE)["seeds"]:
            shutil.rmtree(run_directory(directory, seed), ignore_errors=True)
    for name in ("run.json", SEEDS_FILE):  # the indexes first: what they name goes after
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)
    for name in ("metrics.jsonl", "loss.png"):
        (directory / name).unlink(missing_ok=True)


def seeds_to_resume(directory: Path | str, wanted: int | None) -> int | None:
    """How many seeds train together there; None for a single run.

    Raises:
        UserError: That is not how many are wanted.
    """
    directory = Path(directory)
    there = None
    if SeedRuns.exists(directory):
        there = len(read_index(directory / SEEDS_FILE)["seeds"])
    if wanted not in (None, there):
        kind = f"{there} seeds" if there else "no seeds that train together"
        raise UserError(f"`seeds` is {wanted}, but {directory} has {kind}; leave it out to resume")
    return there


def seeds_history(directory: Path, objective: Objective) -> dict[str, Any]:
    """How far each run is, and how good; then mean, deviation and the best."""
    seeds = read_index(directory / SEEDS_FILE)["seeds"]
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
