"""Files of labelled texts: which format they have, and their rows of text and label."""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxgen.config import LabelledSource
from jaxgen.data.rows import Row
from jaxgen.data.tables import is_table, open_table
from jaxgen.data.text_files import changed, check_files, is_gzip, open_text, stamp
from jaxgen.errors import UserError

_PREFIX = "__label__"
_FASTTEXT_LABEL = re.compile(rf"(?<!\S){_PREFIX}(\S+)\s?")
_SEPARATORS = {"\t": "a tab", ";": "a semicolon"}
_ROWS_COMPARED = 1000
_MOST = 0.9
_FORMATS = (
    f"`{_PREFIX}x text` in each line (fasttext), a text, a semicolon or tab and a label in each "
    "line (lines), several files of one class each (file_per_class), or a csv, tsv, json, jsonl or "
    "parquet file (table)"
)


@dataclass(frozen=True)
class LabelledFiles:
    """How the files of labelled texts are written; the same for training and held-out files.

    Attributes:
        format: as `data.format`, never auto.
        config: the settings they are read with.
        separator: of lines, the character between text and label.
        label_first: whether the label of a line stands before its text.
        class_name: of one file a class, what gives the label of a file.
    """

    format: str
    config: LabelledSource
    separator: str = ""
    label_first: bool = False
    class_name: Callable[[Path], str] | None = None

    def rows(self, paths: Sequence[Path]) -> Iterator[Row]:
        """Yield the rows of some files, each with two values: the text and its label or labels.

        Raises:
            UserError: a file cannot be read, changes meanwhile, or a row is written otherwise.
        """
        if self.format == "table":
            columns = [self.config.column, self.config.label_column]
            separator, errors = self.config.separator, self.config.errors
            yield from open_table(paths, columns, separator=separator, errors=errors).rows()
            return
        check_files(paths)
        for path in paths:
            opened = stamp([path])
            for number, line in _lines(path, self.config.errors):
                values = self._values(line, path, number)
                if values is not None:
                    yield Row(values, f"{path} line", number)
            if stamp([path]) != opened:
                raise changed(path)

    def _values(self, line: str, path: Path, number: int) -> tuple[str, object] | None:
        """The text and the label of a line; None for the header of lines."""
        if self.format == "fasttext":
            return _fasttext(line)
        if self.class_name is not None:
            return line, self.class_name(path)
        fields = _split(line, self.separator, self.label_first)
        if fields is None:
            raise UserError(
                f"{path} line {number} has no {self.separator!r} between a text and a label: "
                f"{line!r:.60}; mend that line, or name the character with --data.separator"
            )
        return None if number == 1 and self._is_header(fields) else fields

    def _is_header(self, fields: tuple[str, str]) -> bool:
        text, label = (field.strip().lower() for field in fields)
        return text == self.config.column.lower() or label == self.config.label_column.lower()


def recognise(config: LabelledSource) -> LabelledFiles:
    """Find out how `data.files` are written, from their names and their first lines; say it.

    Raises:
        UserError: they cannot be read, are written in several ways, or in none that is known.
    """
    tables = [is_table(path) for path in config.files]
    if all(tables) and config.format in ("auto", "table"):
        return LabelledFiles("table", config)
    if any(tables):
        raise UserError(
            "labelled files must all be tables or all be lines of text, and `data.format` fit "
            f"them, got {', '.join(map(str, config.files))} with format {config.format}; convert "
            "them to one, or leave `data.format` out"
        )
    if config.format == "table":
        raise UserError(
            f"`data.format` table is for csv, tsv, json, jsonl and parquet files, got "
            f"{config.files[0]}; rename it, or choose another format"
        )
    check_files(config.files)
    found = _recognise_text(config)
    print(f"{_names(config.files)}: {_describe(found)}", file=sys.stderr, flush=True)
    return found


def _recognise_text(config: LabelledSource) -> LabelledFiles:
    files = LabelledFiles(config.format, config)
    heads = [_head(path, config.errors) for path in config.files]
    auto = config.format == "auto"
    if config.format == "fasttext" or (
        auto and any(head and head[0].startswith(_PREFIX) for head in heads)
    ):
        return replace(files, format="fasttext")
    if config.format == "file_per_class":
        return _file_per_class(files)
    lines = [line for head in heads for line in head]
    if not lines:
        raise UserError(f"{_names(config.files)} has no rows; give a file with text")
    hits = {mark: sum(mark in line for line in lines) for mark in config.separator or _SEPARATORS}
    separator = max(hits, key=lambda mark: hits[mark])
    # Text of another format may well hold semicolons, but not in nearly every line; where a few
    # lines have none, reading them says which.
    if config.separator or (hits[separator] and hits[separator] >= _MOST * len(lines)):
        first = _label_is_first(lines, separator)
        return replace(files, format="lines", separator=separator, label_first=first)
    if auto and len(config.files) > 1:
        return _file_per_class(files)
    raise UserError(
        f"{_names(config.files)} has no labels that could be found; labelled texts are {_FORMATS}; "
        "name the format with --data.format"
    )


def _file_per_class(files: LabelledFiles) -> LabelledFiles:
    """Labels from what sets the names of the files apart: stem, suffix or folder."""
    paths = files.config.files
    if len(paths) < 2:
        raise UserError(
            f"one file a class needs two or more in `data.files`, got {_names(paths)}; give the "
            "files of the other classes too"
        )
    for class_name in (_stem, _suffix, _folder):
        names = [class_name(path) for path in paths]
        if all(names) and len(set(names)) == len(names):
            return replace(files, format="file_per_class", class_name=class_name)
    raise UserError(
        "the names of files of one class each must differ in their stem, their suffix or their "
        f"folder alone, got {_names(paths)}; rename them, for example neg.txt and pos.txt"
    )


def _bare(path: Path) -> Path:
    return path.with_suffix("") if is_gzip(path) else path


def _stem(path: Path) -> str:
    return _bare(path).stem


def _suffix(path: Path) -> str:
    return _bare(path).suffix.removeprefix(".")


def _folder(path: Path) -> str:
    return path.absolute().parent.name


def _label_is_first(lines: Sequence[str], separator: str) -> bool:
    """Whether labels stand before the texts: there are fewer different ones of them."""
    first = {line.partition(separator)[0] for line in lines}
    last = {line.rpartition(separator)[2] for line in lines}
    return len(first) < len(last)


def _split(line: str, separator: str, label_first: bool) -> tuple[str, str] | None:
    """Text and label of a line; the text may hold separators of its own."""
    before, found, after = (line.partition if label_first else line.rpartition)(separator)
    if not found:
        return None
    return (after, before) if label_first else (before, after)


def _fasttext(line: str) -> tuple[str, list[str]]:
    return _FASTTEXT_LABEL.sub("", line), _FASTTEXT_LABEL.findall(line)


def _lines(path: Path, errors: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, without their ends, with their numbers from 1."""
    with open_text(path, errors, "\n") as text:
        for number, line in enumerate(text, 1):
            if line.strip():
                yield number, line.removesuffix("\n").removesuffix("\r")


def _head(path: Path, errors: str) -> list[str]:
    lines = (line for _, line in _lines(path, errors))
    return [line for line, _ in zip(lines, range(_ROWS_COMPARED), strict=False)]


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths[:5])) + (", ..." if len(paths) > 5 else "")


def _describe(files: LabelledFiles) -> str:
    """What was recognised, in words."""
    if files.format == "fasttext":
        return f"read as fastText's lines, {_PREFIX}x before the text"
    if files.class_name is not None:
        return f"read as one file a class: {', '.join(map(files.class_name, files.config.files))}"
    name = _SEPARATORS.get(files.separator, repr(files.separator))
    order = "a label, {}, a text" if files.label_first else "a text, {}, a label"
    return f"read as lines of {order.format(name)}"
