"""The application: `create_app(models, options)` joins the routers of all endpoints."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module

from fastapi import APIRouter, FastAPI, Request, Response

from jaxgen.serving import (
    classify,
    completions,
    operations,
    page,
    sessions,
    training_jobs,
    translate,
)
from jaxgen.serving.metrics import Metrics
from jaxgen.serving.middleware import add_middleware
from jaxgen.serving.models import Models
from jaxgen.serving.openapi import Application
from jaxgen.serving.options import ServeOptions
from jaxgen.serving.problems import add_problem_handlers
from jaxgen.serving.service import ClientLeft, Service
from jaxgen.serving.training import TrainingJobs

ROUTERS: tuple[APIRouter, ...] = (
    completions.router,
    sessions.router,
    classify.router,
    translate.router,
    training_jobs.router,
    operations.models,
    operations.health,
    page.router,
)
"""The endpoints, a file each."""


def create_app(models: Models, options: ServeOptions | None = None) -> FastAPI:
    """The service of some models as an ASGI application.

    Args:
        models: What is served; more may join while it runs.
        options: Limits and keys.

    Returns:
        The application; `app.state.service` is its `Service`.
    """
    app = Application(
        title="jaxgen",
        version=import_module("jaxgen").__version__,
        summary="Recurrent sequence generation over HTTP",
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        lifespan=_lifespan,
    )
    service = Service(models, options or ServeOptions(), Metrics(models))
    app.state.service = service
    app.state.training = TrainingJobs(models, service.options)
    add_problem_handlers(app)
    add_middleware(app, service)  # outside of these, to count what they answer
    app.add_exception_handler(ClientLeft, _nobody)
    for router in ROUTERS:
        app.include_router(router)
    return app


async def _nobody(request: Request, error: Exception) -> Response:
    """The answer to a client that has left; the status is nginx's, for the metrics."""
    return Response(status_code=499)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    for served in service.models:
        if served.engine is not None:
            served.engine.start()
    yield
    service.stopping = True
    await app.state.training.stop()
    for served in service.models:
        if served.engine is None:
            continue
        if served.is_ready or served.failure is not None:
            await served.engine.stop(0)
        else:  # compiling cannot be interrupted: its thread ends with the process
            service.compiles_at_end = True
