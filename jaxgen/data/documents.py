"""Documents: the texts in one column of a table, read in bounded memory."""

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

from jaxgen.data.rows import Row, Table, check_unicode
from jaxgen.errors import UserError


@dataclass(frozen=True)
class Documents:
    """The values of a table's only column: strings, or lists of integers.

    Rows without a value are left out before documents are counted.

    Attributes:
        table: what is read.
        start, stop: the range of documents; None is the end.
    """

    table: Table
    start: int = 0
    stop: int | None = None
    # Shared by the parts of one table, so that what is missing is said once.
    _warned: list[int] = field(default_factory=list, repr=False, compare=False)
    documents = True

    @property
    def name(self) -> str:
        """For messages."""
        return self.table.name

    @property
    def fingerprint(self) -> str | None:
        """Changes when the documents do; None where that cannot be known."""
        known = self.table.fingerprint
        return known and f"{known} documents {self.start} to {self.stop}"

    @property
    def nbytes(self) -> int | None:
        """About the size of the whole table's text, where it is known."""
        return self.table.nbytes

    @property
    def empty(self) -> bool:
        """Whether the range holds no documents."""
        return self.start == self.stop

    def cut(self, shares: Sequence[float]) -> "list[Documents]":
        """Consecutive parts with these shares of the documents."""
        count = sum(1 for _ in self)
        ends = [0, *(round(share * count) for share in accumulate(shares[:-1])), count]
        return [replace(self, start=self.start + a, stop=self.start + b) for a, b in pairwise(ends)]

    def __iter__(self) -> Iterator[str | list[int]]:
        """Yield the documents.

        Raises:
            UserError: a value is neither text nor a list of integers, or not what the first is.
        """
        stop = sys.maxsize if self.stop is None else self.stop
        number = missing = 0
        first: Row | None = None
        # Read to the end even so: a stream that is left half-way leaves its file open.
        for row in self.table.rows():
            (value,) = row.values
            if value is None:
                missing += 1
                continue
            first = first or row
            self._check(row, first)
            if self.start <= number < stop:
                yield value
            number += 1
        if missing and not self._warned:
            self._warned.append(missing)
            warnings.warn(
                f"{missing} of {missing + number} rows of {self.name} have no value in column "
                f"`{self.table.columns[0]}` and are left out",
                stacklevel=2,
            )

    def _check(self, row: Row, first: Row) -> None:
        value, kind = row.values[0], type(first.values[0])
        if isinstance(value, kind):
            if isinstance(value, str):
                if not value.isascii():
                    check_unicode(value, row)
                return
            if isinstance(value, list) and all(type(number) is int for number in value):
                return
        rule = (
            "text or lists of integers"
            if row is first
            else f"{'text' if kind is str else 'lists of integers'} as in {first.place}"
        )
        raise UserError(
            f"column `{self.table.columns[0]}` must hold {rule}, got {value!r:.60} in "
            f"{row.place}; mend that row, or choose another column with --data.column"
        )
