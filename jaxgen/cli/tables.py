"""Texts as a table in a file: JSON lines, CSV or Markdown, as its name ends."""

import csv
import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from jaxgen.errors import UserError

Rows = list[dict[str, Any]]


def check_table(path: Path, replace: bool = False) -> None:
    """UserError where `write_table` could not or should not write, before any text is generated.

    Args:
        path: the file.
        replace: whether a file that is there already, and not empty, may be replaced.
    """
    if path.suffix not in _WRITERS:
        raise UserError(f"--out must end in {', '.join(_WRITERS)}, got {path}")
    if path.is_dir() or not path.parent.is_dir():
        rule = "a file, not a directory" if path.is_dir() else "in a directory that exists"
        raise UserError(f"--out must be {rule}, got {path}")
    if not replace and path.is_file() and path.stat().st_size:
        raise UserError(f"--out {path} is there already; name another file, or add --force")


def write_table(path: Path, rows: Rows) -> None:
    """A line for each row; the columns are the keys of the first."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            _WRITERS[path.suffix](file, rows)
    except OSError as error:
        raise UserError(f"cannot write --out {path}: {error.strerror}") from error


def _write_json_lines(file: TextIO, rows: Rows) -> None:
    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_csv(file: TextIO, rows: Rows) -> None:
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def _write_markdown(file: TextIO, rows: Rows) -> None:
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |\n"

    file.write(line(list(rows[0])) + line(["---"] * len(rows[0])))
    file.writelines(line([_cell(value) for value in row.values()]) for row in rows)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = "" if value is None else html.escape(str(value), quote=False)
    for mark in "\\`*_[]|#~":
        text = text.replace(mark, "\\" + mark)
    return text.replace("\n", "<br>")


_WRITERS: dict[str, Callable[[TextIO, Rows], None]] = {
    ".jsonl": _write_json_lines,
    ".csv": _write_csv,
    ".md": _write_markdown,
}
