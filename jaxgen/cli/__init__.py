"""The command line: `jaxgen train`, `tune`, `generate`, `predict`, `translate`, `serve` and others.

Each command is a dataclass whose fields are its options. JAX and what needs it are imported when a
command runs, so that help and errors in the options come at once.
"""

import io
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand

from jaxgen.cli.arguments import check_arguments
from jaxgen.cli.generate import Generate
from jaxgen.cli.models import Evaluate, Export, Info
from jaxgen.cli.predict import Predict
from jaxgen.cli.serve import Serve
from jaxgen.cli.train import Train, parse_train
from jaxgen.cli.translate import Translate
from jaxgen.cli.tune import Tune, parse_tune
from jaxgen.errors import UserError, first_line
from jaxgen.files import reason

ERROR, INTERRUPTED = 2, 130

_PARSERS = {"train": parse_train, "tune": parse_tune}
"""Commands whose options are those of a task."""
_COMMANDS: dict[str, type] = {  # the others
    "generate": Generate,
    "predict": Predict,
    "translate": Translate,
    "evaluate": Evaluate,
    "serve": Serve,
    "info": Info,
    "export": Export,
}
Command = (
    Annotated[Train, subcommand("train")]
    | Annotated[Tune, subcommand("tune")]
    | Annotated[Generate, subcommand("generate")]
    | Annotated[Predict, subcommand("predict")]
    | Annotated[Translate, subcommand("translate")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Serve, subcommand("serve")]
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
        Exit code: 0, 2 for bad input or a failing disk, 130 after Ctrl-C.
    """
    args = list(sys.argv[1:] if arguments is None else arguments)
    _keep_compiled_programs()
    _escape_what_output_cannot_say()
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            _check_text(args)
            _run(args)
            _flush_output()
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:  # the reader of our output has left
            sys.stdout = None
            return 0
        except Exception as error:
            message = _explanation(error)
            if message is None:
                raise
            with suppress(OSError):  # standard error may lie on the full disk too
                print(f"error: {message}", file=sys.stderr)
            return ERROR
    return 0


def _run(args: list[str]) -> None:
    """Read the options and run the command."""
    if args and args[0] in _COMMANDS:
        check_arguments(args[1:], _COMMANDS[args[0]])
    command: Any = (
        _PARSERS[args[0]](args[1:])
        if args and args[0] in _PARSERS
        else tyro.cli(
            Command,
            prog="jaxgen",
            description="LSTM models that write, classify or translate: trained, used, measured.",
            args=args,
        )
    )
    command()


def _explanation(error: Exception) -> str | None:
    """What to tell the user; None where jaxgen itself is at fault and the traceback helps."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        where = "cannot write to standard output, or a file"
        return f"{where if error.filename is None else error.filename}: {error.strerror}"
    # The class of JAX's errors has had several names.
    if isinstance(error, MemoryError) or str(error).startswith("RESOURCE_EXHAUSTED"):
        return (
            f"out of memory: {first_line(error)}; lower `training.batch_size`, "
            "`training.sequence_length` or `model.hidden_size`, or the number of texts"
        )
    return None


def _check_text(args: Sequence[str]) -> None:
    """UserError where an argument is not text: no file of settings could keep it."""
    for argument in args:
        try:
            argument.encode()
        except UnicodeEncodeError:
            shown = ascii(os.fsencode(argument))[2:-1]
            raise UserError(
                f"the argument `{shown}` is not text in {sys.getfilesystemencoding()}; encode it "
                "so, or rename the file"
            ) from None


def _escape_what_output_cannot_say() -> None:
    """Print characters that the terminal or file cannot take as escapes, as errors are."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _flush_output() -> None:
    """Write what is printed now, where a full disk can still be told."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stdout = None  # or Python tries again when it ends
        raise UserError(f"cannot write to standard output: {reason(error)}") from error


def _show_warning(message: Warning | str, *rest: Any, **more: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)
