"""Ctrl-C as a wish to stop, not as a blow."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Within, Ctrl-C and SIGTERM set a flag that the function given says; a second one raises.

    Signals reach only the main thread: elsewhere the function always says False.
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
