"""The command `jaxgen`, also as `python -m jaxgen`: Ctrl-C ends it quietly from the first moment.

Nothing that takes time is imported before Ctrl-C is taken care of.
"""

import os
import sys

INTERRUPTED = 130
try:
    import signal
    from types import FrameType
except KeyboardInterrupt:
    os._exit(INTERRUPTED)


def main() -> int:
    """Run the command in the process's arguments.

    Returns:
        Exit code, see `jaxgen.cli.main`.
    """
    # A job in the background ignores Ctrl-C; it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        from jaxgen.cli import main as run

        return run()
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        if signal.getsignal(signal.SIGINT) is _interrupt:  # while Python shuts down
            signal.signal(signal.SIGINT, _leave)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End at once during an import, where compiled modules make an ImportError of an interrupt."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            _leave(number, frame)
        frame = frame.f_back
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
