"""`jaxgen tune`: try settings within a time or a number of trials, and keep the best model."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import DisallowNone, arg

from jaxgen.cli.options import Flag, print_facts, said
from jaxgen.cli.train import Configured, parse
from jaxgen.config import Experiment, changes
from jaxgen.errors import UserError

if TYPE_CHECKING:
    from jaxgen.tuning.tune import Tuning


@dataclass(frozen=True)
class Tune(Configured):
    """Train with one choice of settings after the other, and make the best model a run.

    Settings come from the TOML file, then from the options below; those in the space come from
    Optuna. Ends with the best so far after --minutes, --trials or Ctrl-C; the same command goes on.
    """

    space: Annotated[Path | None, arg(metavar="SPACE.toml", help_behavior_hint="")] = None
    """What to try: in each section `name = [choices]` or `name = {low = 1e-4, high = 1e-1, log =
    true}`."""
    minutes: Annotated[float | None, DisallowNone, said] = None
    """End after so many minutes; the trial that is cut off counts with what it reached."""
    trials: Annotated[int | None, DisallowNone, said] = None
    """End when the study has so many trials, of all workers together."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Run directory of the best model (default: runs/ and the name of the configuration, with
    -tuned); DIR.study beside it holds the study."""
    seeds: Annotated[int | None, DisallowNone, arg(metavar="N", help_behavior_hint="")] = None
    """Train N seeds of each trial as one program; their mean decides, and the best seed is kept."""
    study: Annotated[str | None, DisallowNone, arg(metavar="DB", help_behavior_hint="")] = None
    """Database of the study, which many workers may share: an SQLite file, or a URL such as
    postgresql+psycopg://user@host/database (default: DIR.study/study.db)."""
    name: Annotated[str | None, DisallowNone, arg(metavar="NAME", help_behavior_hint="")] = None
    """Name of the study in the database (default: that of DIR)."""
    force: Flag = False
    """Start the study anew, and replace a run that is there."""
    json: Flag = False
    """Print one JSON object: trials, best, settings."""

    @property
    def directory(self) -> Path:
        """Where the best run is put."""
        name = f"{self.config.stem if self.config else 'default'}-tuned"
        return self.out or Path("runs") / name

    def __call__(self) -> None:
        """Tune."""
        if self.space is None:
            raise UserError("`tune` needs a space of settings to try; name its file with --space")
        experiment = self.experiment

        from jaxgen.training.parallel import request_host_devices
        from jaxgen.tuning.space import read_space
        from jaxgen.tuning.tune import tune

        _check_options(self.base, experiment, read_space(self.space, experiment), self.space)
        request_host_devices(experiment.training.devices)
        tuning = tune(
            experiment,
            self.space,
            out=self.directory,
            minutes=self.minutes,
            trials=self.trials,
            seeds=self.seeds,
            study=self.study,
            name=self.name,
            overwrite=self.force,
        )
        if tuning.trials:
            self._print(tuning)
        if tuning.reason == "interrupted":
            raise KeyboardInterrupt

    def _print(self, tuning: "Tuning") -> None:
        from jaxgen.tuning.records import table

        if self.json:
            print_facts(_facts(tuning), as_json=True)
        else:
            print(table(tuning.trials, tuning.objective))
        if tuning.out is not None and tuning.best is not None:
            best = f"the best run, of trial {tuning.best.number}, is in {tuning.out}"
            print(f"{tuning.reason}; {best}", file=sys.stderr)


def parse_tune(args: Sequence[str]) -> Tune:
    """The options of `jaxgen tune`."""
    return parse(Tune, "tune", args)


def _check_options(base: Experiment, experiment: Experiment, space: Any, path: Path) -> None:
    """UserError where a setting is given both as an option and in the space."""
    for name, _, value in changes(base, experiment):
        if name in space:
            option = f"--{name.replace('_', '-')}"
            raise UserError(
                f"{path} tries values of `{name}`, so {option} {value} would have no effect; leave "
                "it out, or take the setting out of the space"
            )


def _facts(tuning: "Tuning") -> dict[str, Any]:
    """What --json prints."""
    objective, best = tuning.objective, tuning.best
    trials = [asdict(trial) for trial in tuning.trials]
    return {
        "reason": tuning.reason,
        "objective": objective.name,
        "trials": trials,
        "best": next((t for t in trials if best is not None and t["number"] == best.number), None),
        "settings": {} if best is None else best.settings,
        "out": None if tuning.out is None else str(tuning.out),
    }
