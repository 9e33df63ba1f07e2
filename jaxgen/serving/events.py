"""Server-sent events that stop with their client, and tell faults in mid-stream."""

from collections.abc import AsyncGenerator
from typing import Any

from fastapi.responses import Response
from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from jaxgen.errors import UserError
from jaxgen.serving.problems import Problem, internal_problem, log_fault, problem_of
from jaxgen.serving.requests import StoppedError
from jaxgen.serving.service import ClientLeft, Service

DONE = b"data: [DONE]\n\n"


def event(data: Any) -> bytes:
    """One event with a JSON value."""
    return b"data: " + to_json(data, inf_nan_mode="null") + b"\n\n"


class EventStream(Response):
    """A stream of events, with `[DONE]` as the last.

    A fault in mid-stream is an event with `error`, as OpenAI's API has it. When the client leaves,
    the iterator is closed, and with it what it waits for.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[Any, None], service: Service):
        """Send JSON values as they come."""
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._service = events, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        try:
            await self._service.finish(self._send(send), receive)
        except ClientLeft:
            return
        except Exception as error:
            await _write(send, event({"error": _problem(error).error()}))
        await send({"type": "http.response.body", "body": DONE, "more_body": False})

    async def _send(self, send: Send) -> None:
        try:
            async for data in self._events:
                await _write(send, event(data))
        finally:
            await self._events.aclose()


async def _write(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


def _problem(error: Exception) -> Problem:
    """What the client is told of a fault."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, UserError):
        return problem_of(error)
    if isinstance(error, StoppedError):
        return Problem(503, "the server stopped before the text was whole; ask again")
    log_fault(error)
    return internal_problem()
