"""Rows of JSON files, one object after another in any layout, in bounded memory."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from jaxgen.data.rows import Row
from jaxgen.data.text_files import open_text
from jaxgen.errors import UserError

_READ_CHARACTERS = 1 << 18
# Bounds the memory that a string or an object which is never closed costs; no row is so long.
_LONGEST_ROW = 1 << 26
# A literal, number or escape that is cut off where the reading stopped fails so near the end.
_LONGEST_LITERAL = 16
_STRINGS = "text"


class _Doubled(dict[str, Any]):
    """An object that gives several values to one key."""

    doubled: frozenset[str]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) == len(pairs):
        return keys
    doubled = _Doubled(keys)
    counts = Counter(name for name, _ in pairs)
    doubled.doubled = frozenset(name for name, count in counts.items() if count > 1)
    return doubled


_decode = json.JSONDecoder(object_pairs_hook=_object).raw_decode
_blanks = re.compile(r"[ \t\n\r]*").match


def json_rows(path: Path, columns: Sequence[str], errors: str) -> Iterator[Row]:
    """Yield the columns' values of each object; None for a key that one does not have.

    The file holds JSON lines, objects in any other layout, or lists of them. A string in the place
    of an object is a row whose only column is `text`.

    Raises:
        UserError: the file cannot be read, is not JSON, or holds something other than objects.
    """
    where = f"{path} line"
    for line, keys in json_objects(path, errors):
        if isinstance(keys, _Doubled) and not keys.doubled.isdisjoint(columns):
            name = min(keys.doubled.intersection(columns))
            raise UserError(
                f"the object in {where} {line} has the key `{name}` twice; keep one of its values"
            )
        yield Row(tuple([keys.get(column) for column in columns]), where, line)


def json_objects(path: Path, errors: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each object with the line, from 1, that it starts in; see `json_rows`."""
    with open_text(path, errors) as text:
        for line, value in _Values(path, text):
            if isinstance(value, str):
                value = {_STRINGS: value}
            if value is None:
                value = {}
            if not isinstance(value, dict):
                raise UserError(
                    f"{path} line {line} has {value!r:.60} where a row must be an object such as "
                    '{"text": "..."}; write one object a line'
                )
            yield line, value


class _Values:
    """The JSON values of a text, one after another; those of lists one by one."""

    def __init__(self, path: Path, text: TextIOWrapper):
        self._path = path
        self._text = text
        self._buffer = ""
        self._position = 0
        self._line = 1

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        in_list = False
        while character := self._peek():
            if character == "[" and not in_list:
                in_list = True
                self._pass()
                if self._peek() != "]":
                    yield self._value()
            elif in_list and character == "]":
                in_list = False
                self._pass()
            elif in_list and character == ",":
                self._pass()
                yield self._value()
            elif in_list:
                raise self._broken(f"expected , or ] after a value, got {character!r}")
            else:
                yield self._value()
        if in_list:
            raise self._broken("the list is not closed")

    def _value(self) -> tuple[int, Any]:
        """The value that starts next, and its line."""
        self._peek()
        while True:
            try:
                value, end = _decode(self._buffer, self._position)
            except json.JSONDecodeError as error:
                self._read_on(error)
            except RecursionError:
                raise self._broken("too many lists or objects inside one another") from None
            else:
                break
        line = self._line
        self._pass(end - self._position)
        return line, value

    def _read_on(self, error: json.JSONDecodeError) -> None:
        """Read more where a value may only be cut off; UserError where it is wrong or ends."""
        left = len(self._buffer) - error.pos
        cut_off = error.msg.startswith("Unterminated string") or left < _LONGEST_LITERAL
        if len(self._buffer) - self._position > _LONGEST_ROW:
            raise self._broken(f"it goes on for more than {_LONGEST_ROW:,} characters") from error
        if not (cut_off and self._fill()):
            line = self._line + self._buffer.count("\n", self._position, error.pos)
            where = "" if line == self._line else f" in line {line}"
            raise self._broken(f"{error.msg}{where}, column {error.colno}") from error

    def _peek(self) -> str:
        """The next character that is no blank; nothing at the end."""
        while True:
            match = _blanks(self._buffer, self._position)
            self._pass((match.end() if match else 0) - self._position)
            if self._position < len(self._buffer):
                return self._buffer[self._position]
            if not self._fill():
                return ""

    def _pass(self, count: int = 1) -> None:
        end = self._position + count
        self._line += self._buffer.count("\n", self._position, end)
        self._position = end

    def _fill(self) -> bool:
        """Read as much again as is left, so that a long value is not decoded too often."""
        rest = self._buffer[self._position :]
        more = self._text.read(max(_READ_CHARACTERS, len(rest)))
        self._buffer, self._position = rest + more, 0
        return bool(more)

    def _broken(self, reason: str) -> UserError:
        return UserError(
            f"cannot read {self._path}: what starts in line {self._line} is not JSON ({reason}); "
            "write one object a line"
        )
