"""What the HTTP side asks of the engine of a language model, and what it is given.

engine = ...                                    # an `Engine`, one a served model
async with engine.submit(Generation(prompt=ids, max_new_tokens=16)) as answer:
    async for chunk in answer:
        ...                                     # leaving the block frees the slot
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol, Self

from jaxgen.generation.carry import PromptState

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Generation:
    """One text: read a prompt, then generate. It takes one slot of the engine.

    The text is that of row `row` of `TextModel.generate(prompt, key=seed, ...)`, token for token,
    whatever else runs beside it. With `max_new_tokens=0` the prompt is only read: for its
    log-probabilities (`score_prompt`) or for the state after it (`return_state`).
    """

    prompt: tuple[int, ...]
    """Token ids as `tokenizer.encode` gives them; may be empty. What an empty prompt starts from,
    and what stands before every text of some models, is added by the engine."""
    max_new_tokens: int
    options: Mapping[str, Any] = field(default_factory=dict)
    """`temperature`, `top_k`, ..., `label`, `guidance`, `allow_special`: the options of
    `TextModel.generate`, one value each, except those that are fields here."""
    seed: int = 0
    row: int = 0
    """With `n` texts of a prompt, these have the rows 0 to n - 1."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these strings, which is never shown."""
    num_logprobs: int | None = None
    """None: no log-probabilities; 0: those of the tokens; n: of the n likeliest at each place too,
    at most `MOST_LOGPROBS`."""
    score_prompt: bool = False
    """Give the log-probabilities of the prompt's tokens as well, in the first chunk."""
    after: PromptState | None = None
    """Continue from this state, of one row, in the place of the first carry."""
    return_state: bool = False
    """Give the state after the text with the last chunk."""
    tokens_per_chunk: int | None = 16
    """Tokens that are gathered before a chunk is given, but for the first, the last, and where they
    take more than a tenth of a second. None: one chunk with the whole text, which is the least work
    for what is not streamed."""


MOST_LOGPROBS = 5
"""The largest `num_logprobs`."""


class TokenScores(NamedTuple):
    """Log-probabilities of a prompt's tokens, in nats, under the model itself."""

    logprobs: list[float | None]
    """One a token of `Generation.prompt`; None where nothing stands before the token."""
    top: list[dict[int, float] | None]
    """The `num_logprobs` likeliest tokens at each place with theirs."""


class Chunk(NamedTuple):
    """What one or several dispatches gave for a text."""

    tokens: list[int]
    """All chunks together hold what `Sample.tokens` holds: a stop token is part of it, and of a
    stop string no more than the token that it begins in."""
    text: str
    """Whole characters. What may be the beginning of a stop string is held back; all chunks
    together hold `Sample.text`."""
    logprobs: list[float]
    """In nats, of each token, under the model itself; empty where none were asked for."""
    top: list[dict[int, float]]
    """The likeliest tokens at each place with their log-probabilities; likewise."""
    finish_reason: FinishReason | None = None
    """Given with the last chunk."""
    prompt: TokenScores | None = None
    """With the first chunk, where `score_prompt` asks for it."""
    state: PromptState | None = None
    """With the last chunk, where `return_state` asks for it: as after reading the prompt and the
    tokens of the text, without a token that only ends it. NumPy arrays, one row."""


class EngineError(Exception):
    """The engine cannot answer."""


class FullError(EngineError):
    """The queue holds as many requests, or as many tokens, as it may."""

    def __init__(self, message: str, retry_after: float):
        """`retry_after`: seconds until there may be room, an estimate of 1 or more."""
        super().__init__(message)
        self.retry_after = retry_after


class StoppedError(EngineError):
    """The engine takes no more requests: it is being stopped, or its thread has failed."""


class Answer(Protocol):
    """The chunks of a text as they come; leaving it, or `aclose`, frees the slot."""

    def __aiter__(self) -> AsyncIterator[Chunk]:
        """Itself."""

    async def __anext__(self) -> Chunk:
        """The next chunk.

        Raises:
            UserError: the model's logits are NaN.
            StoppedError: the engine was stopped, or failed.
        """

    async def aclose(self) -> None:
        """Free the slot; any number of times."""

    async def __aenter__(self) -> Self:
        """Itself."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """`aclose`."""


class Engine(Protocol):
    """The engine of one language model: a thread with a fixed number of slots."""

    @property
    def ready(self) -> bool:
        """Whether everything is compiled and requests are answered."""

    @property
    def failure(self) -> BaseException | None:
        """What ended the thread, if anything."""

    def submit(self, generation: Generation) -> Answer:
        """Queue a text; call it in a running event loop, which then carries its chunks.

        Raises:
            UserError: an option is unknown or out of its range.
            FullError: there is no room in the queue.
            StoppedError: the engine takes no more requests.
        """

    def check(self, generation: Generation) -> None:
        """UserError where `submit` would raise one; queues nothing."""

    def metrics(self) -> Any:
        """Counters of now: `jaxgen.serving.counters.Counters`."""

    def start(self) -> None:
        """Start the thread, which compiles and then answers; returns at once."""

    async def stop(self, grace: float = 30.0) -> None:
        """Take no more requests, finish those in flight within `grace` seconds, refuse the rest."""
