"""`POST /v1/completions`, as OpenAI's API has it, and why there are no chat completions."""

import math
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from jaxgen.serving.choices import ChoiceWriter, joined
from jaxgen.serving.completion_schema import Completion, CompletionRequest
from jaxgen.serving.events import EventStream
from jaxgen.serving.handles import sign, verify
from jaxgen.serving.merged import merged
from jaxgen.serving.models import ServedModel
from jaxgen.serving.problems import Problem, responses
from jaxgen.serving.prompts import read_prompts
from jaxgen.serving.requests import Answer, Chunk, FullError, Generation, StoppedError
from jaxgen.serving.routes import make_router
from jaxgen.serving.service import Service, TheService

router = make_router("completions")
WHOLE = 1 << 20
"""Tokens in a chunk where the text is wanted as a whole."""
EXAMPLE = 'data: {"id":"cmpl-0","object":"text_completion",...}\n\ndata: [DONE]\n\n'


@router.post(
    "/v1/completions",
    response_model=Completion,
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}}},
        **responses(409, 504),
    },
    summary="Continue prompts",
)
async def complete(asked: CompletionRequest, request: Request, service: TheService) -> Response:
    """Continue one prompt or several, whole or as a stream of events.

    As OpenAI's API has it, with jaxgen's own options beside. The text is that of `generate` with
    the same seed, token for token. A client that leaves ends its texts.
    """
    service.check_running()
    served = service.models.get(asked.model, "generate")
    job = await _job(asked, served, service)
    answers = await submit_all(served, job.generations)
    if asked.stream:
        return EventStream(job.events(answers), service)
    return JSONResponse(await service.finish(job.whole(answers), request.receive))


@router.post("/v1/chat/completions", summary="Not there: these models have no chat template")
async def refuse_chat() -> None:
    """Always 404, with the way out."""
    raise Problem(
        404,
        "there are no chat completions: models of jaxgen have no chat template, they continue "
        "texts; write the conversation into `prompt` and use POST /v1/completions, with `stop` "
        "where the other side would speak",
    )


async def submit_all(served: ServedModel, generations: Sequence[Generation]) -> list[Answer]:
    """Queue texts that belong together: all of them, or none.

    Raises:
        UserError: an option is unknown or out of its range.
        Problem: 429 where the queue is full, 503 where the model takes no more.
    """
    answers: list[Answer] = []
    try:
        answers.extend(map(served.engine.submit, generations))  # those before a fault are kept
    except Exception as error:
        for answer in answers:
            await answer.aclose()
        if isinstance(error, FullError):
            wait = {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
            raise Problem(429, f"too much is waiting: {error}", headers=wait) from None
        if isinstance(error, StoppedError):
            raise Problem(503, f"the model {served.name} takes no more requests") from None
        raise
    return answers


@dataclass
class Job:
    """One request, made ready."""

    asked: CompletionRequest
    served: ServedModel
    service: Service
    generations: list[Generation]
    writers: list[ChoiceWriter]
    prompt_tokens: int
    head: dict[str, Any]
    """What every answer begins with."""
    warnings: list[str]

    async def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The completion as one object."""
        pieces: list[list[dict[str, Any]]] = [[] for _ in answers]
        async with aclosing(merged(answers)) as chunks:
            async for place, chunk in chunks:
                pieces[place].append(self._piece(place, chunk))
        choices = [joined(own) for own in pieces]
        seed = {"seed": self.generations[0].seed, "warnings": self.warnings}
        return {**self.head, "choices": self._best(choices), "usage": self._usage(), **seed}

    async def events(self, answers: Sequence[Answer]) -> AsyncGenerator[dict[str, Any], None]:
        """The completion bit by bit."""
        options = self.asked.stream_options
        usage = {"usage": None} if options is not None and options.include_usage else {}
        first = {"seed": self.generations[0].seed, "warnings": self.warnings}
        async with aclosing(merged(answers)) as chunks:
            async for place, chunk in chunks:
                piece = self._piece(place, chunk)
                yield {**self.head, "choices": [piece], **usage, **first}
                first = {}
        if usage:
            yield {**self.head, "choices": [], "usage": self._usage()}

    def _piece(self, place: int, chunk: Chunk) -> dict[str, Any]:
        """What one chunk adds to a choice."""
        piece = self.writers[place].piece(chunk)
        if chunk.state is not None:
            key = self.service.options.session_key
            piece["session"] = sign(chunk.state, self.served.fingerprint, key)
        return piece

    def _best(self, choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The `n` choices of each prompt that have the highest log-probability per token."""
        n, per_prompt = self.asked.n, self.asked.per_prompt
        if n == per_prompt:
            return choices
        kept = []
        for first in range(0, len(choices), per_prompt):
            places = range(first, first + per_prompt)
            ranked = sorted(places, key=lambda place: -self.writers[place].mean_logprob())
            kept += [choices[place] for place in ranked[:n]]
        for index, choice in enumerate(kept):
            choice["index"] = index
            if self.asked.logprobs is None:
                choice["logprobs"] = None
        return kept

    def _usage(self) -> dict[str, int]:
        written = sum(writer.num_tokens for writer in self.writers)
        total = self.prompt_tokens + written
        read = self.prompt_tokens
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": total}


async def _job(asked: CompletionRequest, served: ServedModel, service: Service) -> Job:
    """Check a request against its model and the limits, and read its prompts."""
    limits, model = service.options, served.model
    _check_limits(asked, limits.max_tokens, limits.max_choices)
    prompts = await read_prompts(model.tokenizer, asked.prompt, limits.max_prompt_tokens)
    after = None
    if asked.session is not None:
        after = verify(asked.session, model, served.fingerprint, limits.session_key)
    seed = secrets.randbelow(1 << 32) if asked.seed is None else asked.seed % (1 << 32)
    ranked = asked.per_prompt > asked.n
    num_logprobs = 0 if ranked and asked.logprobs is None else asked.logprobs
    options, generations, writers = asked.sampling(), list[Generation](), list[ChoiceWriter]()
    for tokens in prompts.tokens:
        context = context_of(model, tokens, after)
        for _ in range(asked.per_prompt):
            row = len(generations)
            generations.append(
                Generation(
                    tokens,
                    asked.max_tokens,
                    options,
                    seed=seed,
                    row=row,
                    stop=asked.stop,
                    num_logprobs=num_logprobs,
                    score_prompt=asked.echo and asked.logprobs is not None,
                    after=after,
                    return_state=asked.return_session,
                    **({} if asked.stream else {"tokens_per_chunk": WHOLE}),
                )
            )
            writers.append(
                ChoiceWriter(
                    model.tokenizer,
                    row,
                    tokens,
                    context,
                    logprobs=asked.logprobs is not None,
                    echo=asked.echo,
                    continued=after is not None,
                )
            )
    head = {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": served.name,
        "system_fingerprint": served.fingerprint,
    }
    read = sum(map(len, prompts.tokens))
    return Job(asked, served, service, generations, writers, read, head, prompts.warnings)


def context_of(model: Any, tokens: Sequence[int], after: Any) -> list[int]:
    """What stands before a prompt: the last token of a state, or what a text starts from."""
    if after is not None:
        return [int(after.token[0])]
    begins = model.end_token is not None or not tokens
    return [int(model.tokenizer.start_id)] if begins else []


def _check_limits(asked: CompletionRequest, max_tokens: int, max_choices: int) -> None:
    """Problem 422 where more is asked for than this server gives."""
    if asked.max_tokens > max_tokens:
        raise Problem(
            422,
            f"`max_tokens` must be at most {max_tokens} here, got {asked.max_tokens}; continue "
            "from a session for longer texts",
            field="max_tokens",
        )
    texts = len(asked.prompt) * asked.per_prompt
    if texts > max_choices:
        name = "n" if asked.best_of is None else "best_of"
        raise Problem(
            422,
            f"`{name}` times the prompts must be at most {max_choices} texts here, got {texts}; "
            "send several requests",
            field=name,
        )
