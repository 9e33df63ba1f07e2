"""One server process: its port, its signals, and how it ends."""

import math
import os
import signal
import socket
import sys
from types import FrameType

import uvicorn
from fastapi import FastAPI

from jaxgen.errors import UserError
from jaxgen.files import reason
from jaxgen.serving.service import Service

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than load balancers keep theirs, so that it is
they who close it and no request meets a closed one."""
INTERRUPTED = 130
MARGIN = 5
"""Seconds after `grace` in which the refusals are sent."""


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; UserError where the port cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise UserError(
            f"cannot listen on port {port} of {host}: {why}; choose another --port or --host"
        ) from None
    return listener


def address_of(listener: socket.socket) -> str:
    """Where clients find it."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Stops in order: nothing new, `grace` seconds for what is in flight, then refusals."""

    def __init__(self, app: FastAPI):
        """Serve an application of `create_app`."""
        self._service: Service = app.state.service
        grace = self._service.options.grace
        config = uvicorn.Config(
            app,
            log_config=None,  # Python's own: warnings and errors, on standard error
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=math.ceil(grace) + MARGIN,
        )
        super().__init__(config)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Once: refuse what is new, and finish the rest. Ctrl-C again ends at once."""
        self._service.stopping = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let what is in flight finish in its time."""
        self._service.stop_within(self._service.options.grace)
        await super().shutdown(sockets)


def serve(app: FastAPI, listener: socket.socket) -> None:
    """Answer requests until SIGTERM or Ctrl-C.

    Raises:
        UserError: the application could not start.
    """
    server = Server(app)
    if sys.platform != "win32":
        # uvicorn raises the signal again once it has stopped; a stop on demand is no failure.
        signal.signal(signal.SIGTERM, lambda number, frame: None)
    code = 0
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        code = INTERRUPTED
        if not app.state.service.compiles_at_end:
            raise
    if app.state.service.compiles_at_end:
        os._exit(code)  # an ordinary end would abort in the thread that compiles
    if not server.started:
        raise UserError("the service could not start; what was printed before says why")
