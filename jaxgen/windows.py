"""Consecutive items of a source that may be slow or without end, so many at a time."""

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

WINDOW = 4096
"""Texts of a stream that are held, sorted by length and read together."""
WINDOW_CHARACTERS = 1 << 24
"""A window ends earlier where its texts have so many characters."""


def windows(
    texts: Iterable[T], size: int = WINDOW, max_wait: float | None = None
) -> Iterator[list[T]]:
    """Consecutive texts, so many at a time, read no earlier than they are asked for.

    Args:
        texts: any number.
        size: texts of a window; fewer where they are long.
        max_wait: seconds after which a window ends with the text that comes next, so that a slow
            source is answered text by text.
    """
    window: list[T] = []
    characters, start = 0, time.monotonic()
    for text in texts:
        window.append(text)
        characters += len(text) if isinstance(text, str) else 0
        late = max_wait is not None and time.monotonic() - start > max_wait
        if len(window) >= size or characters >= WINDOW_CHARACTERS or late:
            yield window
            window, characters, start = [], 0, time.monotonic()
    if window:
        yield window
