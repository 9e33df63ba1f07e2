"""Several streams as one, in the order in which things come."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any

_END = object()


async def merged(answers: Sequence[Any]) -> AsyncGenerator[tuple[int, Any], None]:
    """What each of some streams gives, with its place among them.

    The first fault ends all. Leaving this closes every stream.

    Args:
        answers: asynchronous iterators with `aclose`.
    """
    if len(answers) == 1:  # the usual case costs no tasks
        try:
            async for chunk in answers[0]:
                yield 0, chunk
        finally:
            await answers[0].aclose()
        return
    queue: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
    tasks = [asyncio.ensure_future(_pump(queue, place, it)) for place, it in enumerate(answers)]
    try:
        left = len(tasks)
        while left:
            place, chunk = await queue.get()
            if isinstance(chunk, BaseException):
                raise chunk
            if chunk is _END:
                left -= 1
            else:
                yield place, chunk
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        for answer in answers:
            await answer.aclose()


async def _pump(queue: asyncio.Queue, place: int, answer: Any) -> None:
    """Put what a stream gives into the queue; its end, or its fault, as the last."""
    try:
        async for chunk in answer:
            queue.put_nowait((place, chunk))
    except Exception as error:
        queue.put_nowait((place, error))
    else:
        queue.put_nowait((place, _END))
