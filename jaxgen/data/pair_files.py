"""Rows of a source and its target: of tables, of hub datasets, or of two parallel files."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from jaxgen.config import PairData
from jaxgen.data.csv_files import NO_HEADER
from jaxgen.data.hub import hub_splits
from jaxgen.data.rows import Row, check_columns
from jaxgen.data.tables import first_row, open_table
from jaxgen.data.text_files import changed, check_files, open_text, stamp
from jaxgen.errors import UserError

SIDES = ("source", "target")
OPTIONS = ("--data.source-column", "--data.target-column")
_FIELDS = ("source_column", "target_column")
_NUMBERS = ("0", "1")


def name_columns(path: Path, config: PairData) -> PairData:
    """The settings with the columns of a file, where they name none.

    These are `source` and `target` where it has them, and else both of a csv or tsv file that has
    two; that is said, because one of them may have been meant as a header.

    Raises:
        UserError: the file cannot be read, or has other columns.
    """
    if config.source_column is not None:
        return config
    first = first_row(path, _NUMBERS, separator=config.separator, errors=config.errors)
    numbered = [*first] == [str(number) for number in range(len(first))]
    names = [str(value) for value in first.values()] if numbered else _paths(first)
    if {*SIDES} <= {*names}:
        columns = SIDES
    elif numbered and len(first) == 2:
        columns = _NUMBERS
        print(
            f"{path}: read as a source and a target in each line, from the first line on",
            file=sys.stderr,
            flush=True,
        )
    else:
        raise _unnamed(str(path), first if numbered else dict.fromkeys(names))
    return config.model_copy(update=dict(zip(_FIELDS, columns, strict=True)))


def table_pairs(paths: Sequence[Path], config: PairData) -> Iterator[Row]:
    """Yield the source and the target of each row of csv, tsv, json, jsonl and parquet files.

    A file with any other ending is read as tsv. The settings name the columns.

    Raises:
        UserError: a file cannot be read, or lacks a column.
    """
    names = _named(config)
    for path in paths:
        first = first_row(path, names, separator=config.separator, errors=config.errors)
        columns = _Columns.of(names, first, str(path), NO_HEADER)
        table = open_table([path], columns.tops, separator=config.separator, errors=config.errors)
        yield from columns.rows(table.rows())


def hub_pairs(config: PairData) -> dict[str, tuple[str, Iterator[Row]]]:
    """Name and rows of each part (train, validation, test) of a hub dataset.

    Raises:
        UserError: as `hub_tables`; or no columns are named, and there are no `source` and `target`.
    """
    pairs = {}
    for part, table in hub_splits(config).items():
        first = table.first_row()
        if config.source_column is None and not {*SIDES} <= {*_paths(first)}:
            raise _unnamed(table.name, dict.fromkeys(_paths(first)))
        columns = _Columns.of(_named(config), first, table.name)
        rows = replace(table, columns=columns.tops).checked().rows()
        pairs[part] = table.name, columns.rows(rows)
    return pairs


def parallel_pairs(
    source_paths: Sequence[Path], target_paths: Sequence[Path], errors: str
) -> Iterator[Row]:
    """Yield each line of the source files with the line that stands beside it in the target files.

    Raises:
        UserError: a file cannot be read, changes meanwhile, or has fewer lines than the other one.
    """
    for paths in zip(source_paths, target_paths, strict=True):
        check_files(paths)
        opened = stamp(paths)
        where = f"{paths[0]} and {paths[1]}, line"
        with open_text(paths[0], errors, "\n") as left, open_text(paths[1], errors, "\n") as right:
            for number, lines in enumerate(zip_longest(left, right), 1):
                if None in lines:
                    shorter, longer = paths if lines[0] is None else paths[::-1]
                    raise UserError(
                        f"source and target files must have as many lines, but {shorter} ends "
                        f"after line {number - 1} and {longer} goes on with "
                        f"{(lines[0] or lines[1]).strip()!r:.60}; give files whose lines belong "
                        "together"
                    )
                yield Row(tuple([line.rstrip("\r\n") for line in lines]), where, number)
        if stamp(paths) != opened:
            raise changed(paths[0])


class _Columns(NamedTuple):
    """The columns of a table; `translation.de` is what `translation` has under `de`."""

    names: tuple[str, ...]
    paths: tuple[tuple[str, ...], ...]
    """For each its column of the table, and the keys to follow within."""

    @classmethod
    def of(
        cls, names: tuple[str, ...], first: Mapping[str, Any], table: str, hint: str = ""
    ) -> "_Columns":
        """Find them in the first row of a table; UserError for one that is not there."""
        check_columns(names, list(dict.fromkeys([*_paths(first), *first])), table, hint, OPTIONS)
        paths = [(name,) if name in first else tuple(name.split(".")) for name in names]
        return cls(names, tuple(paths))

    @property
    def tops(self) -> tuple[str, ...]:
        """The columns of the table that hold them, each once."""
        return tuple(dict.fromkeys(path[0] for path in self.paths))

    def rows(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Rows of the table with the values of these columns."""
        tops = self.tops
        places = [tops.index(path[0]) for path in self.paths]
        for row in rows:
            values = [row.values[place] for place in places]
            for side, path in enumerate(self.paths):
                for key in path[1:]:
                    values[side] = self._within(values[side], key, side, row)
            yield row._replace(values=tuple(values))

    def _within(self, value: Any, key: str, side: int, row: Row) -> Any:
        if value is None:
            return None
        if isinstance(value, dict) and key in value:
            return value[key]
        raise UserError(
            f"{row.place} has no `{self.names[side]}` but {value!r:.60} in its place; mend that "
            f"row, or choose another column with {OPTIONS[side]}"
        )


def _named(config: PairData) -> tuple[str, str]:
    """The columns that the settings name, or else `source` and `target`."""
    return config.source_column or SIDES[0], config.target_column or SIDES[1]


def _paths(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names of the columns of a row, in place of nested ones the names of what they hold."""
    paths: list[str] = []
    for name, value in values.items():
        nested = isinstance(value, dict) and value
        paths += _paths(value, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]
    return paths


def _unnamed(name: str, columns: Mapping[str, Any]) -> UserError:
    """The error for a table of which nothing says where sources and targets are."""
    if len(columns) == 1 and "0" in columns:
        return UserError(
            f"{name} has one column, got {columns['0']!r:.60}, where a pair needs two; put a tab "
            "between source and target, name what separates them with --data.separator, or give "
            "two files with --data.source-files and --data.target-files"
        )
    shown = [f"{key:.40}" + (f" ({x!r:.40})" if x else "") for key, x in columns.items()]
    header = ", where that is a header by its names" if "0" in columns else ""
    return UserError(
        f"{name} has {len(columns)} columns and none is named as source or target; there are: "
        f"{', '.join(shown)}; name two with {OPTIONS[0]} and {OPTIONS[1]}{header}"
    )
