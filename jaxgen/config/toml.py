"""Experiments as TOML: read with one clear error for each mistake, written with their help."""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from jaxgen.config import EXPERIMENTS, Experiment
from jaxgen.errors import UserError, closest

DEFAULT_TASK = "language_model"
"""The task of a file that names none: files had no task when there was only this one."""

_RULES = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "path_type": "a path",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
}


def read_toml(path: str | Path) -> Experiment:
    """Read an experiment from a TOML file; what it does not set keeps its default.

    Raises:
        UserError: The file is missing, is not TOML, or holds a setting that is unknown, of the
            wrong type or impossible.
    """
    return validate(read_values(path), str(path))


def parse_toml(text: str, source: str = "the configuration") -> Experiment:
    """Read an experiment from the text of a TOML file; `source` names it in errors."""
    return validate(_parse(text, source), source)


def read_values(path: str | Path, what: str = "configuration") -> dict[str, Any]:
    """The nested plain values of a TOML file; UserError where it is missing or is not TOML."""
    try:
        if Path(path).is_char_device():
            raise UserError(f"{path} is a device; give a {what} file")
        text = Path(path).read_text(encoding="utf-8-sig")  # Windows editors add a mark
    except FileNotFoundError:
        raise UserError(f"no {what} file at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the {what} {path}: {error}") from None
    return _parse(text, str(path))


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{source} is not TOML: {error}") from None


def validate(values: Mapping[str, Any], source: str = "the configuration") -> Experiment:
    """Turn nested plain values into the experiment of their `task`, changing no type silently.

    Raises:
        UserError: The task is unknown; or one line for each setting that is unknown, of the wrong
            type or impossible.
    """
    kind = EXPERIMENTS[check_task(values.get("task", DEFAULT_TASK), source)]
    try:
        # JSON is the strict mode in which lists become tuples and strings become paths.
        return kind.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        problems = dict.fromkeys(_explain(error.errors(), kind))
        raise UserError("\n".join(f"{source}: {line}" for line in problems)) from None


def check_setting(kind: type[Experiment], section: str, name: str, value: Any, source: str) -> None:
    """UserError where there is no such setting, or a value breaks its own rule.

    Rules between settings are left to `validate`.
    """
    try:
        values = {section: {name: value}}
        kind.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        own = [
            details
            for details in error.errors()
            if details["loc"][:2] == (section, name)
            or (details["loc"] == (section,) and details["type"] == "extra_forbidden")
        ]
        for line in _explain(own, kind):
            raise UserError(f"{source}: {line}") from None


def check_task(task: Any, source: str) -> str:
    """The name of a task; UserError where there is none of that name."""
    if not isinstance(task, str) or task not in EXPERIMENTS:
        raise UserError(
            f"{source}: `task` must be one of {', '.join(EXPERIMENTS)}, got {task!r}; choose one, "
            "or upgrade jaxgen if this was written by a newer one"
        )
    return task


def to_toml(experiment: Experiment) -> str:
    """Write every setting, with its help as a comment, so that `parse_toml` reads it back."""
    lines = [f"task = {_toml_value(experiment.task)}", ""]
    for section, config in experiment.sections().items():
        lines.append(f"[{section}]")
        for name, info in type(config).model_fields.items():
            value = getattr(config, name)
            if value is None and info.default is not None:
                value = "none"  # TOML has no null
            setting = f"# {name} =" if value is None else f"{name} = {_toml_value(value)}"
            lines += [f"# {' '.join((info.description or '').split())}", setting]
        lines.append("")
    return "\n".join(lines)


def _toml_value(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    if isinstance(value, Path):
        value = str(value)
    # TOML takes JSON's spelling of every other scalar, save that DEL must be escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _explain(errors: Sequence[ErrorDetails], kind: type[Experiment]) -> Iterator[str]:
    """Yield one sentence for each wrong setting."""
    by_field: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for details in errors:
        by_field.setdefault(tuple(str(part) for part in details["loc"][:2]), []).append(details)
    for path, problems in by_field.items():
        key, first = ".".join(path), problems[0]
        if first["type"] == "extra_forbidden":
            yield _unknown(path, kind)
        elif first["type"] == "value_error":
            yield str(first["ctx"]["error"])
        elif len(path) == 1:
            yield f"`{key}` must be a table of settings, [{key}], got {first['input']!r}"
        else:
            rules = " or ".join(dict.fromkeys(_rule(problem) for problem in problems))
            info = kind.section_types()[path[0]].model_fields[path[1]]
            hint = " ".join((info.description or "").split()).rstrip(".")
            yield f"`{key}` must be {rules}, got {first['input']!r} ({hint})"


def _rule(problem: ErrorDetails) -> str:
    rule = _RULES.get(problem["type"])
    return rule.format(**problem.get("ctx", {})) if rule else f"valid: {problem['msg']}"


def _unknown(path: tuple[str, ...], kind: type[Experiment]) -> str:
    """What is wrong with a key that the task does not have."""
    key, known = ".".join(path), _known(path, kind)
    if close := closest(path[-1], known):
        return f"unknown key `{key}`; did you mean `{'.'.join((*path[:-1], close))}`?"
    others = [name for name, other in EXPERIMENTS.items() if path[-1] in _known(path, other)]
    if others:
        own = kind.model_fields["task"].default
        return f"`{key}` is a setting of task {' and '.join(others)}, and this task is {own}"
    where = f"[{path[0]}] has" if len(path) > 1 else "there are"
    return f"unknown key `{key}`; {where} {', '.join(known)}"


def _known(path: tuple[str, ...], kind: type[Experiment]) -> list[str]:
    """The names that could stand where the last part of a key does."""
    sections = kind.section_types()
    if len(path) == 1:
        return list(sections)
    return list(sections[path[0]].model_fields) if path[0] in sections else []
