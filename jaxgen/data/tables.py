"""Local csv, tsv, json, jsonl and parquet files as documents, through Hugging Face `datasets`.

`datasets` is imported where it is used: it takes more than a second, and text files do without.
"""

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jaxgen.config import DataConfig
from jaxgen.data.documents import Documents, check_column, first_line
from jaxgen.data.text_files import check_files, open_bytes, read_at, stamp
from jaxgen.errors import UserError

_BUILDERS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
_HEAD_BYTES = 1 << 16


def is_table(path: Path) -> bool:
    """Whether a file is a table (or JSON) rather than plain text, by its name."""
    return _suffix(path) in _BUILDERS


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
    builder = _BUILDERS[suffixes[0]]
    name = ", ".join(map(str, paths))
    options: dict[str, Any] = {}
    if builder != "parquet" and config.errors != "strict":
        # `datasets` heeds the errors of a JSON file only where its encoding is not named "utf-8".
        options |= {"encoding": "utf8", "encoding_errors": config.errors}
    if builder == "csv":
        options |= _csv_options(paths[0], suffixes[0], config)
    # What its readers log, they also raise, and that becomes the one error that users see.
    logging.getLogger("datasets.packaged_modules").setLevel(logging.CRITICAL)
    # A stream reads the files themselves; a downloaded dataset would first copy them to a cache.
    try:
        dataset = load_dataset(
            builder,
            data_files={"train": [str(path.resolve()) for path in paths]},
            split="train",
            streaming=True,
            **options,
        )
    except Exception as error:  # Each format raises errors of its own library.
        raise UserError(f"cannot read {name}: {first_line(error)}") from error
    compressed = builder == "parquet" or any(path.suffix == ".gz" for path in paths)
    documents = Documents(
        dataset,
        config.column,
        name,
        fingerprint=f"{stamp(paths)} {config.column} {config.errors}",
        nbytes=None if compressed else sum(path.stat().st_size for path in paths),
        files=tuple(paths),
    )
    return documents if builder == "csv" else documents.checked()


def _csv_options(path: Path, suffix: str, config: DataConfig) -> dict[str, Any]:
    """How pandas reads the files: one column, as text, where even "NA" is text."""
    from datasets import Features, Value

    tabs = suffix == ".tsv"
    delimiter = "\t" if tabs else ","
    # Tab-separated text has no quoting: a quotation mark in it is a quotation mark.
    quoting: Literal[0, 3] = csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL
    with open_bytes(path) as file:
        head = read_at(file, path, 0, _HEAD_BYTES).decode("utf-8-sig", "replace")
    lines = io.StringIO(head, newline="")
    first = next(csv.reader(lines, delimiter=delimiter, quoting=quoting), [])
    numbered = config.column.isdecimal() and config.column not in first
    columns = [str(number) for number in range(len(first))] if numbered else first
    check_column(config.column, columns, str(path))
    return {
        "delimiter": delimiter,
        "quoting": quoting,
        "usecols": [config.column],
        "features": Features({config.column: Value("string")}),
        "na_filter": False,
        **({"header": None, "column_names": columns} if numbered else {}),
    }


def _suffix(path: Path) -> str:
    return Path(path.stem if path.suffix == ".gz" else path.name).suffix.lower()
