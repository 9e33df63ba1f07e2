"""The command line: `jaxgen train`, `generate`, `evaluate`, `info` and `export`.

Each command is a dataclass whose fields are its options. JAX and what needs it are imported when a
command runs, so that help and errors in the options come at once.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand

from jaxgen.cli.arguments import check_arguments
from jaxgen.cli.generate import Generate
from jaxgen.cli.models import Evaluate, Export, Info
from jaxgen.cli.train import Train
from jaxgen.errors import UserError

ERROR, INTERRUPTED = 2, 130

_COMMANDS: dict[str, type] = {
    "train": Train,
    "generate": Generate,
    "evaluate": Evaluate,
    "info": Info,
    "export": Export,
}
Command = (
    Annotated[Train, subcommand("train")]
    | Annotated[Generate, subcommand("generate")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Info, subcommand("info")]
    | Annotated[Export, subcommand("export")]
)


def _keep_compiled_programs() -> None:
    """Let a command read back what an earlier one compiled (JAX reads these when imported)."""
    if "jax" not in sys.modules:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(home, "jaxgen", "programs")))
        os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**30))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What follows `jaxgen`; None takes the process's own.

    Returns:
        Exit code: 0, 2 for bad input, 130 after Ctrl-C.
    """
    args = list(sys.argv[1:] if arguments is None else arguments)
    _keep_compiled_programs()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            if args and args[0] in _COMMANDS:
                check_arguments(args[1:], _COMMANDS[args[0]])
            command: Any = (
                Train.parse(args[1:])
                if args[:1] == ["train"]
                else tyro.cli(
                    Command,
                    prog="jaxgen",
                    description="LSTM language models: from a corpus to text.",
                    args=args,
                )
            )
            command()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return ERROR
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:  # the reader of our output has left
            sys.stdout = None
            return 0
    return 0


def _show_warning(message: Warning | str, *rest: Any, **more: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)
