"""Engines of small models, and what their answers are put together to."""

import asyncio
from typing import NamedTuple

from jaxgen.generation.carry import PromptState
from jaxgen.serving.engine import EngineOptions, TextEngine
from jaxgen.serving.requests import Generation, TokenScores


class Answered(NamedTuple):
    """All chunks of an answer as one."""

    text: str
    tokens: list[int]
    logprobs: list[float]
    top: list[dict[int, float]]
    reason: str
    prompt: TokenScores | None
    state: PromptState | None
    pieces: list[str]


def make_engine(lm, slots=2, **options):
    """An engine that compiles only what it needs; to be turned by hand, or started."""
    return TextEngine(lm, EngineOptions(slots=slots, **{"warm_up": False, **options}))


def make_generation(lm, prompt="", max_new_tokens=8, stop=(), **options):
    """A generation with the options of `TextModel.generate`; some are fields."""
    names = Generation.__dataclass_fields__
    given = {name: options.pop(name) for name in list(options) if name in names}
    ids = tuple(lm.tokenizer.encode(prompt).tolist()) if isinstance(prompt, str) else prompt
    return Generation(ids, max_new_tokens, options, stop=stop, **given)


async def collect(answer):
    """All of an answer."""
    chunks = [chunk async for chunk in answer]
    assert all(chunk.finish_reason is None for chunk in chunks[:-1])
    return Answered(
        "".join(chunk.text for chunk in chunks),
        [token for chunk in chunks for token in chunk.tokens],
        [logprob for chunk in chunks for logprob in chunk.logprobs],
        [top for chunk in chunks for top in chunk.top],
        chunks[-1].finish_reason,
        chunks[0].prompt,
        chunks[-1].state,
        [chunk.text for chunk in chunks],
    )


def answers(engine, generations):
    """What an engine that runs answers to generations that are asked for at once."""

    async def ask():
        return await asyncio.gather(*(collect(engine.submit(one)) for one in generations))

    return asyncio.run(ask())


def answer(engine, generation):
    """What it answers to one."""
    return answers(engine, [generation])[0]
