"""What the commands' options share: how they are shown, and those that several have."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import DisallowNone, FlagCreatePairsOff, Positional, arg


def default(shown: str) -> str:
    """The remark after an option's help; what is off or not set needs none."""
    return "" if shown in ("None", "False", "") else f"(default: {shown})"


said = arg(help_behavior_hint=default)
Flag = Annotated[bool, FlagCreatePairsOff, said]
RunArgument = Positional[Annotated[Path, arg(metavar="RUN", help_behavior_hint="")]]
Checkpoint = Annotated[Literal["best", "last"] | None, DisallowNone, said]
