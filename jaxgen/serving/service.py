"""What the endpoints share: models, options, and requests that end when their client leaves."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request
from starlette.types import Receive

from jaxgen.serving.metrics import Metrics
from jaxgen.serving.models import Models
from jaxgen.serving.options import ServeOptions
from jaxgen.serving.problems import Problem

Result = TypeVar("Result")


class ClientLeft(Exception):  # noqa: N818
    """The client has closed its connection; there is nobody to answer."""


@dataclass
class Service:
    """One server process."""

    models: Models
    options: ServeOptions
    metrics: Metrics
    stopping: bool = False
    """Told to stop: what is in flight may finish, nothing new begins."""
    compiles_at_end: bool = False
    """An engine was compiling when the application ended."""
    given_up: bool = False
    """What was in flight has had its time."""
    _in_flight: set["asyncio.Future[None]"] = field(default_factory=set)

    def check_running(self) -> None:
        """Problem 503 once the server stops."""
        if self.stopping:
            raise Problem(503, "the server is stopping; ask another", headers={"Retry-After": "1"})

    def stop_within(self, seconds: float) -> None:
        """Begin nothing new, and refuse what has not finished after so many seconds."""
        self.stopping = True
        asyncio.get_running_loop().call_later(seconds, self.give_up)

    def give_up(self) -> None:
        """Refuse what is still in flight: it has had its time."""
        self.stopping = self.given_up = True
        for stopped in self._in_flight:
            if not stopped.done():
                stopped.set_result(None)

    async def finish(self, work: Coroutine[Any, Any, Result], receive: Receive) -> Result:
        """The result of some work, for as long as its client waits.

        The work is cancelled, and has ended, before this raises.

        Args:
            work: what to do.
            receive: of the request, whose body has been read.

        Raises:
            ClientLeft: the client did.
            Problem: 504 where it took longer than `request_timeout`, 503 where the server stops.
        """
        working = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_gone(receive))
        stopped = asyncio.get_running_loop().create_future()
        self._in_flight.add(stopped)
        if self.given_up:
            stopped.set_result(None)
        limit = self.options.request_timeout
        try:
            await asyncio.wait(
                {working, gone, stopped}, timeout=limit, return_when=asyncio.FIRST_COMPLETED
            )
            if working.done():
                return working.result()
            if gone.done():
                raise ClientLeft
            if stopped.done():
                raise Problem(503, "the server stopped before the answer was whole; ask again")
            raise Problem(504, f"the answer took longer than {limit:g} seconds; ask for less")
        finally:
            self._in_flight.discard(stopped)
            gone.cancel()
            if not working.done():
                working.cancel()
                await asyncio.wait({working})
                if not working.cancelled():
                    working.exception()  # of a fault while it ended nobody wants to know


async def _gone(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _service(request: Request) -> Service:  # what is not async would run in a thread
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(_service)]
"""Type of an endpoint's argument: the service."""
