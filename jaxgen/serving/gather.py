"""Requests that wait at the same time become one batch; one thread runs one batch after another."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from jaxgen.serving.requests import Full

WINDOW = 0.002
"""Seconds that a batch which is not full waits for others to join."""

Run = Callable[[Any, list[Any]], Sequence[Any]]
"""`run(settings, items)`: an answer for each item, in their order; called in the thread."""


@dataclass(eq=False)
class _Waiting:
    """The items of one request."""

    settings: Hashable
    items: Sequence[Any]
    future: "asyncio.Future[list[Any]]"
    begun: int = 0
    """So many are in a batch, or answered."""
    answers: list[Any] = field(default_factory=list)

    @property
    def left(self) -> int:
        """Items that no batch has taken."""
        return len(self.items) - self.begun


class Gatherer:
    """Answers the items of many requests in shared batches.

    A batch holds items of one kind of settings, shared out evenly among the requests that wait, so
    that a request of thousands of texts delays one of a single text by a batch and no more. While a
    batch runs, the next one gathers: the busier the server, the fuller the batches.
    """

    def __init__(
        self, run: Run, *, most: int, queue: int, window: float = WINDOW, name: str = "model"
    ) -> None:
        """Gather batches for `run`.

        Args:
            run: what answers a batch. It runs in one thread, which nothing else uses.
            most: items of a batch.
            queue: items that wait, over all requests; more are refused with `Full`.
            window: seconds that a batch which is not full waits for more.
            name: of the thread.
        """
        self._run, self._most, self._queue, self._window = run, most, queue, window
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self.batches = self.answered = 0
        """Batches run and items answered since the start."""

    @property
    def waiting(self) -> int:
        """Items that no batch has taken yet."""
        return sum(one.left for one in self._waiting)

    async def submit(self, items: Sequence[Any], settings: Hashable = None) -> list[Any]:
        """Answers for some items, in their order.

        Args:
            items: at least one.
            settings: what `run` is handed; only items with equal settings share a batch.

        Raises:
            Full: too many wait already.
        """
        if self.waiting + len(items) > self._queue:
            raise Full(f"{self.waiting:,} texts wait already", retry_after=1)
        loop = asyncio.get_running_loop()
        one = _Waiting(settings, items, loop.create_future())
        self._waiting.append(one)
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        try:
            return await one.future
        finally:  # a client that left waits no more
            if one in self._waiting:
                self._waiting.remove(one)

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run something else in the thread, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, function, *arguments)

    def close(self) -> None:
        """Let the thread end; what waits is not answered."""
        self.thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        """Run batches until nothing waits."""
        while self._waiting:
            if self.waiting < self._most:
                await asyncio.sleep(self._window)
            if taken := self._take():
                await self._answer(taken)
        self._worker = None

    def _take(self) -> list[tuple[_Waiting, Sequence[Any]]]:
        """The next batch: of each request with the settings of the first its share."""
        if not self._waiting:
            return []
        settings = self._waiting[0].settings
        same = [one for one in self._waiting if one.settings == settings]
        same = sorted(same[: self._most], key=lambda one: one.left)
        taken, room = [], self._most
        for number, one in enumerate(same):
            share = min(one.left, room // (len(same) - number))
            taken.append((one, one.items[one.begun : one.begun + share]))
            one.begun += share
            room -= share
            self._waiting.remove(one)
            if one.left:
                self._waiting.append(one)  # behind those that have had nothing yet
        return taken

    async def _answer(self, taken: list[tuple[_Waiting, Sequence[Any]]]) -> None:
        items = [item for _, some in taken for item in some]
        try:
            found = list(await self.call(self._run, taken[0][0].settings, items))
        except Exception as error:
            for one, _ in taken:
                if not one.future.done():
                    one.future.set_exception(error)
            return
        self.batches += 1
        self.answered += len(items)
        at = 0
        for one, some in taken:
            one.answers += found[at : at + len(some)]
            at += len(some)
            if len(one.answers) == len(one.items) and not one.future.done():
                one.future.set_result(one.answers)
