"""What the commands share: options, how they are shown, and how facts are printed."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import DisallowNone, FlagCreatePairsOff, Positional, arg


def default(shown: str) -> str:
    """The remark after an option's help; what is off or not set needs none."""
    return "" if shown in ("None", "False", "") else f"(default: {shown})"


said = arg(help_behavior_hint=default)
Flag = Annotated[bool, FlagCreatePairsOff, said]
RunArgument = Positional[Annotated[Path, arg(metavar="RUN", help_behavior_hint="")]]
Checkpoint = Annotated[Literal["best", "last"] | None, DisallowNone, said]


def note_full_cost(step_fn: Any, given: Sequence[str]) -> None:
    """Say on standard error where options make an adaptive output score all tokens at each step."""
    if given and getattr(step_fn, "head_first", None) is not None:
        print(
            f"note: {', '.join(given)} needs the scores of all tokens at every step, so that "
            "this model's adaptive output takes about as long as a full one",
            file=sys.stderr,
        )


def print_facts(facts: dict[str, Any], *, as_json: bool) -> None:
    """Print names and values, one a line; or one JSON object."""
    if as_json:
        print(json.dumps(facts, default=str))
        return
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{name}:")
            indent = " " * (len(name) - len(name.lstrip()) + 2)
            print_facts({indent + key: item for key, item in value.items()}, as_json=False)
        elif value is not None:
            if isinstance(value, float):
                value = f"{value:.6g}"
            elif type(value) is int:
                value = f"{value:,}"
            elif isinstance(value, tuple | list):
                value = ", ".join(map(str, value))
            print(f"{name:{width}}  {value}")
