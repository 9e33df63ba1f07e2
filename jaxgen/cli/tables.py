"""Texts as a table in a file: JSON lines, CSV or Markdown, as its name ends."""

import csv
import html
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from jaxgen.errors import UserError
from jaxgen.files import reason, replacing

Rows = list[dict[str, Any]]


def check_table(path: Path, overwrite: bool = False) -> None:
    """Check where a table is to be written, so that nobody waits for texts in vain.

    Args:
        path: The file.
        overwrite: Whether a file that is there may be replaced.

    Raises:
        UserError: `write_table` could not write it, or must not.
    """
    if path.suffix not in _WRITERS:
        raise UserError(f"--out must end in {', '.join(_WRITERS)}, got {path}")
    if path.is_dir() or not path.parent.is_dir():
        rule = "a file, not a directory" if path.is_dir() else "in a directory that exists"
        raise UserError(f"--out must be {rule}, got {path}")
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"--out {path} is there already; replace it with --force, or name another")


def write_table(path: Path, rows: Rows) -> None:
    """A line for each row; the columns are the keys of the first.

    Raises:
        UserError: The disk is full or failing. A table that was there is still there.
    """
    try:
        with replacing(path) as file:
            text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
            _WRITERS[path.suffix](text, rows)
            text.detach()  # flushed, and left open
    except OSError as error:
        raise UserError(f"cannot write --out {path}: {reason(error)}") from error


def _write_json_lines(file: TextIO, rows: Rows) -> None:
    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_csv(file: TextIO, rows: Rows) -> None:
    for values in (rows[0].keys(), *(row.values() for row in rows)):
        # Only what is in the line end of the writer is quoted, and readers end lines at both.
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="\r\n").writerow(values)
        file.write(line.getvalue().removesuffix("\r\n") + "\n")


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
    return re.sub("\r\n|\r|\n", "<br>", text)


_WRITERS: dict[str, Callable[[TextIO, Rows], None]] = {
    ".jsonl": _write_json_lines,
    ".csv": _write_csv,
    ".md": _write_markdown,
}
