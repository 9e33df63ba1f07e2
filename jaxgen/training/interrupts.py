"""Ctrl-C and SIGTERM as a flag that the training loop reads between two dispatches."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Within the block, a first Ctrl-C or SIGTERM sets a flag; a second raises KeyboardInterrupt.

    Yields:
        A function that returns the flag. Signals reach only the main thread: in another thread it
        always returns False.
    """
    hits: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        hits.append(number)
        if len(hits) > 1:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    old = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(hits)
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
