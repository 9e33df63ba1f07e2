"""The command line: `jaxgen train`, `generate`, `evaluate`, `info` and `export`.

Each command is a dataclass whose fields are its options. JAX and what needs it are imported inside
the commands, so that help and errors in the options come at once.
"""

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, Positional, arg, subcommand

from jaxgen.config import Config, Experiment
from jaxgen.config_files import read_toml, validate
from jaxgen.errors import UserError

ERROR, INTERRUPTED = 2, 130


def _default(shown: str) -> str:
    """The remark after an option's help; what is off or not set needs none."""
    return "" if shown in ("None", "False", "") else f"(default: {shown})"


_said = arg(help_behavior_hint=_default)
Flag = Annotated[bool, FlagCreatePairsOff, _said]
RunArgument = Positional[Annotated[Path, arg(metavar="RUN", help_behavior_hint="")]]
Checkpoint = Annotated[Literal["best", "last"] | None, DisallowNone, _said]


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
            described = arg(help=info.description, help_behavior_hint=_default)
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
        result = train(experiment, out=out, resume=self.resume, overwrite=self.force)
        print(f"{result.reason} after {result.steps} steps; the run is in {out}", file=sys.stderr)
        if result.reason == "interrupted":
            print(f"continue with: jaxgen train --resume --out {out}", file=sys.stderr)
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Evaluate:
    """Measure a trained model on held-out text."""

    run: RunArgument
    """Run directory or export."""
    split: Annotated[Literal["test", "validation", "train"] | None, DisallowNone, _said] = None
    """Part of its corpus (default: test, or validation where there is no test part)."""
    protocol: Literal["exact", "windows"] = "exact"
    """exact: every token, the carry flowing on; windows: the Keras recipe's, windows of 60 from a
    zero carry, every third, and only the token after each counts."""
    files: Annotated[tuple[Path, ...], _said] = ()
    """Measure on these files instead."""
    checkpoint: Checkpoint = None
    """Which parameters of a run (default: the best, or the last where none was evaluated)."""
    json: Flag = False
    """Print one JSON object."""

    def __call__(self) -> None:
        """Measure and print."""
        from jaxgen.experiment import evaluate

        figures = evaluate(
            self.run,
            split=self.split,
            protocol=self.protocol,
            files=self.files,
            which=self.checkpoint,
        )
        _print_facts(figures, as_json=self.json)


@dataclass(frozen=True)
class Info:
    """Say what a run or an export is, and how far and how good it got."""

    run: RunArgument
    """Run directory or export."""
    json: Flag = False
    """Print one JSON object."""

    def __call__(self) -> None:
        """Describe and print."""
        from jaxgen.experiment import describe

        _print_facts(describe(self.run), as_json=self.json)


@dataclass(frozen=True)
class Export:
    """Write a model as model.safetensors, config.json and tokenizer.json."""

    run: RunArgument
    """Run directory."""
    directory: Positional[Annotated[Path, arg(metavar="DIR", help_behavior_hint="")]]
    """Where to; made if missing."""
    checkpoint: Checkpoint = None
    """Which parameters (default: the best, or the last where none was evaluated)."""
    push_to_hub: Annotated[str | None, arg(metavar="USER/NAME", help_behavior_hint="")] = None
    """Also upload to this repository of the Hugging Face hub (a new one is private)."""

    def __call__(self) -> None:
        """Export."""
        from jaxgen.experiment import export

        export(self.run, self.directory, which=self.checkpoint)
        print(f"exported to {self.directory}", file=sys.stderr)
        if self.push_to_hub:
            from jaxgen.exports import push_to_hub

            print(push_to_hub(self.directory, self.push_to_hub))


Command = (
    Annotated[Train, subcommand("train")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Info, subcommand("info")]
    | Annotated[Export, subcommand("export")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What follows `jaxgen`; None takes the process's own.

    Returns:
        Exit code: 0, 2 for bad input, 130 after Ctrl-C.
    """
    args = list(sys.argv[1:] if arguments is None else arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            command: Any = (
                Train.parse(args[1:])
                if args[:1] == ["train"]
                else tyro.cli(
                    Command,
                    prog="jaxgen",
                    description="LSTM language models: from a corpus to text.",
                    args=args,
                )
            )
            command()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return ERROR
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:  # the reader of our output has left
            sys.stdout = None
            return 0
    return 0


def _show_warning(message: Warning | str, *rest: Any, **more: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _print_facts(facts: dict[str, Any], *, as_json: bool) -> None:
    """Print names and values, one a line; or one JSON object."""
    if as_json:
        print(json.dumps(facts, default=str))
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{name}:")
            _print_facts({f"  {key}": item for key, item in value.items()}, as_json=False)
        elif value is not None:
            if isinstance(value, float):
                value = f"{value:.6g}"
            elif type(value) is int:
                value = f"{value:,}"
            print(f"{name:{width}}  {value}")


if __name__ == "__main__":
    sys.exit(main())
