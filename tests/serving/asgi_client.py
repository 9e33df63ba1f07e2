"""Requests to an application in this process, also by clients that leave."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Message, Scope


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[Any]:
        """The events of a stream; the last one is the text `[DONE]`."""
        parts = self.body.decode().removesuffix("\n\n").split("\n\n")
        data = [part.removeprefix("data: ") for part in parts]
        return [json.loads(part) for part in data[:-1]] + [data[-1]]


def _scope(method: str, path: str, headers: dict[str, str]) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }


async def send(
    app: ASGIApp,
    path: str,
    body: Any = None,
    *,
    method: str | None = None,
    headers: dict[str, str] | None = None,
    leave: Callable[[list[Message]], bool] | None = None,
    unfinished: bool = False,
) -> Answer:
    """Ask and wait for the answer.

    Args:
        app: whom.
        path: what.
        body: bytes, or a value to be sent as JSON.
        method: POST with a body, else GET.
        headers: further ones.
        unfinished: whether the end of the body never comes.
        leave: given what has been sent so far, whether the client now closes its connection.
    """
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent: list[Message] = []
    left = asyncio.Event()
    content = raw if body is not None else b""
    requests: list[Message] = [
        {"type": "http.request", "body": content, "more_body": unfinished},
    ]

    async def receive() -> Message:
        if requests:
            return requests.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def take(message: Message) -> None:
        sent.append(message)
        if leave is not None and leave(sent):
            left.set()
        await asyncio.sleep(0)

    method = method or ("GET" if body is None else "POST")
    every = {"Content-Type": "application/json", **(headers or {})}
    if leave is not None and leave(sent):
        left.set()
    await app(_scope(method, path, every), receive, take)
    start = sent[0]
    named = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], named, b"".join(m.get("body", b"") for m in sent[1:]))


def ask(app: ASGIApp, path: str, body: Any = None, **options: Any) -> Answer:
    """`send`, from where nothing else runs."""
    return asyncio.run(send(app, path, body, **options))
