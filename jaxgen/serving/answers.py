"""`TextAnswer`: the chunks of one text, carried from the engine's thread to an event loop."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from jaxgen.serving.requests import Chunk

Item = Chunk | BaseException
"""A chunk, or what ended the answer."""


class TextAnswer:
    """See `jaxgen.serving.requests.Answer`."""

    def __init__(self, cancel: Callable[[], None]):
        """An answer to whoever runs the current event loop; `cancel` frees its slot."""
        self.loop = asyncio.get_running_loop()
        self._cancel = cancel
        self._items: deque[Item] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False

    def __aiter__(self) -> Self:
        """Itself."""
        return self

    async def __anext__(self) -> Chunk:
        """The next chunk; see `Answer`."""
        while not self._items:
            if self._ended:
                raise StopAsyncIteration
            self._waiter = self.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        item = self._items.popleft()
        if isinstance(item, BaseException):
            raise item
        return item

    async def aclose(self) -> None:
        """Free the slot; any number of times."""
        if not self._ended:
            self._ended = True
            self._cancel()
        self._items.clear()

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """`aclose`."""
        await self.aclose()

    def take(self, item: Item) -> None:
        """One item more, in the thread of the loop."""
        if self._ended:
            return
        self._items.append(item)
        self._ended = isinstance(item, BaseException) or item.finish_reason is not None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Mail:
    """Items on their way to answers: each event loop is woken once for many of them."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._items: dict[asyncio.AbstractEventLoop, list[tuple[TextAnswer, Item]]]
        self._items = defaultdict(list)

    def put(self, answer: TextAnswer, item: Item) -> None:
        """Something for an answer."""
        self._items[answer.loop].append((answer, item))

    def send(self) -> None:
        """Hand all over."""
        for loop, items in self._items.items():
            try:
                loop.call_soon_threadsafe(_take_all, items)
            except RuntimeError:  # the loop is closed: nobody waits any more
                continue
        self._items.clear()


def _take_all(items: list[tuple[TextAnswer, Item]]) -> None:
    for answer, item in items:
        answer.take(item)
