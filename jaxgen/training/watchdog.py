"""A bound on every wait for another process: without one, a process that hangs hangs all others."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

BAD_INPUT = 2
"""Exit code of the command line where only the user can help."""
TRY_AGAIN = 75
"""Exit code where another process was lost or did not come: the same command can go on. (EX_TEMPFAIL
of sysexits.h.)"""


class Watchdog:
    """A thread that ends this process with an error once a wait takes too long.

    A collective that waits for a lost process runs outside Python: nothing can be raised in it.
    """

    def __init__(self, poll: Callable[[], tuple[str, int] | None] = lambda: None) -> None:
        """Begin to watch.

        Args:
            poll: Asked about once a second; gives an error and an exit code to end with, or None.
        """
        self._poll = poll
        self._waits: tuple[float, str] | None = None
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    @contextmanager
    def waiting(self, seconds: float, error: str) -> Iterator[None]:
        """Let the block take so many seconds, or end the process with this error."""
        outer = self._waits
        self._waits = (time.monotonic() + seconds, error)
        try:
            yield
        finally:
            self._waits = outer

    def _watch(self) -> None:
        while True:
            time.sleep(0.5)
            waits = self._waits
            if waits is not None and time.monotonic() > waits[0]:
                end_now(waits[1], TRY_AGAIN)
            found = self._poll()
            if found is not None:
                end_now(*found)


def end_now(error: str, code: int) -> NoReturn:
    """End the process at once: an orderly end would wait for the others."""
    with suppress(OSError, ValueError):
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(code)
