"""Prompts of a command: from a file or standard input, and with escapes for new lines."""

import re
import sys
from pathlib import Path

from jaxgen.errors import UserError

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}


def read_prompt(path: Path) -> str:
    """The text of a file, or of standard input for `-`, without its last line end.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    standard = str(path) == "-"
    name = "standard input" if standard else str(path)
    try:
        content = sys.stdin.buffer.read() if standard else path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read --prompt-file {name}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"--prompt-file {name} must be UTF-8 text, and its byte {error.start} is not; "
            "convert it first"
        ) from error
    return text.removesuffix("\n").removesuffix("\r")


def unescape(text: str) -> str:
    r"""Text with `\n`, `\r`, `\t` and `\\` as what they stand for; other backslashes stay."""
    return re.sub(r"\\([nrt\\])", lambda found: _ESCAPES[found[1]], text)
