"""Corpora of documents: the rows of local tables and hub datasets, through Hugging Face `datasets`.

`datasets` is imported where it is used: it takes more than a second, and text files do without.
"""

import csv
import difflib
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxgen.config import DataConfig
from jaxgen.data.text_files import check_files, check_utf8, open_bytes, stamp
from jaxgen.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

BUILDERS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
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
        ends = [0]
        for share in shares[:-1]:
            ends.append(ends[-1] + round(share * rows))
        ends.append(rows)
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
            raise UserError(f"cannot read {self.name}: {_first_line(error)}") from error

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


def is_table(path: Path) -> bool:
    """Whether a file is a table (or JSON) rather than plain text, by its name."""
    return _suffix(path) in BUILDERS


def local_documents(paths: Sequence[Path], config: DataConfig) -> Documents:
    """The chosen column of local csv, tsv, json, jsonl or parquet files, also gzipped.

    A column given as a number, counted from 0, means that the csv or tsv files have no header.
    """
    from datasets import load_dataset

    suffixes = sorted({_suffix(path) for path in paths})
    if len(suffixes) > 1:
        raise UserError(
            f"the files of one corpus must have one format, got {', '.join(suffixes)}; "
            "convert them to one"
        )
    check_files(paths)
    builder = BUILDERS[suffixes[0]]
    name = ", ".join(map(str, paths))
    options: dict[str, Any] = {}
    if builder != "parquet" and config.errors != "strict":
        options["encoding_errors"] = config.errors
    if builder == "csv":
        options |= _csv_options(paths[0], suffixes[0], config)
    # A stream reads the files themselves; a downloaded dataset would first copy them to a cache.
    dataset = load_dataset(
        builder,
        data_files={"train": [str(path.resolve()) for path in paths]},
        split="train",
        streaming=True,
        **options,
    )
    compressed = builder == "parquet" or any(path.suffix == ".gz" for path in paths)
    documents = Documents(
        dataset,
        config.column,
        name,
        fingerprint=f"{stamp(paths)} {config.column} {config.errors}",
        nbytes=None if compressed else sum(path.stat().st_size for path in paths),
        files=tuple(paths),
    )
    if builder != "csv":
        _check_column(config.column, _columns(documents), name)
    return documents


def hub_documents(config: DataConfig) -> dict[str, Documents]:
    """The chosen column of a hub dataset, for ``train`` and, where there are such, the other two.

    Where the configuration names no validation or test split, splits of these names are taken.
    """
    from datasets import DatasetDict, IterableDatasetDict

    assert config.dataset is not None
    loaded = _load_hub(config)
    splits = loaded if isinstance(loaded, DatasetDict | IterableDatasetDict) else {"train": loaded}
    wanted = {
        "train": config.split,
        "validation": config.validation_split or ("validation" in splits and "validation"),
        "test": config.test_split or ("test" in splits and "test"),
    }
    parts = {}
    for part, split in wanted.items():
        if not split or (part != "train" and split == config.split):
            continue
        if split not in splits:
            raise UserError(
                f"dataset {config.dataset} has no split `{split}`{_nearest(split, list(splits))}; "
                f"there are: {', '.join(splits)}"
            )
        dataset = splits[split]
        name = f"{config.dataset} ({split})"
        fingerprint = None if config.streaming else getattr(dataset, "_fingerprint", None)
        size = None if config.streaming else getattr(dataset, "dataset_size", None)
        documents = Documents(dataset, config.column, name, fingerprint, size)
        _check_column(config.column, _columns(documents), name)
        parts[part] = documents
    return parts


def _load_hub(config: DataConfig) -> Any:
    from datasets import DatasetNotFoundError, load_dataset

    name = config.dataset
    try:
        try:
            return load_dataset(name, config.subset, streaming=config.streaming)
        except RuntimeError as error:
            if "scripts are no longer supported" not in str(error):
                raise
            # The hub keeps a parquet copy of most datasets that were once made by a script.
            return load_dataset(
                name,
                config.subset,
                streaming=config.streaming,
                revision="refs/convert/parquet",
            )
    except DatasetNotFoundError as error:
        raise UserError(
            f"there is no dataset {name} on the hub, or it is private; check `data.dataset`, "
            "or give local files with --data.files"
        ) from error
    except ConnectionError as error:
        raise UserError(
            f"cannot reach the Hugging Face hub for dataset {name} ({_first_line(error)}); "
            "go online, or download the text and give it with --data.files my_corpus.txt"
        ) from error
    except Exception as error:  # Whatever else `datasets` meets in somebody else's data.
        hint = "; choose one with --data.subset" if "onfig" in str(error) else ""
        raise UserError(f"cannot load dataset {name}: {_first_line(error)}{hint}") from error


def _csv_options(path: Path, suffix: str, config: DataConfig) -> dict[str, Any]:
    """How pandas reads the files: one column, as text, where even "NA" is text."""
    tabs = suffix == ".tsv"
    delimiter = "\t" if tabs else ","
    # Tab-separated text has no quoting: a quotation mark in it is a quotation mark.
    quoting: Literal[0, 3] = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    with open_bytes(path) as file:
        lines = io.TextIOWrapper(file, "utf-8-sig", errors="replace", newline="")
        first = next(csv.reader(lines, delimiter=delimiter, quoting=quoting), [])
    numbered = config.column.isdecimal() and config.column not in first
    columns = [str(number) for number in range(len(first))] if numbered else first
    _check_column(config.column, columns, str(path))
    return {
        "delimiter": delimiter,
        "quoting": quoting,
        "usecols": [config.column],
        "converters": {config.column: str},
        **({"header": None, "column_names": columns} if numbered else {}),
    }


def _columns(documents: Documents) -> list[str]:
    """Names of the columns; reads the first row where the dataset does not declare them."""
    if documents.dataset.column_names:
        return list(documents.dataset.column_names)
    try:
        return list(next(iter(documents.dataset), {}))
    except Exception as error:
        if _is_about_utf8(error):
            check_utf8(documents.files)
        raise UserError(f"cannot read {documents.name}: {_first_line(error)}") from error


def _check_column(column: str, columns: Sequence[str], name: str) -> None:
    if not columns:
        raise UserError(f"{name} has no rows; give a file with text")
    if column in columns:
        return
    shown = ", ".join(f"{known:.40}" for known in columns)
    raise UserError(
        f"{name} has no column `{column}`{_nearest(column, columns)}; there are: {shown}; "
        "choose one with --data.column (a number, counted from 0, where a csv or tsv file has "
        "no header)"
    )


def _nearest(wanted: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(wanted, known, n=1)
    return f", did you mean `{close[0]}`?" if close else ""


def _suffix(path: Path) -> str:
    return Path(path.stem if path.suffix == ".gz" else path.name).suffix.lower()


def _is_about_utf8(error: BaseException) -> bool:
    return isinstance(error, UnicodeDecodeError) or "utf" in str(error).lower()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
