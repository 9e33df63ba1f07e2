"""`POST /v1/classify`: labels of texts, with their probabilities and the words that decided."""

from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json

from jaxgen.serving.classifying import ClassifierService
from jaxgen.serving.problems import Problem
from jaxgen.serving.routes import make_router
from jaxgen.serving.service import TheService
from jaxgen.serving.text_input import as_list, texts_field

MOST_TEXTS = 2048
"""Texts of one request."""
MOST_EXPLAINED = 32
"""Texts of a request that asks for explanations: each is read once for each of its words."""

router = make_router("classify")


class ClassifyRequest(BaseModel):
    """What to classify, and how."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"model": "imdb", "input": "a fine film", "threshold": 0.7, "explain": True}
            ]
        },
    )

    model: str = Field(description="Name of a classifier.", examples=["imdb"])
    input: texts_field(  # type: ignore[valid-type]
        MOST_TEXTS,
        "A text, or a list of them. Of a long text what the model was trained to read.",
        ["a fine film", ["a fine film", "dull"]],
    )
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Of two classes the second is predicted where its probability reaches this; of "
        "several labels at once each. Without it, that of the model's settings.",
        examples=[0.7],
    )
    temperature: float | None = Field(
        None,
        gt=0,
        description="Logits are divided by it before they become probabilities. Without it, that "
        "of the model's settings.",
        examples=[1.0],
    )
    explain: bool = Field(
        False,
        description=f"Weigh the words of each text, of {MOST_EXPLAINED} at most.",
    )
    label: str | None = Field(
        None, description="What to explain; without it, the predicted label of each text."
    )


class Word(BaseModel):
    """What a word did for a label."""

    word: str
    start: int = Field(description="Where it begins in the text, in characters.")
    stop: int = Field(description="Where it ends.")
    weight: float = Field(
        description="Log-odds of the label in nats, less the same without the word: above 0 it "
        "speaks for the label."
    )


class Explanation(BaseModel):
    """What each word of a text did for a label."""

    label: str
    words: list[Word]


class Classification(BaseModel):
    """What the model says of one text."""

    index: int = Field(description="Which text of the request.")
    label: str = Field(description="The predicted label; of several at once the likeliest.")
    labels: list[str] = Field(description="Of several labels at once all that reach the threshold.")
    probability: float = Field(description="Of `label`.")
    probabilities: dict[str, float] = Field(description="Of each label.")
    explanation: Explanation | None = Field(None, description="Where it was asked for.")


class ClassifyResponse(BaseModel):
    """The labels of each text, in the order of the request."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "object": "list",
                "model": "imdb",
                "threshold": 0.7,
                "data": [
                    {
                        "index": 0,
                        "label": "positive",
                        "labels": ["positive"],
                        "probability": 0.97,
                        "probabilities": {"negative": 0.03, "positive": 0.97},
                        "explanation": {
                            "label": "positive",
                            "words": [{"word": "fine", "start": 2, "stop": 6, "weight": 2.1}],
                        },
                    }
                ],
                "warnings": [],
            }
        }
    )

    object: str = "list"
    model: str
    threshold: float = Field(description="The one that was used.")
    data: list[Classification]
    warnings: list[str] = Field(description="What the model could not read, counted.")


@router.post("/v1/classify", response_model=ClassifyResponse, summary="Classify texts")
async def classify(body: ClassifyRequest, request: Request, service: TheService) -> Response:
    """Label texts. The texts of requests that come at the same time share batches."""
    service.check_running()
    texts = as_list(body.input)
    served = service.models.get(body.model, "predict")
    classifier: ClassifierService = served.engine
    if body.explain and len(texts) > MOST_EXPLAINED:
        raise Problem(
            422,
            f"`explain` takes at most {MOST_EXPLAINED} texts, got {len(texts)}; send fewer",
            field="explain",
        )
    found: dict[str, Any] = await service.finish(
        classifier.classify(
            texts,
            threshold=body.threshold,
            temperature=body.temperature,
            explain=body.explain,
            label=body.label,
        ),
        request.receive,
    )
    answer = {"object": "list", "model": served.name, **found}
    return Response(to_json(answer), media_type="application/json")
