"""What is served, and how it is: models, tokens, health and metrics."""

from typing import Literal

from fastapi import Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from jaxgen.serving.completion_schema import Body
from jaxgen.serving.models import ServedModel
from jaxgen.serving.problems import Problem, responses
from jaxgen.serving.prompts import read_prompts
from jaxgen.serving.routes import make_router
from jaxgen.serving.service import TheService
from jaxgen.serving.token_texts import TokenTexts

models = make_router("models")
health = make_router("operations")


class ModelCard(BaseModel):
    """One model, as OpenAI's API lists it, with what jaxgen knows beside."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "jaxgen"
    task: str
    ready: bool = Field(description="Whether it answers at once.")
    endpoint: str = Field(description="What it is used by.")
    labels: list[str] = Field([], description="What it tells apart, or writes about.")
    multi_label: bool = Field(False, description="Whether a text may have several labels at once.")
    attention: bool = Field(
        False, description="Whether a translation can tell what it was read from."
    )
    vocab_size: int | None = None
    fingerprint: str | None = Field(None, description="Of its parameters; sessions keep to it.")
    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": "demo",
                "object": "model",
                "created": 1790000000,
                "owned_by": "jaxgen",
                "task": "language_model",
                "ready": True,
                "endpoint": "POST /v1/completions",
                "labels": [],
                "vocab_size": 97,
                "fingerprint": "0123456789abcdef",
            }
        }
    )


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def _card(served: ServedModel) -> ModelCard:
    model = served.model
    tokenizer = getattr(model, "tokenizer", None)
    labels = getattr(model, "labels", ())  # names, or a `LabelSet`
    return ModelCard(
        id=served.name,
        created=served.created,
        task=served.task,
        ready=served.is_ready,
        endpoint=served.endpoint,
        labels=[str(label) for label in getattr(labels, "names", labels)],
        multi_label=getattr(labels, "multi_label", False),
        attention=getattr(model, "attention_fn", None) is not None,
        vocab_size=getattr(tokenizer, "vocab_size", None),
        fingerprint=served.fingerprint or None,
    )


@models.get("/v1/models", summary="The models there are")
async def list_models(service: TheService) -> ModelList:
    """Every model of this server, with its task and the endpoint that uses it."""
    return ModelList(data=[_card(served) for served in service.models])


@models.get("/v1/models/{name:path}", summary="One model")
async def show_model(name: str, service: TheService) -> ModelCard:
    """A model by its name."""
    return _card(service.models.find(name))


class TokenizeRequest(Body):
    """What is cut into tokens."""

    model: str
    prompt: str
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "demo", "prompt": "The end."}]}
    )


class Tokens(BaseModel):
    """The tokens of a text."""

    count: int
    tokens: list[int]
    texts: list[str] = Field(description="What each adds to the text.")
    warnings: list[str]


@models.post("/tokenize", summary="The tokens of a text")
async def tokenize(asked: TokenizeRequest, service: TheService) -> Tokens:
    """How a model reads a text."""
    served = service.models.trained(asked.model)
    tokenizer = getattr(served.model, "tokenizer", None)
    if tokenizer is None:
        raise Problem(
            422, f"`model` {served.name} has no tokenizer of its own; name another", field="model"
        )
    limit = service.options.max_prompt_tokens
    (row,), warnings = await read_prompts(tokenizer, [asked.prompt], limit)
    texts, named = TokenTexts(tokenizer, ()), []
    for token in row:
        named.append(texts.text(token))
        texts.push(token)
    return Tokens(count=len(row), tokens=list(row), texts=named, warnings=warnings)


class State(BaseModel):
    """How the server is."""

    status: str
    models: dict[str, bool] = Field({}, description="Which of them answer at once.")


@health.get("/healthz", responses=responses(503), summary="Whether the process works")
async def healthz(service: TheService) -> State:
    """200 unless an engine has failed; then restart the process."""
    failed = [served.name for served in service.models if served.failure is not None]
    if failed:
        raise Problem(503, f"the engine of {', '.join(failed)} has failed; restart the server")
    return State(status="ok", models={})


@health.get("/readyz", responses=responses(503), summary="Whether to send requests here")
async def readyz(service: TheService) -> State:
    """200 once every program is compiled, until the server is told to stop."""
    if service.stopping:
        raise Problem(503, "the server is stopping", headers={"Retry-After": "1"})
    ready = {served.name: served.is_ready for served in service.models if served.model}
    if not all(ready.values()):
        waiting = [name for name, is_ready in ready.items() if not is_ready]
        raise Problem(
            503,
            f"the programs of {', '.join(waiting)} are being compiled",
            headers={"Retry-After": "2"},
            models=ready,
        )
    return State(status="ready", models=ready)


@health.get(
    "/metrics",
    response_class=PlainTextResponse,
    summary="Metrics for Prometheus",
)
async def metrics(service: TheService) -> Response:
    """Requests, queue, tokens, times and occupancy, in Prometheus's text format."""
    return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")
