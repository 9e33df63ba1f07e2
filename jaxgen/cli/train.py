"""`jaxgen train`: every setting of a configuration is an option."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import DisallowNone, Positional, arg

from jaxgen.cli.options import Flag, default
from jaxgen.config import Config, Experiment
from jaxgen.config_files import read_toml, validate

if TYPE_CHECKING:
    from jaxgen.training.loop import Result


def _options(section: type[Config]) -> type:
    """A dataclass with a section's fields that takes any value.

    Checking is left to `validate`, so that options and files obey the same rules and break them
    with the same words.
    """
    members: list[tuple[str, Any, Any]] = []
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Config):
            nested = _options(kind)
            members.append((name, nested, field(default_factory=nested)))
        else:
            described = arg(help=info.description, help_behavior_hint=default)
            members.append((name, Annotated[kind, described], field(default=info.default)))
    return make_dataclass(section.__name__, members, namespace={"__doc__": section.__doc__})


def _filled(options: type, config: Config) -> Any:
    """The options that a configuration gives."""
    values = {}
    for member in fields(options):
        value = getattr(config, member.name)
        values[member.name] = (
            _filled(member.type, value)
            if isinstance(member.type, type) and is_dataclass(member.type)
            else value
        )
    return options(**values)


_ExperimentOptions = _options(Experiment)


@dataclass(frozen=True)
class Train:
    """Train a language model into a run directory, or go on training one.

    Settings come from the TOML file (with --resume from the run), then from the options below.
    """

    config: Positional[
        Annotated[Path | None, arg(metavar="[CONFIG.toml]", help_behavior_hint="")]
    ] = None
    """Settings; what it leaves out, or all without a file, has the default shown below."""
    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Run directory (default: runs/ and the name of the configuration)."""
    seeds: Annotated[int | None, DisallowNone, arg(metavar="N", help_behavior_hint="")] = None
    """Train N runs together as one program, in DIR/seed-0 and so on, each with the next seed."""
    resume: Flag = False
    """Continue the run there, bit for bit; lengths, limits, samples and files may change."""
    force: Flag = False
    """Start anew where a run is there already."""
    settings: Annotated[_ExperimentOptions, arg(name="")] = field(  # type: ignore[valid-type]
        default_factory=_ExperimentOptions
    )

    @classmethod
    def parse(cls, args: Sequence[str]) -> "Train":
        """Read the options twice: first for the file, then with its settings as defaults."""
        first = tyro.cli(
            cls, prog="jaxgen train", args=[a for a in args if a not in ("-h", "--help")]
        )
        base = cls(settings=_filled(_ExperimentOptions, first.base))
        return tyro.cli(cls, prog="jaxgen train", args=args, default=base)

    @property
    def directory(self) -> Path:
        """Where the run lies."""
        return self.out or Path("runs") / (self.config.stem if self.config else "default")

    @property
    def base(self) -> Experiment:
        """The settings before the options."""
        if self.resume:
            return read_toml(self.directory / "config.toml")
        return read_toml(self.config) if self.config else Experiment()

    @property
    def experiment(self) -> Experiment:
        """The settings with the options."""
        values, base = asdict(self.settings), self.base.data
        data = values["data"]
        # A corpus named by an option takes the place of the file's.
        if data["files"] and tuple(data["files"]) != base.files and data["dataset"] == base.dataset:
            data |= {"dataset": None, "subset": None}
        elif data["dataset"] and data["dataset"] != base.dataset and data["files"] == base.files:
            data |= {"files": (), "validation_files": (), "test_files": ()}
        return validate(values, "command line")

    def __call__(self) -> None:
        """Train."""
        experiment = self.experiment

        from jaxgen.training.parallel import request_host_devices

        request_host_devices(experiment.training.devices)

        from jaxgen.experiment import train

        out = self.directory
        ends = train(
            experiment, out=out, seeds=self.seeds, resume=self.resume, overwrite=self.force
        )
        results = ends if isinstance(ends, list) else [ends]
        if isinstance(ends, list):
            _print_table(ends)
        else:
            where = f"the run is in {out}"
            print(f"{ends.reason} after {ends.steps} steps; {where}", file=sys.stderr)
        if any(result.reason == "interrupted" for result in results):
            print(f"continue with: jaxgen train --resume --out {out}", file=sys.stderr)
            raise KeyboardInterrupt


def _print_table(results: "Sequence[Result]") -> None:
    """One line a seed, the best marked."""
    best = min((r.best_nll for r in results if r.best_nll is not None), default=None)
    for result in results:
        nll = "" if result.best_nll is None else f"  best validation nll {result.best_nll:.4f}"
        mark = "  <- best" if best is not None and result.best_nll == best else ""
        end = f"{result.reason} after {result.steps} steps"
        print(f"{result.run.directory}: {end}{nll}{mark}", file=sys.stderr)
