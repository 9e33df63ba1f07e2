"""The one exception that means "the input is wrong", as opposed to "jaxgen is wrong"."""


class UserError(ValueError):
    """Bad input. The message names the thing, the rule, the value and the way out.

    The command line prints the message without a traceback and exits with code 2.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its class's name where it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
