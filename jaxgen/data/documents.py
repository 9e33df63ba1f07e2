"""Corpora of documents: one column of a Hugging Face dataset, read in bounded memory."""

import difflib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxgen.data.text_files import check_utf8
from jaxgen.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

_BATCH_ROWS = 1000


@dataclass(frozen=True)
class Documents:
    """The documents in one column of a dataset: strings, or lists of integers.

    Attributes:
        dataset: a Hugging Face dataset, downloaded or streaming.
        column: which column; rows without a value in it are left out.
        name: for messages.
        fingerprint: changes when the data do; None where that cannot be known.
        nbytes: about the size of the text, where it is known.
        files: the local files, if any.
        start, stop: the range of rows; None is the end.
    """

    dataset: "Dataset | IterableDataset"
    column: str
    name: str
    fingerprint: str | None = None
    nbytes: int | None = None
    files: tuple[Path, ...] = ()
    start: int = 0
    stop: int | None = None
    documents = True

    @property
    def empty(self) -> bool:
        """Whether the range holds no rows."""
        return self.start == self.stop

    def cut(self, shares: Sequence[float]) -> "list[Documents]":
        """Consecutive parts with these shares of the documents."""
        rows = self._count()
        ends = [0, *(round(share * rows) for share in accumulate(shares[:-1])), rows]
        return [
            replace(
                self,
                start=a,
                stop=b,
                fingerprint=self.fingerprint and f"{self.fingerprint} rows {a} to {b}",
                nbytes=self.nbytes and self.nbytes * (b - a) // max(rows, 1),
            )
            for a, b in pairwise(ends)
        ]

    def __iter__(self) -> Iterator[str | list[int]]:
        """Yield the documents; UserError for one that is neither text nor a list of integers."""
        stop = sys.maxsize if self.stop is None else self.stop
        # Read to the end even so: a stream that is left half-way leaves its file open.
        for row, value in enumerate(chain.from_iterable(self._batches())):
            if self.start <= row < stop and value is not None:
                self._check(value, row)
                yield value

    def checked(self) -> "Documents":
        """These documents, once the column is known to exist; reads no other columns."""
        check_column(self.column, columns_of(self), self.name)
        return replace(self, dataset=self.dataset.select_columns([self.column]))

    def _batches(self) -> Iterator[list[Any]]:
        """The column's values; reading errors become one UserError."""
        try:
            for batch in self.dataset.iter(batch_size=_BATCH_ROWS):
                yield batch[self.column]
        except Exception as error:  # Each format raises errors of its own library.
            if isinstance(error, UserError):
                raise
            if _is_about_utf8(error):
                check_utf8(self.files)
            raise UserError(f"cannot read {self.name}: {first_line(error)}") from error

    def _count(self) -> int:
        try:
            return len(self.dataset)
        except TypeError:  # A stream knows its length only at its end.
            return sum(len(batch) for batch in self._batches())

    def _check(self, value: object, row: int) -> None:
        if isinstance(value, str):
            return
        if isinstance(value, list) and all(type(number) is int for number in value):
            return
        raise UserError(
            f"column `{self.column}` of {self.name} must hold text or lists of integers, "
            f"got {value!r:.60} in row {row}; choose another with --data.column"
        )


def columns_of(documents: Documents) -> list[str]:
    """Names of the columns; reads the first row where the dataset does not declare them."""
    if documents.dataset.column_names:
        return list(documents.dataset.column_names)
    try:
        return list(next(iter(documents.dataset), {}))
    except Exception as error:
        if _is_about_utf8(error):
            check_utf8(documents.files)
        raise UserError(f"cannot read {documents.name}: {first_line(error)}") from error


def check_column(column: str, columns: Sequence[str], name: str) -> None:
    """UserError where the data have no such column, naming those there are."""
    if not columns:
        raise UserError(f"{name} has no rows; give a file with text")
    if column in columns:
        return
    shown = ", ".join(f"{known:.40}" for known in columns)
    raise UserError(
        f"{name} has no column `{column}`{nearest(column, columns)}; there are: {shown}; "
        "choose one with --data.column (a number, counted from 0, where a csv or tsv file has "
        "no header)"
    )


def nearest(wanted: str, known: Sequence[str]) -> str:
    """A question to put after a name that is not known."""
    close = difflib.get_close_matches(wanted, known, n=1)
    return f", did you mean `{close[0]}`?" if close else ""


def _is_about_utf8(error: BaseException) -> bool:
    return isinstance(error, UnicodeDecodeError) or "utf" in str(error).lower()


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
