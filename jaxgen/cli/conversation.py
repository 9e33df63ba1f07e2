"""`jaxgen generate --interactive`: prompts typed in, texts streamed back."""

import itertools
import sys
from collections.abc import Callable, Iterator

from jaxgen.errors import UserError

Stream = Callable[[str, int], Iterator[str]]


def converse(stream: Stream, seed: int) -> None:
    """Continue what is typed until the end of input; Ctrl-C ends one text, an error one line.

    Args:
        stream: `stream(text, seed)` yields what follows a text.
        seed: of the first text; each line after it has the next.
    """
    print("Type a text to continue; an empty line goes on; Ctrl-D ends.", file=sys.stderr)
    if hasattr(sys.stdin, "reconfigure"):  # a line that is not UTF-8 must not raise while read
        sys.stdin.reconfigure(errors="surrogateescape")
    text = ""
    for line_seed in itertools.count(seed):
        try:
            line = _read_line()
        except EOFError:
            print()
            return
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            continue
        text = _continued(stream, line or text, line_seed, before=text)


def _read_line() -> str:
    """A line typed in; UserError where it is not UTF-8."""
    try:
        line = input("> ")
        line.encode()
    except UnicodeError as error:
        raise UserError("the line is not UTF-8 text; type it again") from error
    return line


def _continued(stream: Stream, text: str, seed: int, before: str) -> str:
    """Print what follows a text; the text as shown, or the one before where there is an error."""
    try:
        for piece in stream(text, seed):
            print(piece, end="", flush=True)
            text += piece
    except KeyboardInterrupt:
        pass
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return before
    print()
    return text
