"""Texts to classify or translate: arguments, the lines of a file, or one column of a table."""

import codecs
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from jaxgen.errors import UserError

T = TypeVar("T")


class TextSource(NamedTuple):
    """Where texts come from, and how they are read."""

    path: Path | None
    """None or - is standard input."""
    column: str | None = None
    separator: str | None = None
    errors: str = "strict"

    @property
    def is_standard_input(self) -> bool:
        """Whether nothing but standard input is read."""
        return self.path is None or str(self.path) == "-"

    @property
    def name(self) -> str:
        """For messages."""
        return "standard input" if self.is_standard_input else str(self.path)


SLOW = 0.2
"""Seconds after which a line of standard input is answered, however few came with it."""


def check_texts(texts: Sequence[str], source: TextSource, work: str) -> None:
    """UserError where arguments and a file do not go together; `work` is what is done to them."""
    if texts and source.path is not None:
        raise UserError("give texts or --file, not both")
    if texts and (source.column is not None or source.separator is not None):
        option = "--separator" if source.column is None else "--column"
        raise UserError(f"{option} is for --file: leave it out, or give --file")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise UserError(f"text {number} to {work} is empty, got {text!r}; leave it out")
    if not texts and source.path is None and sys.stdin is not None and sys.stdin.isatty():
        raise UserError(
            f"there is nothing to {work}; give texts after the run, --file, or a text for each "
            "line of standard input"
        )


def with_progress(answers: Iterable[T], work: str) -> Iterator[T]:
    """Say now and then how many texts are done, unless the answers themselves are on the screen."""
    from jaxgen.data.progress import Progress

    progress = Progress(work)
    quiet = sys.stdout is not None and sys.stdout.isatty()
    for number, answer in enumerate(answers, 1):
        yield answer
        if not quiet and number % 256 == 0:
            progress.say(f"{number:,} texts")


def read_texts(source: TextSource, column: str) -> Iterator[str]:
    """Yield a text for each line or row, an empty one too, in bounded memory.

    A line ends at a line feed, with or without a carriage return before it. A row without a value
    is an empty text.

    Args:
        source: the file.
        column: which column of a table is read where the source names none.

    Raises:
        UserError: it cannot be read, holds no text at all or is no UTF-8; or a table lacks the
            column, or has something else there; or an option is of no use for such a file.
    """
    from jaxgen.data.tables import is_table

    table = source.path is not None and is_table(source.path)
    if not table and (source.column is not None or source.separator is not None):
        option = "--separator" if source.column is None else "--column"
        raise UserError(
            f"{option} is for csv, tsv, json, jsonl and parquet files, and {source.name} is read "
            "line by line; leave it out, or let the file's name end so"
        )
    if source.is_standard_input:
        return _lines_of_standard_input(source.errors)
    assert source.path is not None
    if table:
        return _values(source.path, source.column or column, source)
    return _lines(source.path, source.errors)


def _lines(path: Path, errors: str) -> Iterator[str]:
    from jaxgen.data.text_files import check_files, open_text

    with _own_options():
        check_files([path])
        with open_text(path, errors, newline="\n") as lines:
            for line in lines:
                yield line.removesuffix("\n").removesuffix("\r")


def _values(path: Path, column: str, source: TextSource) -> Iterator[str]:
    from jaxgen.data.tables import open_table

    with _own_options():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            table = open_table([path], [column], separator=source.separator, errors=source.errors)
        for warning in caught:
            warnings.warn(_named_here(warning.message), stacklevel=2)
        for row in table.rows():
            (value,) = row.values
            if value is not None and not isinstance(value, str):
                raise UserError(
                    f"column `{column}` must hold text, got {value!r:.60} in {row.place}; mend "
                    "that row, or choose another column with --column"
                )
            yield value or ""


def _lines_of_standard_input(errors: str) -> Iterator[str]:
    number = 0
    for number, line in enumerate(sys.stdin.buffer, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        try:
            text = line.decode("utf-8", errors)
        except UnicodeDecodeError as error:
            raise UserError(
                f"standard input must be UTF-8 text, and byte {error.start} of its line {number} "
                "is not; convert it, or replace such bytes with --errors replace"
            ) from None
        yield text.removesuffix("\n").removesuffix("\r")
    if not number:
        raise UserError("standard input is empty; give a text for each line")


@contextmanager
def _own_options() -> Iterator[None]:
    """Name this command's options, where errors name the settings of a corpus."""
    try:
        yield
    except UserError as error:
        raise UserError(_named_here(error)) from error


def _named_here(message: object) -> str:
    return str(message).replace("--data.", "--")
