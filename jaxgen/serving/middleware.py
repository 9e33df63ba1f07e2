"""What every request passes: the API key, and a count of answers."""

import hmac

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxgen.serving.problems import Problem
from jaxgen.serving.service import Service

OPEN = ("/", "/healthz", "/readyz", "/openapi.json")
"""Paths that need no key: they tell nothing of the models or of what is asked."""
OPEN_FOLDER = "/static/"


def add_middleware(app: FastAPI, service: Service) -> None:
    """Count requests, and let in those with the key where there is one."""
    if service.options.api_key is not None:
        app.add_middleware(KeyGuard, key=service.options.api_key)
    app.add_middleware(RequestCounts, service=service)


class KeyGuard:
    """Answers 401 to requests without the API key, before their bodies are read."""

    def __init__(self, app: ASGIApp, key: str):
        """Ask for this key."""
        self.app, self._wanted = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or self._let_in(scope):
            await self.app(scope, receive, send)
            return
        problem = Problem(
            401,
            "this server asks for a key; send it as `Authorization: Bearer KEY`",
            headers={"WWW-Authenticate": "Bearer"},
        )
        await problem.response()(scope, receive, send)

    def _let_in(self, scope: Scope) -> bool:
        path = scope["path"]
        if path in OPEN or path.startswith(OPEN_FOLDER):
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        # In constant time, so that the time of an answer tells nothing of the key.
        return len(given) == 1 and hmac.compare_digest(given[0], self._wanted)


class RequestCounts:
    """Counts requests by the pattern of their path and by status."""

    def __init__(self, app: ASGIApp, service: Service):
        """Count in the metrics of a service."""
        self.app, self._metrics = app, service.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = "none"

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        with self._metrics.in_flight.track_inprogress():
            try:
                await self.app(scope, receive, watch)
            finally:
                # A pattern, not the path: a client must not make up new series.
                path = getattr(scope.get("route"), "path", "other")
                self._metrics.requests.labels(_method(scope), path, status).inc()


def _method(scope: Scope) -> str:
    method: str = scope["method"]
    return method if method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS") else "other"
