"""Problem documents (RFC 9457) in the place of every fault, never with a trace.

Each also has the member `error` as OpenAI's API does, so that its clients show the reason.
"""

import logging
import math
import re
import traceback
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jaxgen.errors import UserError
from jaxgen.serving.requests import FullError, StoppedError

MEDIA_TYPE = "application/problem+json"
log = logging.getLogger("jaxgen.serving")


class Problem(HTTPException):
    """A fault to be answered as a problem document.

    Args:
        status: of the answer.
        detail: one message naming the thing, the rule, the value and the way out.
        field: the field of the request that is at fault.
        headers: of the answer.
        **more: further members of the document.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ):
        super().__init__(status, detail, headers)
        self.field, self.more = field, more

    def document(self) -> dict[str, Any]:
        """The members of the problem document."""
        status = self.status_code
        return {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": self.detail,
            **({} if self.field is None else {"field": self.field}),
            **self.more,
            "error": self.error(),
        }

    def error(self) -> dict[str, Any]:
        """The same as OpenAI's API tells it, also in the middle of a stream."""
        kind = "server_error" if self.status_code >= 500 else "invalid_request_error"
        code = self.status_code
        return {"message": self.detail, "type": kind, "param": self.field, "code": code}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(
            self.document(), self.status_code, headers=self.headers, media_type=MEDIA_TYPE
        )


class OpenAIError(BaseModel):
    """The same fault as OpenAI's API tells it."""

    message: str
    type: str
    param: str | None
    code: int


class ProblemDocument(BaseModel):
    """A fault, after RFC 9457."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "example": {
                "type": "about:blank",
                "title": "Not Found",
                "status": 404,
                "detail": "there is no model `tiny`; there are demo and imdb",
                "field": "model",
                "models": ["demo", "imdb"],
                "error": {
                    "message": "there is no model `tiny`; there are demo and imdb",
                    "type": "invalid_request_error",
                    "param": "model",
                    "code": 404,
                },
            }
        },
    )

    type: str
    title: str
    status: int
    detail: str = Field(description="What is wrong, the rule, the value and the way out.")
    field: str | None = Field(None, description="The field of the request that is at fault.")
    error: OpenAIError


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What FastAPI's `responses` takes, so that the OpenAPI document names these faults."""
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        for status in statuses
    }


def problem_of(error: UserError, status: int = 422) -> Problem:
    """A problem document of a message that begins with the field at fault in backquotes."""
    message = str(error)
    named = re.match(r"`(\w+)`", message)
    return Problem(status, message, field=named and named[1])


def add_problem_handlers(app: FastAPI) -> None:
    """Answer all that endpoints raise by problem documents."""

    def handle(kind: type[Exception], convert: Any) -> None:
        async def handler(request: Request, error: Exception) -> JSONResponse:
            problem: Problem = convert(error)
            return problem.response()

        app.add_exception_handler(kind, handler)

    handle(Problem, lambda error: error)
    handle(UserError, problem_of)
    handle(FullError, _full)
    handle(StoppedError, lambda error: Problem(503, f"{error}; ask another server"))
    handle(RequestValidationError, lambda error: invalid(error.errors()))
    handle(HTTPException, _of_starlette)
    app.add_middleware(FaultGuard)


def invalid(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """A problem document of what pydantic found wrong; the values of texts are not repeated."""
    # A misspelt field first: it is why another is missing.
    errors = sorted(errors, key=lambda error: error["type"] != "extra_forbidden")
    found = [_field_and_message(error) for error in errors]
    first = found[0]
    detail = first["message"]
    if first["field"] and "`" not in detail:
        detail = f"`{first['field']}`: {detail}"
    return Problem(422, detail, field=first["field"] or None, errors=found)


def _field_and_message(error: Mapping[str, Any]) -> dict[str, str]:
    """One of the faults that pydantic found."""
    place = [str(part) for part in error["loc"] if part not in ("body", "query", "path")]
    # Alternatives of a union add their type's name, which is no field of the request.
    name = ".".join(part for part in place if re.fullmatch(r"[a-z_]\w*|\d+", part))
    message: str = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        message = f"there is no field `{name}`"
    elif isinstance(error.get("input"), int | float | None) and error["type"] != "missing":
        message = f"{message}, got {error['input']}"
    if not name and (named := re.match(r"`(\w+)`", message)):
        name = named[1]  # a rule about several fields begins with the one at fault
    return {"field": name, "message": message}


def _full(error: FullError) -> Problem:
    wait = {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    return Problem(429, f"too much is waiting: {error}", headers=wait)


def _of_starlette(error: HTTPException) -> Problem:
    return Problem(error.status_code, str(error.detail), headers=error.headers)


class FaultGuard:
    """Answers a fault of our own with 500, and logs where it was but no value of the request."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:
            if scope["type"] != "http":
                raise
            log_fault(error)
            if not started:
                await internal_problem().response()(scope, receive, send)


def internal_problem() -> Problem:
    """What a client is told of a fault of our own."""
    return Problem(500, "the server failed; its log says where")


def log_fault(error: BaseException) -> None:
    """Log type and place of a fault; not its message, which may quote a user's text."""
    frames = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)))
    log.error("%s in the service\n%s", type(error).__name__, frames.rstrip())
