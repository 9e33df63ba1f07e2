"""Clients of a completions service, made cheap so that they take little from the server's cores."""

import asyncio
import dataclasses
import json
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

NAME = "model"
"""What the server calls the model that is measured."""


@dataclasses.dataclass(frozen=True)
class Streamed:
    """What one client saw of its request.

    Attributes:
        status: of the answer; 0 where the client left, or the connection broke, before it.
        first: seconds to the first event; None without one.
        seconds: to the end.
        whole: whether the end of the stream came.
    """

    status: int
    first: float | None
    seconds: float
    whole: bool


async def stream(address: str, fields: dict[str, Any], leave: float | None = None) -> Streamed:
    """Ask for a stream and read it, on a connection of its own.

    Args:
        address: of the server.
        fields: of the request, besides `stream`.
        leave: close the connection after so many seconds.
    """
    found: dict[str, Any] = {"status": 0, "first": None, "whole": False}
    started = time.perf_counter()
    try:
        async with asyncio.timeout(leave):
            await _read(address, {**fields, "stream": True}, found, started)
    except (TimeoutError, ConnectionError):
        pass
    return Streamed(seconds=time.perf_counter() - started, **found)


async def _read(
    address: str, fields: dict[str, Any], found: dict[str, Any], started: float
) -> None:
    url = urlsplit(address)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        body = json.dumps(fields).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: {url.netloc}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        found["status"] = int((await reader.readline()).split()[1])
        tail = b""
        while data := await reader.read(1 << 16):
            tail = tail[-32:] + data
            if found["first"] is None and b"data: " in tail:
                found["first"] = time.perf_counter() - started
            found["whole"] = found["whole"] or b"[DONE]" in tail
    finally:
        writer.transport.abort()  # at once: nobody waits for a polite end


async def keep_asking(address: str, path: str, bodies: Sequence[Any], until: float) -> list[float]:
    """Ask again and again on one connection, until a time of `perf_counter`.

    Returns:
        Seconds of each request.

    Raises:
        ConnectionError: something was refused.
    """
    url, seconds = urlsplit(address), list[float]()
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    head = f"POST {path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
    requests = []
    for body in bodies:
        data = json.dumps(body).encode()
        requests.append(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    while (started := time.perf_counter()) < until:
        writer.write(requests[len(seconds) % len(requests)])
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"content-length: (\d+)", answer)
        if length is None or not answer.startswith(b"http/1.1 200"):
            raise ConnectionError(f"the service answered {answer!r}")
        await reader.readexactly(int(length[1]))
        seconds.append(time.perf_counter() - started)
    writer.close()
    return seconds


async def closed_loop(ask: Callable[[], Awaitable[Streamed]], clients: int, seconds: float) -> Any:
    """So many clients that each ask again as soon as they are answered, for some seconds.

    Returns:
        What they saw, and the seconds until the last was answered.
    """
    started = time.perf_counter()

    async def client() -> list[Streamed]:
        seen = []
        while not seen or time.perf_counter() - started < seconds:
            seen.append(await ask())
        return seen

    rows = await asyncio.gather(*(client() for _ in range(clients)))
    return [one for row in rows for one in row], time.perf_counter() - started


async def open_loop(ask: Callable[[], Awaitable[Streamed]], rate: float, seconds: float) -> Any:
    """`rate` new clients a second, whether or not the earlier ones are answered.

    Returns:
        As `closed_loop`.
    """
    started, asked = time.perf_counter(), []
    for number in range(max(1, round(rate * seconds))):
        await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
        asked.append(asyncio.ensure_future(ask()))
    return list(await asyncio.gather(*asked)), time.perf_counter() - started


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of all do not exceed; None of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
