"""`POST /v1/translate`: translations of texts, the best found, with their attention."""

from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from jaxgen.serving.problems import Problem
from jaxgen.serving.routes import make_router
from jaxgen.serving.service import TheService
from jaxgen.serving.text_input import as_list, texts_field
from jaxgen.serving.translating import TranslatorService

MOST_TEXTS = 256
"""Texts of one request."""
MOST_ATTENDED = 32
"""Texts of a request that asks for attention, whose answer grows with the square of a length."""
WIDEST = 8
"""Width of a beam; each width is compiled when it is first asked for."""

router = make_router("translate")


class TranslateRequest(BaseModel):
    """What to translate, and how to search."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"model": "dates", "input": "the 3rd of March, 2003", "n_best": 3}]
        },
    )

    model: str = Field(description="Name of an encoder-decoder.", examples=["dates"])
    input: texts_field(  # type: ignore[valid-type]
        MOST_TEXTS,
        "A text, or a list of them. An empty one has an empty translation.",
        ["the 3rd of March, 2003", ["3/4/1999", "4 Mar 2001"]],
    )
    n_best: int = Field(1, ge=1, le=WIDEST, description="Translations of each text, best first.")
    beam_size: int | None = Field(
        None,
        ge=1,
        le=WIDEST,
        description="Width of the search; 1 takes the likeliest token at each step. Without it, "
        "that of the model's settings, or `n_best` where that is more.",
    )
    length_penalty: float | None = Field(
        None,
        ge=0,
        le=10,
        description="Power of the length that log-probabilities are divided by; above 0 favours "
        "long texts.",
    )
    prefix: str | None = Field(None, description="What each translation begins with.")
    attention: bool = Field(
        False,
        description=f"Give the weights of the source's tokens, of {MOST_ATTENDED} texts at most.",
    )


class Translation(BaseModel):
    """One translation of a text."""

    text: str
    score: float = Field(description="What it is ranked by: the higher, the better.")
    tokens: list[str] = Field(description="Those after the prefix; `<eos>` ends the text.")
    token_logprobs: list[float] = Field(description="In nats, of each token.")
    attention: list[list[float]] | None = Field(
        None, description="Of each token over the source's tokens, where it was asked for."
    )


class Translated(BaseModel):
    """The translations of one text."""

    index: int = Field(description="Which text of the request.")
    text: str = Field(description="The best translation.")
    source_tokens: list[str] = Field(description="What the model read.")
    translations: list[Translation] = Field(description="Different ones, best first.")


class TranslateResponse(BaseModel):
    """The translations of each text, in the order of the request."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "object": "list",
                "model": "dates",
                "data": [
                    {
                        "index": 0,
                        "text": "2003",
                        "source_tokens": ["0", "3"],
                        "translations": [
                            {
                                "text": "2003",
                                "score": -0.01,
                                "tokens": ["2", "0", "0", "3", "<eos>"],
                                "token_logprobs": [-0.01, 0.0, 0.0, -0.02, 0.0],
                            }
                        ],
                    }
                ],
                "warnings": [],
            }
        }
    )

    object: str = "list"
    model: str
    data: list[Translated]
    warnings: list[str] = Field(description="What the model could not read, counted.")


@router.post("/v1/translate", response_model=TranslateResponse, summary="Translate texts")
async def translate(body: TranslateRequest, request: Request, service: TheService) -> Response:
    """Translate texts by beam search. Requests with the same options share batches."""
    service.check_running()
    texts = as_list(body.input)
    served = service.models.get(body.model, "translate")
    translator: TranslatorService = served.engine
    if body.attention and len(texts) > MOST_ATTENDED:
        raise Problem(
            422,
            f"`attention` takes at most {MOST_ATTENDED} texts, got {len(texts)}; send fewer",
            field="attention",
        )
    found: dict[str, Any] = await service.finish(
        translator.translate(
            texts,
            prefix=body.prefix,
            n_best=body.n_best,
            beam_size=body.beam_size,
            length_penalty=body.length_penalty,
            attention=body.attention,
        ),
        request.receive,
    )
    return JSONResponse({"object": "list", "model": served.name, **found})
