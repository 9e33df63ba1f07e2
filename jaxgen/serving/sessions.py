"""`POST /v1/sessions`: read a prompt once, and get the model's state back as a signed handle."""

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from jaxgen.generation.carry import PromptState
from jaxgen.serving.completion_schema import Steering, Usage
from jaxgen.serving.completions import submit_all
from jaxgen.serving.handles import sign, verify
from jaxgen.serving.problems import responses
from jaxgen.serving.prompts import read_prompts
from jaxgen.serving.requests import Answer, Generation
from jaxgen.serving.routes import make_router
from jaxgen.serving.service import TheService

router = make_router("sessions")


class SessionRequest(Steering):
    """What is read."""

    model: str
    prompt: str | list[int] = Field("", description="A text, or token ids.")
    session: str | None = Field(None, description="Read it after what this handle stands for.")
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "demo", "prompt": "A long story. "}]}
    )


class Session(BaseModel):
    """A handle to continue from, as often as wanted, on any server with the same session key."""

    object: str = "session"
    session: str = Field(description="Send it as `session` with POST /v1/completions.")
    model: str
    usage: Usage
    warnings: list[str]
    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "object": "session",
                "session": "eyJ2ZXJzaW9uIjogMX0=",
                "model": "demo",
                "usage": {"prompt_tokens": 14, "completion_tokens": 0, "total_tokens": 14},
                "warnings": [],
            }
        }
    )


@router.post("/v1/sessions", responses=responses(409, 504), summary="Read a prompt once")
async def read(asked: SessionRequest, request: Request, service: TheService) -> Session:
    """The state after a prompt, signed; the server keeps nothing of it.

    Whoever holds the handle can continue from it. It is signed, not encrypted, and tells something
    of the text; keep it as you keep the text.
    """
    service.check_running()
    served = service.models.get(asked.model, "generate")
    key, fingerprint = service.options.session_key, served.fingerprint
    prompts = await read_prompts(
        served.model.tokenizer, [asked.prompt], service.options.max_prompt_tokens
    )
    after = None
    if asked.session is not None:
        after = verify(asked.session, served.model, fingerprint, key)
    steering = {"label": asked.label, "guidance": asked.guidance}
    generation = Generation(
        prompts.tokens[0],
        0,
        {name: value for name, value in steering.items() if value is not None},
        after=after,
        return_state=True,
    )
    (answer,) = await submit_all(served, [generation])
    state = await service.finish(_state_of(answer), request.receive)
    count = len(prompts.tokens[0])
    return Session(
        session=sign(state, fingerprint, key),
        model=served.name,
        usage=Usage(prompt_tokens=count, completion_tokens=0, total_tokens=count),
        warnings=prompts.warnings,
    )


async def _state_of(answer: Answer) -> PromptState:
    """The state that comes with the last chunk."""
    async with answer:
        states = [chunk.state async for chunk in answer]
    return next(state for state in states if state is not None)
