"""The application: `create_app(models, options)` joins the routers of all endpoints."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

import jaxgen
from jaxgen.serving import classify, translate
from jaxgen.serving.models import Models
from jaxgen.serving.options import ServeOptions
from jaxgen.serving.problems import add_problem_handlers
from jaxgen.serving.service import Service

ROUTERS: tuple[APIRouter, ...] = (classify.router, translate.router)
"""The endpoints, a file each."""


def create_app(models: Models, options: ServeOptions | None = None) -> FastAPI:
    """The service of some models as an ASGI application.

    Args:
        models: What is served; more may join while it runs.
        options: Limits and keys.

    Returns:
        The application; `app.state.service` is its `Service`.
    """
    app = FastAPI(
        title="jaxgen",
        version=jaxgen.__version__,
        summary="Recurrent sequence generation over HTTP",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.service = Service(models, options or ServeOptions())
    add_problem_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
