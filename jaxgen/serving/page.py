"""The page at `/` and its files; they load nothing from elsewhere."""

import hashlib
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request, Response

from jaxgen.serving.problems import Problem

router = APIRouter(include_in_schema=False)

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Cache-Control": "no-cache",  # asked for again each time, and seldom sent
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@cache
def _files() -> dict[str, tuple[bytes, dict[str, str]]]:
    """The content and the headers of each file, by its name."""
    found = {}
    for path in files("jaxgen.serving").joinpath("static").iterdir():
        suffix = path.name[path.name.rfind(".") :]
        if suffix in _TYPES:
            content = path.read_bytes()
            tag = f'"{hashlib.sha256(content).hexdigest()[:20]}"'
            found[path.name] = content, {**_HEADERS, "Content-Type": _TYPES[suffix], "ETag": tag}
    return found


@router.get("/")
async def page(request: Request) -> Response:
    """The page."""
    return _answer("index.html", request)


@router.get("/static/{name}")
async def file(name: str, request: Request) -> Response:
    """One of its files."""
    return _answer(name, request)


def _answer(name: str, request: Request) -> Response:
    found = _files().get(name)
    if found is None:
        raise Problem(404, f"the page has no file `{name[:100]}`")
    content, headers = found
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers)
