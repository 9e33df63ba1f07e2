"""What the parser would take in silence: an option given twice, without a value, or cut by a dash.

A list option given twice would keep its last values only, and one without a value (`--data.files
$EMPTY`) would mean "none" where nobody wrote that. Both are refused for all commands, here.
"""

import dataclasses
import re
import typing
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxgen.errors import UserError

_NUMBER = re.compile(r"-\.?\d")
_HELP = ("-h", "--help")


class Option(NamedTuple):
    """What an option takes."""

    many: bool
    """A list of any number of values."""
    text: bool
    """Text or a path, which may begin with a dash."""


def check_arguments(args: Sequence[str], command: type) -> None:
    """UserError for a list option that is repeated or empty, and for a text taken for an option.

    Args:
        args: what follows the name of the command.
        command: its dataclass.
    """
    if any(name in args for name in _HELP):
        return
    options = dict(_options(command))
    places = [(place, *_split(arg)) for place, arg in enumerate(args)]
    given = [(place, name, equals) for place, name, equals in places if name in options]
    counts = Counter(name for _, name, _ in given)
    for place, name, equals in given:
        option = options[name]
        if option.many and counts[name] > 1:
            raise UserError(
                f"{name} is given {counts[name]} times, and each would replace the values of the "
                f"one before; give all values after one: {name} A B"
            )
        following = args[place + 1 :]
        values = [arg for arg in following[:1] if _split(arg)[0] not in options]
        if option.many and not equals and not values:
            raise UserError(f"{name} needs a value; leave it out, or give one or more after it")
        if option.text and not equals:
            _check_dashes(name, following, options, option.many)


def _check_dashes(
    name: str, following: Sequence[str], options: dict[str, Option], many: bool
) -> None:
    """UserError for a value that begins with a dash, which the parser takes for an option."""
    for value in following if many else following[:1]:
        if _split(value)[0] in options:
            return
        if value.startswith("-") and value != "-" and not _NUMBER.match(value):
            raise UserError(
                f"{value!r} looks like an option; as a value of {name} write {name}={value}"
            )


def _split(argument: str) -> tuple[str, str]:
    """The name of an option as the parser knows it, and its `=value` if it has one."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-") if name.startswith("--") else name, equals + value


def _options(command: type, prefix: str = "") -> Iterator[tuple[str, Option]]:
    """The options of a dataclass and of those within it."""
    hints = typing.get_type_hints(command, include_extras=True)
    for field in dataclasses.fields(command):
        hint, remarks = hints[field.name], list[Any]()
        if typing.get_origin(hint) is typing.Annotated:
            hint, *remarks = typing.get_args(hint)
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            bare = any(getattr(remark, "name", None) == "" for remark in remarks)
            yield from _options(hint, prefix if bare else f"{prefix}{field.name}.")
            continue
        kinds = list(_kinds(hint))
        name = f"--{prefix}{field.name}".replace("_", "-")
        yield name, Option(tuple in kinds, bool({str, Path} & set(kinds)))
        if bool in kinds:  # a switch, which a section's settings can also turn off
            yield f"--{prefix}no-{field.name}".replace("_", "-"), Option(False, False)


def _kinds(hint: Any) -> Iterator[Any]:
    """The types that a hint is made of; `tuple` where it is a list of any length."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and Ellipsis in arguments:
        yield tuple
    elif not arguments:
        yield hint
    for argument in arguments:
        yield from _kinds(argument)
