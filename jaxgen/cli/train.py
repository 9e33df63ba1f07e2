"""`jaxgen train`: every setting of a configuration is an option."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, make_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_args

import tyro
from pydantic.fields import FieldInfo
from tyro.conf import DisallowNone, Positional, arg

from jaxgen.cli.arguments import check_arguments
from jaxgen.cli.options import Flag, default
from jaxgen.config import EXPERIMENTS, Config, Experiment
from jaxgen.config.distributed import Distributed
from jaxgen.config.toml import DEFAULT_TASK, check_task, read_toml, validate
from jaxgen.errors import UserError

if TYPE_CHECKING:
    from jaxgen.training.loop import Result


_CORPORA = {
    "dataset": ("subset",),
    "files": ("validation_files", "test_files"),
    "source_files": (
        *("validation_source_files", "test_source_files"),
        *("target_files", "validation_target_files", "test_target_files"),
    ),
}
"""Settings that name a corpus, and those that go with them."""


_Place: Any = make_dataclass(
    "Distributed",
    [
        (member.name, Annotated[member.type, arg(help_behavior_hint=default)], member)
        for member in fields(Distributed)
    ],
    bases=(Distributed,),
    namespace={"__doc__": Distributed.__doc__},
    frozen=True,
)
"""Its options, shown as those of the settings are."""


@dataclass(frozen=True)
class Configured:
    """A command whose options are every setting of a task."""

    kind: ClassVar[type[Experiment]]
    """The settings of the task."""
    config: Positional[
        Annotated[Path | None, arg(metavar="[CONFIG.toml]", help_behavior_hint="")]
    ] = None
    """Settings; what it leaves out, or all without a file, has the default shown below."""
    task: Annotated[str | None, DisallowNone, arg(metavar="NAME", help_behavior_hint="")] = None
    """What to train (default: what CONFIG.toml says, else language_model)."""

    @property
    def base(self) -> Experiment:
        """The settings before the options."""
        base = read_toml(self.config) if self.config else self.kind()
        self.check_task(base, self.config)
        return base

    @property
    def experiment(self) -> Experiment:
        """The settings with the options."""
        settings: Any = getattr(self, "settings")  # noqa: B009 - the subclass of a task has it
        values, base = asdict(settings), self.base
        values["data"] = _in_place(values["data"], base.data.model_dump(), type(base)().data)
        return validate({"task": base.task, **values}, "command line")

    def check_task(self, base: Experiment, source: Path | None) -> None:
        """UserError where the settings of a file are of another task than is asked for."""
        if type(base) is not self.kind:
            wanted = self.kind.model_fields["task"].default
            raise UserError(
                f"{source} is of task {base.task}, got --task {wanted}; leave --task out"
            )


@dataclass(frozen=True)
class Train(Configured):
    """Train a model into a run directory, or go on training one.

    Settings come from the TOML file (with --resume from the run), then from the options below.
    """

    out: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Run directory (default: runs/ and the name of the configuration)."""
    seeds: Annotated[int | None, DisallowNone, arg(metavar="N", help_behavior_hint="")] = None
    """Train N runs together as one program, in DIR/seed-0 and so on, each with the next seed."""
    resume: Flag = False
    """Continue the run there, bit for bit; lengths, limits, samples and files may change."""
    force: Flag = False
    """Start anew where a run is there already; other people's files stay."""
    distributed: _Place = field(default_factory=_Place)

    @property
    def directory(self) -> Path:
        """Where the run lies."""
        return self.out or Path("runs") / (self.config.stem if self.config else "default")

    @property
    def base(self) -> Experiment:
        """The settings before the options."""
        if not self.resume:
            return super().base
        if self.config is not None and self.out is not None:
            raise UserError(
                f"with --resume the settings are those of {self.out}, so {self.config} would have "
                "no effect; leave it out, and give what may change as options"
            )
        path = self.directory / "config.toml"
        if not path.exists():
            raise UserError(
                f"{self.directory} is not a run directory: it has no config.toml; name the run "
                "to resume with --out"
            )
        base = read_toml(path)
        self.check_task(base, path)
        return base

    def __call__(self) -> None:
        """Train."""
        self.distributed.check()
        experiment = self.experiment

        from jaxgen.training.parallel import request_host_devices

        if self.distributed.coordinator is None:
            request_host_devices(experiment.training.devices)

        from jaxgen.experiment import train
        from jaxgen.training.processes import ending_at_once

        out = self.directory
        with ending_at_once() as leads:
            ends = train(
                experiment,
                out=out,
                seeds=self.seeds,
                resume=self.resume,
                overwrite=self.force,
                distributed=self.distributed,
            )
        if not leads():
            return
        results = ends if isinstance(ends, list) else [ends]
        if isinstance(ends, list):
            _print_table(ends)
        else:
            where = f"the run is in {out}"
            print(f"{ends.reason} after {ends.steps} steps; {where}", file=sys.stderr)
        if any(result.reason == "interrupted" for result in results):
            print(f"continue with: jaxgen train --resume --out {out}", file=sys.stderr)
            raise KeyboardInterrupt


def parse_train(args: Sequence[str]) -> Train:
    """The options of `jaxgen train`."""
    return parse(Train, "train", args)


C = TypeVar("C", bound=Configured)


def parse(configured: type[C], name: str, args: Sequence[str]) -> C:
    """Read the options twice: first for the file, then with its settings as defaults.

    Args:
        configured: The command.
        name: That it is called by.
        args: What follows the name.
    """
    kind = EXPERIMENTS[check_task(_task_of(args), "command line")]
    wanted: Any = configured
    command = _command(wanted, kind)
    check_arguments(args, command)
    prog = f"jaxgen {name}"
    first = tyro.cli(command, prog=prog, args=[a for a in args if a not in ("-h", "--help")])
    settings = _filled(_options(kind), first.base)
    return tyro.cli(command, prog=prog, args=args, default=command(settings=settings))


def _task_of(args: Sequence[str]) -> str:
    """The task that the arguments ask for, before it is known which options there are."""
    given: dict[str, str | None] = {"--task": None, "--out": None}
    for word, following in zip(args, [*args[1:], None], strict=True):
        name, equals, value = word.partition("=")
        if name in given:
            given[name] = value if equals else following
    task, out = given.values()
    if task is not None:
        return task
    pairs = zip(["", *args], args, strict=False)
    files = [Path(word) for before, word in pairs if word.endswith(".toml") and before != "--space"]
    if "--resume" in args and out is not None:
        files = [Path(out, "config.toml")]
    return next((read_toml(path).task for path in files if path.is_file()), DEFAULT_TASK)


@cache
def _command(configured: Any, kind: type[Experiment]) -> Any:
    """A command with the options of a task."""
    options = _options(kind)
    settings = ("settings", Annotated[options, arg(name="")], field(default_factory=options))
    namespace = {"kind": kind, "__doc__": configured.__doc__}
    command = make_dataclass(
        configured.__name__, [settings], bases=(configured,), namespace=namespace, frozen=True
    )
    return _in_a_short_file(command)


def _in_a_short_file(made: type) -> Any:
    """The class, as one of `jaxgen/errors.py`: tyro parses the file it is said to be in, often."""
    made.__module__ = UserError.__module__
    return made


@cache
def _options(section: type[Config]) -> Any:
    """A dataclass with a section's fields that takes any value.

    Checking is left to `validate`, so that options and files obey the same rules and break them
    with the same words.
    """
    members: list[tuple[str, Any, Any]] = []
    for name, info in section.model_fields.items():
        if isinstance(info.default, Config):
            nested = _options(type(info.default))
            members.append((name, nested, field(default_factory=nested)))
        elif not issubclass(section, Experiment):  # its `task` is no setting of a section
            described = arg(help=info.description, help_behavior_hint=default)
            kind = Annotated[_type_of(info), described]  # type: ignore[valid-type]
            members.append((name, kind, field(default=info.default)))
    namespace = {"__doc__": section.__doc__}
    return _in_a_short_file(make_dataclass(section.__name__, members, namespace=namespace))


def _type_of(info: FieldInfo) -> Any:
    """The type of a setting; "none" is how a file, and so an option, takes a default away."""
    takes_none = type(None) in get_args(info.annotation)
    if takes_none and info.default is not None:
        return info.annotation | Literal["none"]
    return info.annotation


def _in_place(data: dict[str, Any], base: dict[str, Any], plain: Config) -> dict[str, Any]:
    """Settings of data, where a corpus that an option names takes the place of the file's."""
    named = [name for name in _CORPORA if data.get(name) and data[name] != base[name]]
    if len(named) != 1:
        return data
    replaced = {
        name
        for corpus, names in _CORPORA.items()
        if corpus in data and corpus != named[0]
        for name in (corpus, *names)
    }
    if named == ["source_files"]:
        replaced |= {"source_column", "target_column"}
    return data | {
        name: getattr(plain, name)
        for name in replaced
        if data[name] == base[name]  # an option that has no effect now is told of
    }


def _filled(options: Any, config: Config) -> Any:
    """The options that a configuration gives."""
    values = {}
    for member in fields(options):
        value = getattr(config, member.name)
        nested = isinstance(member.type, type) and is_dataclass(member.type)
        values[member.name] = _filled(member.type, value) if nested else value
    return options(**values)


def _print_table(results: "Sequence[Result]") -> None:
    """One line a seed, the best marked."""
    objective = results[0].objective
    values = [result.best for result in results if result.best is not None]
    best = values[objective.best(values)] if values else None
    for result in results:
        shown = (
            f"  best validation {objective.name} {result.best:.4f}"
            if result.best is not None
            else ""
        )
        mark = "  <- best" if best is not None and result.best == best else ""
        end = f"{result.reason} after {result.steps} steps"
        print(f"{result.run.directory}: {end}{shown}{mark}", file=sys.stderr)
