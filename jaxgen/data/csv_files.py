"""Rows of csv and tsv files, every field as it stands; a row that does not fit is an error."""

import csv
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from jaxgen.data.rows import Row, check_columns
from jaxgen.data.text_files import open_text
from jaxgen.errors import UserError

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# Bounds the memory that a quotation mark which is never closed costs; no field is so long.
_LONGEST_FIELD = 1 << 26
NO_HEADER = (
    " (a number, counted from 0, where the file has no header), or name what separates its fields "
    "with --data.separator"
)
"""What goes on from "choose one with --data.column" where a csv or tsv file lacks it."""
_HEAD_CHARACTERS = 1 << 16
_ROWS_COMPARED = 10

# A row's number, the line that it starts in (both from 1) and its fields.
_Record = tuple[int, int, list[str]]


@dataclass(frozen=True)
class CsvFile:
    """How the rows of one csv or tsv file are written.

    Attributes:
        path: the file, also gzipped.
        separator: the character between fields.
        quoted: whether fields may stand in quotation marks; in a tsv file these are text.
        line_end: what ends a row: a line feed (a carriage return before it belongs to it), or a
            carriage return where the file has no line feeds.
        errors: what to do with bytes that are not UTF-8, as in `bytes.decode`.
        header: names of all columns; their numbers where the file has no header.
        numbered: whether it has none, so that the first row is a row as all others.
    """

    path: Path
    separator: str
    quoted: bool
    line_end: str
    errors: str
    header: tuple[str, ...] = ()
    numbered: bool = False

    def rows(self, columns: Sequence[str]) -> Iterator[Row]:
        """Yield the columns' fields of each row; empty lines are no rows.

        Raises:
            UserError: a row has more or fewer fields than the first, or breaks the quoting rules.
        """
        wanted = [self.header.index(column) for column in columns]
        where = f"{self.path} row"
        for number, line, fields in self._records():
            if len(fields) != len(self.header):
                if len(fields) == 1 and not fields[0].strip():
                    continue  # a line of blanks
                raise self._wrong_width(number, line, fields)
            if number > 1 or self.numbered:
                yield Row(tuple([fields[index] for index in wanted]), where, number)

    def with_header(self, columns: Sequence[str]) -> "CsvFile":
        """The same with the header read: numbers mean that there is none.

        Save where the first row has these very numbers as names: each in the place that it counts
        to (0, 1, 2), or beyond what can be counted (2019). Labels are numbers, too.
        """
        first = next((fields for _, _, fields in self._records()), [])
        numbered = all(column.isdecimal() for column in columns) and not all(
            column in first and first[int(column) : int(column) + 1] in ([column], [])
            for column in columns
        )
        header = [str(number) for number in range(len(first))] if numbered else first
        return replace(self, header=tuple(header), numbered=numbered)

    def fits(self, columns: Sequence[str]) -> bool:
        """Whether the separator sets the columns apart, at least in the first rows."""
        if not set(columns) <= set(self.header):
            return False
        if not self.numbered:
            return True
        widths = {len(fields) for _, _, fields in islice(self._records(), _ROWS_COMPARED)}
        return len(widths) == 1 and widths != {1}

    def _records(self) -> Iterator[_Record]:
        with open_text(self.path, self.errors, self.line_end) as lines:
            records = self._split(lines) if self.quoted else self._split_at_tabs(lines)
            number = 0
            for line, fields in records:
                # An empty line is no row; a row whose only field is empty is written "".
                if len(fields) > 1 or (fields and (self.quoted or fields != [""])):
                    number += 1
                    yield number, line, fields

    def _split_at_tabs(self, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
        """Without quoting: what is between two separators is the field, whatever it is."""
        for number, line in enumerate(lines, 1):
            text = line.removesuffix(self.line_end)
            text = text.removesuffix("\r") if self.line_end == "\n" else text
            yield number, text.split(self.separator)

    def _split(self, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
        # The limit is one for all readers of this process: it is only ever raised.
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
        reader = csv.reader(lines, delimiter=self.separator, strict=True)
        line = 1
        try:
            for fields in reader:
                yield line, fields
                line = reader.line_num + 1
        except csv.Error as error:
            raise UserError(
                f"cannot read the row of {self.path} that starts in line {line}: {_explain(error)}"
            ) from error

    def _wrong_width(self, number: int, line: int, fields: Sequence[str]) -> UserError:
        shown = ", ".join(f"{field!r:.40}" for field in fields[:5])
        shown += ", ..." if len(fields) > 5 else ""
        first = "the first row has" if self.numbered else "the header has"
        names = "" if self.numbered else f" ({', '.join(self.header[:5])})"
        way_out = (
            f"put texts that hold {_name(self.separator)} in quotation marks, or name another "
            "separator with --data.separator"
            if self.quoted
            else "a tsv file has no quoting: take tabs out of its texts, or let its name end in "
            ".csv where they are quoted"
        )
        return UserError(
            f"{self.path} row {number} (line {line}) has {len(fields)} fields and {first} "
            f"{len(self.header)}{names}: {shown}; {way_out}"
        )


def open_csv(path: Path, columns: Sequence[str], separator: str | None, errors: str) -> CsvFile:
    """Find out how a csv or tsv file is written, and that it has the columns.

    Raises:
        UserError: the file cannot be read, or lacks one of the columns or has it twice.
    """
    written = recognise_csv(path, columns, separator, errors)
    check_columns(columns, written.header, str(path), NO_HEADER)
    return written


def recognise_csv(
    path: Path, columns: Sequence[str], separator: str | None, errors: str
) -> CsvFile:
    """Find out how a csv or tsv file is written, from its beginning.

    Without `separator`, a csv file has the first of comma, semicolon, tab and bar that sets the
    columns apart, any but the comma being named in a warning; any other file has tabs.

    Raises:
        UserError: the file cannot be read.
    """
    quoted = path.name.lower().removesuffix(".gz").endswith(".csv")
    with open_text(path, errors) as text:
        head = text.read(_HEAD_CHARACTERS)
    line_end = "\r" if "\r" in head and "\n" not in head else "\n"
    usual = separator or ("," if quoted else "\t")
    written = CsvFile(path, usual, quoted, line_end, errors)
    if separator is None and quoted:
        written = _find_separator(written, columns)
    return written.with_header(columns)


def _find_separator(written: CsvFile, columns: Sequence[str]) -> CsvFile:
    for separator in _SEPARATORS:
        try:
            other = replace(written, separator=separator).with_header(columns)
            if not other.fits(columns):
                continue
        except UserError:  # Quoted with another separator.
            continue
        if separator != written.separator:
            warnings.warn(
                f"{written.path} is read with {_name(separator)} between its fields, as its first "
                f"line shows; --data.separator {written.separator} takes "
                f"{_name(written.separator)} instead",
                stacklevel=2,
            )
        return other
    return written


def _name(separator: str) -> str:
    return _SEPARATORS.get(separator, repr(separator))


def _explain(error: csv.Error) -> str:
    """What the row breaks, in other words than those of Python's reader."""
    message = str(error)
    if "unexpected end of data" in message or "field larger" in message:
        return (
            'a quotation mark that opens there is never closed; close it, or write "" for a mark '
            "inside a text"
        )
    if "expected after" in message:
        return (
            'a quotation mark in it is followed by text; write "" for a mark inside a text, and '
            "close every text that opens with one"
        )
    if "new-line" in message:
        return (
            "it has a carriage return between texts that are not in quotation marks; put texts of "
            "several lines in quotation marks"
        )
    return message
