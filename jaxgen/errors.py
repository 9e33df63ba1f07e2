"""The one exception that means "the input is wrong", as opposed to "jaxgen is wrong"."""


class UserError(ValueError):
    """Bad input. The message names the thing, the rule, the value and the way out.

    The command line prints the message without a traceback and exits with code 2.
    """
