"""Rows of local csv, tsv, json, jsonl and parquet files, as a function of paths and columns."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from jaxgen.data.csv_files import open_csv, recognise_csv
from jaxgen.data.json_files import json_objects, json_rows
from jaxgen.data.rows import Row, check_columns
from jaxgen.data.text_files import changed, check_files, is_gzip, open_bytes, stamp
from jaxgen.errors import UserError, first_line

_FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
_BATCH_ROWS = 1000


def is_table(path: Path) -> bool:
    """Whether a file is a table (or JSON) rather than plain text, by its name."""
    return _suffix(path) in _FORMATS


@dataclass(frozen=True)
class FileTable:
    """Some columns of table files of one format, one file after another.

    Attributes:
        paths: the files.
        columns: the columns that are read, and no others.
        readers: what yields the rows of each file.
        fingerprint: changes when a file is written to, or is read in another way.
        stamps: what each file was when it was opened.
    """

    paths: tuple[Path, ...]
    columns: tuple[str, ...]
    fingerprint: str
    readers: tuple[Callable[[], Iterator[Row]], ...] = field(repr=False, compare=False)
    stamps: tuple[str, ...] = field(repr=False)

    @property
    def name(self) -> str:
        """For messages."""
        return ", ".join(map(str, self.paths))

    @property
    def nbytes(self) -> int | None:
        """The files' size; None where it says little of the text's."""
        if any(is_gzip(path) or _suffix(path) == ".parquet" for path in self.paths):
            return None
        return sum(path.stat().st_size for path in self.paths)

    def rows(self) -> Iterator[Row]:
        """Yield the rows; UserError for a file that cannot be read or changes meanwhile."""
        for path, read, opened in zip(self.paths, self.readers, self.stamps, strict=True):
            try:
                yield from read()
            except UserError:
                # A half-written row makes errors of its own; the other one says why.
                if stamp([path]) == opened:
                    raise
            if stamp([path]) != opened:
                raise changed(path)


def open_table(
    paths: Sequence[Path],
    columns: Sequence[str],
    *,
    separator: str | None = None,
    errors: str = "strict",
) -> FileTable:
    """Open the named columns of local files, also gzipped; reads only what finding them takes.

    Args:
        paths: files of one format: csv and tsv, or json, jsonl and ndjson, or parquet. A file with
            another ending is read as tsv.
        columns: names of the columns. Numbers, counted from 0, mean that the csv or tsv files have
            no header.
        separator: the character between the fields of csv and tsv files; None finds it.
        errors: what to do with bytes that are not UTF-8, as in `bytes.decode`.

    Raises:
        UserError: a file is missing, unreadable or of another format, or lacks a column.
    """
    suffixes = sorted({_suffix(path) for path in paths})
    formats = {_FORMATS.get(suffix, "csv") for suffix in suffixes}
    if len(formats) > 1:
        raise UserError(
            f"the files of one corpus must have one format, got {', '.join(suffixes)}; "
            "convert them to one"
        )
    check_files(paths)
    stamps = tuple(stamp([path]) for path in paths)
    (kind,) = formats
    if kind == "csv":
        files = [open_csv(path, columns, separator, errors) for path in paths]
        readers = [partial(file.rows, columns) for file in files]
    elif kind == "json":
        _check_keys(paths, columns, errors)
        readers = [partial(json_rows, path, columns, errors) for path in paths]
    else:
        for path in paths:
            check_columns(columns, _parquet_columns(path), str(path))
        readers = [partial(_parquet_rows, path, columns) for path in paths]
    read_as = "\n".join([*columns, separator or "", errors])
    return FileTable(
        tuple(paths), tuple(columns), f"{stamp(paths)} {read_as}", tuple(readers), stamps
    )


def first_row(
    path: Path, columns: Sequence[str], *, separator: str | None = None, errors: str = "strict"
) -> dict[str, Any]:
    """The first row of a file, every column of it; None for each where there are no rows.

    The arguments are those of `open_table`; here the columns only tell how a csv or tsv file is
    written, and need not be there.
    """
    check_files([path])
    kind = _FORMATS.get(_suffix(path), "csv")
    if kind == "json":
        return next((keys for _, keys in json_objects(path, errors)), {})
    if kind == "csv":
        written = recognise_csv(path, columns, separator, errors)
        names, rows = list(written.header), written.rows(written.header)
    else:
        names = _parquet_columns(path)
        rows = _parquet_rows(path, names)
    first = next(rows, None)
    return dict(zip(names, first.values if first else [None] * len(names), strict=True))


def _check_keys(paths: Sequence[Path], columns: Sequence[str], errors: str) -> None:
    """UserError for a column that no object of any file has."""
    seen: dict[str, None] = {}
    for path in paths:
        for _, keys in json_objects(path, errors):
            seen |= dict.fromkeys(keys)
            if all(column in seen for column in columns):
                return
    check_columns(columns, list(seen), ", ".join(map(str, paths)))


def _parquet_columns(path: Path) -> list[str]:
    import pyarrow.parquet

    try:
        with open_bytes(path) as file:
            return list(pyarrow.parquet.read_schema(file).names)
    except UserError:
        raise
    except Exception as error:  # The library has many, some of them not its own.
        raise UserError(f"cannot read {path}: {first_line(error)}") from error


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    import pyarrow.parquet

    where, number = f"{path} row", 0
    try:
        with open_bytes(path) as file:
            table = pyarrow.parquet.ParquetFile(file)
            for batch in table.iter_batches(_BATCH_ROWS, columns=list(columns)):
                values = [batch.column(column).to_pylist() for column in columns]
                for row in zip(*values, strict=True):
                    number += 1
                    yield Row(row, where, number)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from error


def _suffix(path: Path) -> str:
    return Path(path.stem if is_gzip(path) else path.name).suffix.lower()
