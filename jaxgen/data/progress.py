"""Plain lines on standard error about work that takes long."""

import sys
import time

_FIRST_SECONDS = 3.0
_EVERY_SECONDS = 5.0


class Progress:
    """Says now and then how far some work is; nothing where it is done within seconds."""

    def __init__(self, work: str):
        """Start the clock of `work`, named as in "encoding a.txt"."""
        self._work = work
        self._start = time.monotonic()
        self._next = self._start + _FIRST_SECONDS

    def say(self, done: str) -> None:
        """Print how far the work is, unless that was said a moment ago."""
        now = time.monotonic()
        if now < self._next or sys.stderr is None:
            return
        self._next = now + _EVERY_SECONDS
        print(f"{self._work}: {done}, {now - self._start:.0f} s", file=sys.stderr, flush=True)
