"""What every reader of tables yields: rows of the columns asked for."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxgen.errors import UserError, nearest


class Row(NamedTuple):
    """One row.

    Attributes:
        values: one a column, in the order asked for; None where the row has none.
        where: the file or data set, and what its rows are called.
        number: which row or line, as `where` counts them.
    """

    values: tuple[Any, ...]
    where: str
    number: int

    @property
    def place(self) -> str:
        """For messages: for example "reviews.jsonl line 3"."""
        return f"{self.where} {self.number}"


@runtime_checkable
class Table(Protocol):
    """Rows of some columns that can be read any number of times, always the same."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are read."""

    @property
    def fingerprint(self) -> str | None:
        """Changes when the data do; None where that cannot be known."""

    @property
    def nbytes(self) -> int | None:
        """About the size in UTF-8; None where it is unknown."""

    def rows(self) -> Iterator[Row]:
        """Yield the rows; UserError where they cannot be read."""


COLUMN_OPTIONS = ("--data.column", "--data.label-column")
"""The options that name the columns which are read, in their order."""


def check_columns(
    columns: Sequence[str],
    known: Sequence[str],
    name: str,
    hint: str = "",
    options: Sequence[str] = COLUMN_OPTIONS,
) -> None:
    """UserError where the data lack one of the columns, naming those there are, or have it twice.

    The options name the columns, in their order. The hint goes on from "choose one with
    --data.column".
    """
    if not known:
        raise UserError(f"{name} has no rows; give a file with text")
    for index, column in enumerate(columns):
        if column not in known:
            shown = ", ".join(f"{one:.40}" for one in known)
            option = options[min(index, len(options) - 1)]
            raise UserError(
                f"{name} has no column `{column}`{nearest(column, known)}; there are: {shown}; "
                f"choose one with {option}{hint}"
            )
        if known.count(column) > 1:
            raise UserError(
                f"{name} has {known.count(column)} columns `{column}`; give each a name of its own"
            )


def check_unicode(text: str, row: Row) -> None:
    """UserError for half a surrogate pair, which JSON can write and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text in {row.place} has {text[error.start]!r}, half a surrogate pair and so no "
            "Unicode text; remove it"
        ) from error
