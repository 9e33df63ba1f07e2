"""Reading run.json and seeds.json, the indexes of runs, checked and in the present format."""

import json
from pathlib import Path
from typing import Any

from jaxgen.directories import SEEDS_INDEX
from jaxgen.errors import UserError
from jaxgen.files import reason

FORMAT = 2
"""Version of the layout of run directories. Older jaxgen refuses newer runs by it."""


def read_index(path: Path) -> dict[str, Any]:
    """Read run.json or seeds.json.

    Raises:
        UserError: It is damaged, or of a newer format.
    """
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        version = int(index["format"])
        if version <= FORMAT:
            _check_index(index, of_seeds=path.name == SEEDS_INDEX)
            index = migrated(index)
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {error!r}") from error
    if version > FORMAT:
        raise UserError(
            f"{path.parent} has run format {version}, newer than the {FORMAT} that this jaxgen "
            "reads; upgrade jaxgen"
        )
    return index


def _check_index(index: dict[str, Any], *, of_seeds: bool) -> None:
    """ValueError, KeyError or TypeError where an index lacks what it must have."""
    if of_seeds:
        if not index["seeds"] or any(type(seed) is not int for seed in index["seeds"]):
            raise ValueError("`seeds` must be a list of integers")
        return
    if not isinstance(index["notes"], dict):
        raise TypeError("`notes` must be an object")
    for name in ("last", "best"):
        entry = index["last"] if name == "last" else index.get(name)
        if entry is None:
            continue
        kinds = {"step": int, "directory": str, "files": dict}
        kinds |= {"progress": dict, "metrics_bytes": int} if name == "last" else {}
        for key, kind in kinds.items():
            if not isinstance(entry[key], kind):
                raise TypeError(f"`{name}.{key}` must be {kind.__name__}, got {entry[key]!r}")
        for size, checksum in entry["files"].values():
            if not isinstance(size, int) or not isinstance(checksum, int):
                raise TypeError(f"`{name}.files` must be sizes and checksums")


def migrated(index: dict[str, Any]) -> dict[str, Any]:
    """An index that an earlier version wrote, in the present format.

    Format 1 knew language models only: its unfinished row of metrics was a list of four numbers.
    """
    if index["format"] == 1:
        _from_format_1(index)
        for run in index.get("runs") or ():
            _from_format_1(run)
    return index


def _from_format_1(index: dict[str, Any]) -> None:
    index["format"] = 2
    if "notes" in index:
        index["notes"].setdefault("files", ["tokenizer.json"])
    if index.get("last"):
        progress = index["last"]["progress"]
        nll, tokens, grad_norm, steps = progress["row"]
        row = {"sums": {"nll": [nll, tokens]}, "grad_norm": grad_norm, "steps": int(steps)}
        progress["row"] = row
