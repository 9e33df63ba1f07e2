"""Rows of csv and tsv files, every field as it stands; a row that does not fit is an error."""

import csv
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

from jaxgen.data.rows import Row, check_column
from jaxgen.data.text_files import open_text
from jaxgen.errors import UserError

_SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}
# Bounds the memory that a quotation mark which is never closed costs; no field is so long.
_LONGEST_FIELD = 1 << 26
_HEAD_CHARACTERS = 1 << 16
_ROWS_COMPARED = 10


class Record(list[str]):
    """The fields of one row, and the line of the file that it starts in."""

    line: int = 0


@dataclass(frozen=True)
class CsvFile:
    """A csv or tsv file and how its rows are written.

    Attributes:
        path: the file, also gzipped.
        separator: the character between fields.
        quoted: whether fields may stand in quotation marks; a tsv file has none.
        line_end: what ends a row: a line feed (a carriage return before it belongs to it), or a
            carriage return where the file has no line feeds.
        errors: what to do with bytes that are not UTF-8, as in `bytes.decode`.
    """

    path: Path
    separator: str
    quoted: bool
    line_end: str
    errors: str = "strict"
