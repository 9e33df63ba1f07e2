"""Requests that wait at the same time become one batch; one thread runs one batch after another."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from jaxgen.serving.requests import FullError, StoppedError

WINDOW = 0.002
"""Seconds that a batch which is not full waits for others to join."""


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

    def fail(self, error: Exception) -> None:
        """Answer with an error."""
        if not self.future.done():
            self.future.set_exception(error)


class Gatherer(ABC):
    """Answers the items of many requests in shared batches.

    A batch holds items of one kind of settings, shared out evenly among the requests that wait, so
    that a request of thousands of texts delays one of a single text by a batch and no more. While a
    batch runs, the next one gathers: the busier the server, the fuller the batches.

    It starts and stops as the `Engine` of a language model does.
    """

    def __init__(self, *, most: int, queue: int, window: float = WINDOW) -> None:
        """Gather batches.

        Args:
            most: items of a batch.
            queue: items that wait, over all requests; more are refused.
            window: seconds that a batch which is not full waits for more.
        """
        self._most, self._queue, self._window = most, queue, window
        self._waiting: list[_Waiting] = []
        self.waiting = 0
        """Items that no batch has taken yet."""
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=type(self).__name__)
        self._stopped = self.ready = False
        self.failure: BaseException | None = None
        """What went wrong when programs were compiled, if anything."""
        self.batches = self.answered = 0
        """Batches run and items answered since the start."""

    @abstractmethod
    def run(self, settings: Any, items: list[Any]) -> Sequence[Any]:
        """An answer for each item, in their order; called in the thread, as nothing else is."""

    @abstractmethod
    def warm_up(self) -> None:
        """Compile what requests need; called in the thread before the first batch."""

    def start(self) -> None:
        """Compile, and be ready then; returns at once. Requests may wait already."""

        def warm_up() -> None:
            try:
                self.warm_up()
                self.ready = True
            except Exception as error:
                self.failure = error

        self._thread.submit(warm_up)

    async def stop(self, grace: float = 30.0) -> None:
        """Take no more requests, answer those there are within `grace` seconds, refuse the rest."""
        self._stopped = True
        if self._worker is not None:
            await asyncio.wait({self._worker}, timeout=grace)
        for one in self._waiting:
            one.fail(StoppedError("the server stopped before the answer was whole"))
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def submit(self, items: Sequence[Any], settings: Hashable = None) -> list[Any]:
        """Answers for some items, in their order.

        Args:
            items: at least one.
            settings: what `run` is handed; only items with equal settings share a batch.

        Raises:
            FullError: too many wait already.
            StoppedError: nothing more is answered.
        """
        if self._stopped or self.failure is not None:
            raise StoppedError("the model answers no more requests")
        if self.waiting + len(items) > self._queue:
            raise FullError(
                f"{self.waiting:,} texts wait already; at most {self._queue:,} may", 1.0
            )
        loop = asyncio.get_running_loop()
        one = _Waiting(settings, items, loop.create_future())
        self._waiting.append(one)
        self.waiting += len(items)
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        try:
            return await one.future
        finally:  # a client that left waits no more
            if one in self._waiting:
                self._waiting.remove(one)
                self.waiting -= one.left

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run something else in the thread, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

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
            self.waiting -= share
            room -= share
            self._waiting.remove(one)
            if one.left:
                self._waiting.append(one)  # behind those that have had nothing yet
        return taken

    async def _answer(self, taken: list[tuple[_Waiting, Sequence[Any]]]) -> None:
        items = [item for _, some in taken for item in some]
        try:
            found = list(await self.call(self.run, taken[0][0].settings, items))
        except Exception as error:
            for one, _ in taken:
                one.fail(error)
            return
        self.batches += 1
        self.answered += len(items)
        at = 0
        for one, some in taken:
            one.answers += found[at : at + len(some)]
            at += len(some)
            if len(one.answers) == len(one.items) and not one.future.done():
                one.future.set_result(one.answers)
