"""Routers that read bodies strictly: JSON in UTF-8, of limited size and depth, finite numbers."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

from jaxgen.serving.problems import Problem, responses


class StrictRequest(Request):
    """A request whose body is checked before anything is made of it."""

    async def body(self) -> bytes:
        """The whole body; Problem 413 once it is known to be too long, 415 for other types."""
        if not hasattr(self, "_body"):
            options = self.app.state.service.options
            limit, patience = options.max_body_bytes, options.request_timeout
            declared = self.headers.get("content-length", "0")
            if declared.isdigit() and int(declared) > limit:
                raise _too_long(limit)
            chunks, size = [], 0
            try:
                async with asyncio.timeout(patience):
                    async for chunk in self.stream():
                        chunks.append(chunk)
                        size += len(chunk)
                        if size > limit:
                            raise _too_long(limit)
            except TimeoutError:
                detail = f"the body took longer than {patience:g} seconds; send it at once"
                raise Problem(408, detail) from None
            self._body = b"".join(chunks)
            kind = self.headers.get("content-type", "").partition(";")[0].strip().lower()
            if self._body and kind != "application/json":
                raise Problem(
                    415, "the body must be JSON; send it with `Content-Type: application/json`"
                )
        return self._body

    async def json(self) -> Any:
        """The body as JSON has it.

        Raises:
            Problem: 400 where it is not UTF-8, not JSON, nested too deeply, or holds NaN or an
                infinite number, which JSON has not.
        """
        body = await self.body()
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise Problem(
                400, f"the body must be UTF-8, and byte {error.start} is not; encode it so"
            ) from None
        try:
            return from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise Problem(400, f"the body must be JSON: {error}") from None


def _too_long(limit: int) -> Problem:
    return Problem(413, f"the body must have at most {limit} bytes; send less at once")


class StrictRoute(APIRoute):
    """A route that reads its body by `StrictRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of a plain route, handed a strict request."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strict


def make_router(*tags: str) -> APIRouter:
    """A router of the service; its endpoints' faults are problem documents."""
    faults = responses(400, 401, 404, 413, 415, 422, 429, 500, 503)
    return APIRouter(route_class=StrictRoute, tags=list(tags), responses=faults)
