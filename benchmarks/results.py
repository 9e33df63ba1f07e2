"""The result files: rows of timings and ratios with the machine they come from.

`{"kind", "machine", "ceilings", "rows": [...], "ratios": [...]}`. A row has `suite`, `case`,
`contestant`, `seconds` (the fields of a `Spread`, per step) and whatever figures belong to it; a
ratio has `case`, `slower`, `faster` and `times` (a `Spread`). Files that pytest-benchmark wrote
are read into the same rows.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from jaxgen.errors import UserError


def write(path: Path, kind: str, **content: Any) -> None:
    """Write one result file, the machine's description with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"kind": kind, "machine": machine.description(), **content}
    path.write_text(json.dumps(data, indent=1) + "\n")


def read(path: Path) -> dict[str, Any]:
    """Read a result file, ours or pytest-benchmark's.

    Raises:
        UserError: it is missing, empty, no JSON, or no result file.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"result file {path} cannot be read: {error}") from error
    if not text.strip():
        raise UserError(f"result file {path} is empty; measure it again, or delete it")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"result file {path} is not JSON: {error}; measure it again") from error
    try:
        if "benchmarks" in data:
            return _from_pytest(data)
        if isinstance(data["kind"], str) and isinstance(data["machine"], dict):
            return data
    except (KeyError, TypeError):
        pass
    raise UserError(
        f"{path} is not a result file: it needs `kind` and `machine`, or `benchmarks` as "
        "pytest-benchmark writes them"
    )


def _from_pytest(data: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for entry in data["benchmarks"]:
        stats, info = entry["stats"], dict(entry["extra_info"])
        units = info.pop("units", 1) * info.pop("steps_per_unit", 1)
        names = {"median": "median", "lower": "q1", "upper": "q3", "minimum": "min"}
        seconds = {ours: stats[theirs] / units for ours, theirs in names.items()}
        seconds |= {"maximum": stats["max"] / units, "count": stats["rounds"]}
        rows.append({"case": entry["name"], "contestant": "jaxgen", **info, "seconds": seconds})
    own = data.get("machine_info", {})
    return {
        "kind": "suite",
        "machine": own.get("jaxgen_machine", {}),
        "ceilings": own.get("jaxgen_ceilings", {}),
        "rows": rows,
        "ratios": [],
    }


def row_name(row: dict[str, Any]) -> str:
    """What identifies a row from one file to another."""
    return " | ".join(str(row.get(key, "")) for key in ("suite", "case", "contestant"))


def table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table whose columns line up in a terminal too; numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(headers), *cells]) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = [("-" * width if i == 0 else "-" * (width - 1) + ":") for i, width in enumerate(widths)]
    return "\n".join([line(headers), line(rule), *[line(row) for row in cells]])
