"""What the commands share: options, how they are shown, and how facts are printed."""

import json
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


def print_facts(facts: dict[str, Any], *, as_json: bool) -> None:
    """Print names and values, one a line; or one JSON object."""
    if as_json:
        print(json.dumps(facts, default=str))
        return
    width = max(map(len, facts))
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
