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
"""Exit code where a process was lost or did not come, and another start can go on: EX_TEMPFAIL of
sysexits.h."""
SECONDS = 1.0
"""Between two looks at the clock and at the other processes."""


class Watchdog:
    """Threads that end this process with an error once a wait takes too long, or another failed.

    A collective that waits for a lost process runs outside Python: nothing can be raised in it.
    """

    def __init__(self, poll: Callable[[], tuple[str, int] | None], tell: Callable) -> None:
        """Begin to watch.

        Args:
            poll: Called about once a second; gives an error and an exit code to end with, or None.
                It may take long: waits are watched meanwhile.
            tell: Called with an error and an exit code before the process ends.
        """
        self._poll, self._tell = poll, tell
        self._waits: tuple[float, str] | None = None
        for watch in (self._watch_waits, self._watch_others):
            threading.Thread(target=watch, daemon=True, name="jaxgen watchdog").start()

    @contextmanager
    def waiting(self, seconds: float, error: str) -> Iterator[None]:
        """Let the block take so many seconds, or end the process with this error."""
        self._waits = (time.monotonic() + seconds, error)
        try:
            yield
        finally:
            self._waits = None

    def _watch_waits(self) -> None:
        while True:
            time.sleep(SECONDS / 2)
            waits = self._waits
            if waits is not None and time.monotonic() > waits[0]:
                self._end(waits[1], TRY_AGAIN)

    def _watch_others(self) -> None:
        while True:
            time.sleep(SECONDS)
            found = self._poll()
            if found is not None:
                self._end(*found)

    def _end(self, error: str, code: int) -> NoReturn:
        with suppress(Exception):
            self._tell(error, code)
        end_now(error, code)


def end_now(error: str, code: int) -> NoReturn:
    """End the process at once: an orderly end would wait for the others."""
    with suppress(OSError, ValueError):
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(code)
