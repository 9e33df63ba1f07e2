"""Indexes of runs that earlier versions wrote, brought up to the present format.

Format 1 knew language models only: its unfinished row of metrics was a list of four numbers.
"""

from typing import Any

FORMAT = 2
"""Version of the layout of a run directory. An older jaxgen refuses newer runs by it."""


def migrated(index: dict[str, Any]) -> dict[str, Any]:
    """What run.json or seeds.json holds, in the present format."""
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
        row = {"sums": {"nll": [nll, tokens]}, "grad_norm": grad_norm, "steps": steps}
        progress["row"] = row
