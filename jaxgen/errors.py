"""The one exception that means "the input is wrong", and what messages are made of."""

from collections.abc import Iterable


class UserError(ValueError):
    """Bad input. The message names the thing, the rule, the value and the way out.

    The command line prints the message without a traceback and exits with code 2.
    """


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line: its first, or else its type."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def closest(wanted: str, known: Iterable[str]) -> str | None:
    """The known name that `wanted` is most likely a misspelling of, if any is close."""
    import difflib

    spelled = {name.lower(): name for name in known}
    close = difflib.get_close_matches(wanted.lower(), list(spelled), n=1)
    return spelled[close[0]] if close else None


def nearest(wanted: str, known: Iterable[str]) -> str:
    """A question to put after a name that is not known; empty where no known name is close."""
    close = closest(wanted, known)
    return f", did you mean `{close}`?" if close else ""
