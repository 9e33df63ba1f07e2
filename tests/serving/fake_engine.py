"""An engine without a model: what it writes is known beforehand, and it can be held up or fail."""

import asyncio
from types import SimpleNamespace
from typing import Any, Self

import numpy as np

from jaxgen.config import TokenizerConfig
from jaxgen.data.vocabulary import build_tokenizer
from jaxgen.generation.carry import PromptState
from jaxgen.serving.counters import Counters
from jaxgen.serving.models import Models, ServedModel
from jaxgen.serving.requests import Chunk, FullError, Generation, TokenScores

ALPHABET = "abcdefghijk"


def make_tokenizer() -> Any:
    return build_tokenizer(TokenizerConfig(kind="char"), [ALPHABET])


class FakeEngine:
    """Writes the alphabet on, from the token after the prompt's last plus the row.

    The k-th token of a text has the log-probability -(k + 1) / 10; of the others at its place the
    next ones of the vocabulary have 1, 2, ... less. In a prompt it is -(k + 1).
    """

    ready = True
    failure: BaseException | None = None

    def __init__(self, tokenizer: Any, room: int = 1000) -> None:
        self.tokenizer, self.room = tokenizer, room
        self.open: list[FakeAnswer] = []
        self.submitted: list[Generation] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None

    def start(self) -> None: ...

    async def stop(self, grace: float = 30.0) -> None: ...

    def metrics(self) -> Counters:
        counted = Counters(slots=4, waiting=2, generated_tokens=30)
        counted.requests["length"] = 5
        for seconds in (0.003, 0.004, 7.0):
            counted.first_token_seconds.add(seconds)
        return counted

    def submit(self, generation: Generation) -> "FakeAnswer":
        if len(self.open) >= self.room:
            raise FullError(f"{len(self.open)} texts wait", 2.5)
        self.submitted.append(generation)
        self.open.append(FakeAnswer(self, generation))
        return self.open[-1]


class FakeAnswer:
    """Gives two tokens a chunk."""

    def __init__(self, engine: FakeEngine, asked: Generation) -> None:
        self.engine, self.asked = engine, asked
        self.chunks = self._chunks()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        await self.engine.gate.wait()
        if self.engine.fault is not None:
            raise self.engine.fault
        try:
            return next(self.chunks)
        except StopIteration:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if self in self.engine.open:
            self.engine.open.remove(self)

    def _top(self, token: int, logprob: float) -> dict[int, float]:
        others = range(self.asked.num_logprobs or 0)
        return {(token + 1 + k) % len(ALPHABET): logprob - 1 - k for k in others}

    def _chunks(self) -> Any:
        asked, size = self.asked, len(ALPHABET)
        last = asked.prompt[-1] if asked.prompt else -1
        tokens = [(last + 1 + asked.row + k) % size for k in range(asked.max_new_tokens)]
        text = self.engine.tokenizer.decode(tokens)
        reason = "length"
        for stop in asked.stop:
            if (place := text.find(stop)) >= 0:
                text, tokens, reason = text[:place], tokens[:place], "stop"
        scores = [-(k + 1) / 10 for k in range(len(tokens))]
        prompt = None
        if asked.score_prompt:
            values = [-float(k + 1) for k in range(len(asked.prompt))]
            pairs = zip(asked.prompt, values, strict=True)
            prompt = TokenScores(list(values), [self._top(*pair) for pair in pairs])
        state = PromptState((np.ones((1, 2), np.float32),), np.array([max(last, 0)], np.int32))
        for first in range(0, max(len(tokens), 1), 2):
            part = slice(first, first + 2)
            at_end = first + 2 >= len(tokens)
            known = asked.num_logprobs is not None
            yield Chunk(
                tokens[part],
                text[part],
                scores[part] if known else [],
                [self._top(t, s) for t, s in zip(tokens[part], scores[part], strict=True)]
                if known
                else [],
                reason if at_end else None,
                prompt if first == 0 else None,
                state if at_end and asked.return_state else None,
            )


def fake_model(tokenizer: Any) -> Any:
    """All that the service asks of a language model but its engine."""
    return SimpleNamespace(
        tokenizer=tokenizer,
        params={"weight": np.ones(2, np.float32)},
        initial_carry=lambda params, size, condition: (np.ones((size, 2), np.float32),),
        num_labels=0,
        labels=(),
        end_token=None,
    )


def fake_models(engine: FakeEngine, name: str = "demo") -> Models:
    models = Models()
    model = fake_model(engine.tokenizer)
    models.add(
        ServedModel(name, "language_model", model, engine=engine, fingerprint="f" * 16, created=1)
    )
    return models
