"""The space of a study: which settings are tried, and which values each may take."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from jaxgen.config import Experiment
from jaxgen.config.toml import check_setting, read_values, validate
from jaxgen.errors import UserError, nearest

_KEYS = ("low", "high", "step", "log")


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    step: float | None = None
    """Between two values; None: any number, or every integer."""
    log: bool = False
    """Equal factors are equally likely, rather than equal differences."""
    integer: bool = False

    def covers(self, value: Any) -> bool:
        """Whether it holds a value."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return math.isclose(steps, round(steps), abs_tol=1e-9)


@dataclass(frozen=True)
class Choices:
    """Some values, none nearer to another than the rest."""

    values: tuple[Any, ...]

    def covers(self, value: Any) -> bool:
        """Whether it holds a value."""
        return _text(value) in map(_text, self.values)


Space = dict[str, Range | Choices]
"""By the full name of the setting, such as `optimizer.learning_rate`."""


def read_space(space: str | Path | Mapping[str, Any], experiment: Experiment) -> Space:
    """The space that a TOML file, or nested values as such a file has them, describes.

    Args:
        space: In the section of each setting a list of choices, or a table with `low` and `high`,
            and where wanted `log = true` or a `step`.
        experiment: The settings that the others keep.

    Raises:
        UserError: The file cannot be read; it names a setting that the task does not have; a range
            or a choice is empty, or holds a value that the setting does not take.
    """
    if isinstance(space, str | Path):
        source, values = str(space), read_values(space, "space")
    else:
        source, values = "the space", dict(space)
    kind = type(experiment)
    found: Space = {}
    for section, settings in values.items():
        if not isinstance(settings, Mapping) or section == "task":
            raise UserError(
                f"{source}: `{section}` must be a table of settings, such as [optimizer], got "
                f"{settings!r}"
            )
        for name, described in settings.items():
            check_setting(kind, section, name, getattr(_section(kind, section), name, None), source)
            found[f"{section}.{name}"] = _read(kind, section, name, described, source)
    if not found:
        raise UserError(
            f"{source} names no setting; give at least one, such as "
            "optimizer.learning_rate = {low = 1e-4, high = 1e-1, log = true}"
        )
    return found


def base_values(space: Space, experiment: Experiment) -> dict[str, Any]:
    """What the experiment has of the settings in the space, where the space holds that."""
    own = experiment.model_dump(mode="json")
    values = {name: own[section][key] for name, section, key in _parts(space)}
    return {name: value for name, value in values.items() if space[name].covers(value)}


def with_settings(experiment: Experiment, settings: Mapping[str, Any]) -> Experiment:
    """The experiment with some settings by their full names.

    Raises:
        UserError: The values do not fit each other.
    """
    values = experiment.model_dump(mode="json")
    for name, section, key in _parts(settings):
        values[section][key] = settings[name]
    shown = ", ".join(f"{name} = {value}" for name, value in settings.items())
    return validate(values, f"with {shown}")


def _parts(names: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name in names:
        section, _, key = name.partition(".")
        yield name, section, key


def _section(kind: type[Experiment], section: str) -> Any:
    """The defaults of a section; None where the task has none of that name."""
    info = kind.model_fields.get(section)
    return None if info is None else info.default


def _read(
    kind: type[Experiment], section: str, name: str, described: Any, source: str
) -> Range | Choices:
    """One entry of the space."""
    where = f"{source}: `{section}.{name}`"
    if isinstance(described, Mapping):
        found = _range(kind, section, name, described, where)
        for value in (found.low, found.high):
            check_setting(kind, section, name, value, source)
        return found
    if not isinstance(described, list | tuple):
        raise UserError(
            f"{where} must be a list of choices or a table {{low = ..., high = ...}}, got "
            f"{described!r}; a value that all trials share belongs into the configuration"
        )
    if not described:
        raise UserError(f"{where} has no choices; give some, or leave it out")
    texts = [_text(value) for value in described]
    if twice := next((text for text in texts if texts.count(text) > 1), None):
        raise UserError(f"{where} has the choice {twice} twice; leave one out")
    for value in described:
        check_setting(kind, section, name, value, source)
    return Choices(tuple(described))


def _range(
    kind: type[Experiment], section: str, name: str, described: Mapping[str, Any], where: str
) -> Range:
    """A range of numbers, whose ends may not suit the setting yet."""
    for key in described:
        if key not in _KEYS:
            raise UserError(
                f"{where} has low, high, step and log, got `{key}`{nearest(key, _KEYS)}"
            )
    low: Any = described.get("low")
    high: Any = described.get("high")
    step: Any = described.get("step")
    log: Any = described.get("log", False)
    types = set(_types(kind.section_types()[section].model_fields[name].annotation))
    if not types & {int, float}:
        raise UserError(f"{where} is no number, so it has no range; give a list of choices")
    for key, value in (("low", low), ("high", high), ("step", step)):
        if (value is not None or key != "step") and not _is_finite(value):
            raise UserError(f"{where} needs a finite number as `{key}`, got {value!r}")
    if not isinstance(log, bool):
        raise UserError(f"{where} needs true or false as `log`, got {log!r}")
    if low >= high:
        raise UserError(f"{where} needs `low` below `high`, got {low} and {high}")
    if log and low <= 0:
        raise UserError(
            f"{where} needs a `low` above 0 with `log = true`, got {low}; raise it, or leave out "
            "`log`"
        )
    if step is not None and log:
        raise UserError(f"{where} takes `step` or `log = true`, not both; leave one out")
    if step is not None and not 0 < step <= high - low:
        raise UserError(
            f"{where} needs a `step` above 0 and at most the {high - low:g} from low to high, got "
            f"{step}"
        )
    integer = float not in types
    if step is not None and integer and not isinstance(step, int):
        raise UserError(f"{where} needs an integer as `step`, got {step}")
    if step is not None:  # the last value that the steps reach
        high = low + math.floor((high - low) / step + 1e-9) * step
    return Range(low, high, step, log, integer)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _types(annotation: Any) -> Iterator[Any]:
    """The plain types that an annotation allows."""
    arguments = get_args(annotation)
    if not arguments:
        yield annotation
    for argument in arguments:
        yield from _types(argument)


def _text(value: Any) -> str:
    """A value as one text, in which true is not 1."""
    return json.dumps(value, default=str)
