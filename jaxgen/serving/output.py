"""From the tokens of a slot to the chunks of an answer: text, stop strings, log-probabilities."""

import time
from typing import Any, NamedTuple

import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation.lines import Ending
from jaxgen.generation.stop_strings import StopStrings
from jaxgen.serving.requests import Chunk, FinishReason, Generation, TokenScores
from jaxgen.types import Float, Int

_LONGEST_WAIT = 0.1
"""Seconds after which a chunk is given though it holds few tokens."""


class Piece(NamedTuple):
    """What one dispatch generated for a text."""

    tokens: list[int]
    logprobs: list[float]
    top: list[dict[int, float]]
    finished: bool
    """By a stop token, or because no token is left."""
    broken: bool
    """The logits were no numbers."""


class Output:
    """The text of one slot, as it grows.

    Its chunks together are the `Sample` of `TextModel.sample`: with stop strings a token is given
    out once the text that stood before it is known to belong to the text.
    """

    def __init__(
        self, tokenizer: Any, context: Int[np.ndarray, "P"], generation: Generation, ending: Ending
    ):
        """A text that follows the tokens of a context."""
        self._generation, self._ending = generation, ending
        self._decoder, self._stops = tokenizer.decoder(), StopStrings(generation.stop)
        self._decoder.push(context.tolist())
        self._tokens: list[int] = []
        self._logprobs: list[float] = []
        self._top: list[dict[int, float]] = []
        self._texts: list[str] = []
        self._before: list[int] = []  # characters said before each token, with stop strings
        self._said = self._shown = 0
        self._given = 0
        self._last_time: float | None = None
        self.prompt_scores: TokenScores | None = None
        self.finish_reason: FinishReason | None = None

    @property
    def count(self) -> int:
        """Tokens so far."""
        return len(self._tokens)

    @property
    def ended_by_itself(self) -> bool:
        """Whether the slot went on past the text, or read a token that only ends it."""
        return self._stops.found or len(self._ending.spoken(self._tokens)) < len(self._tokens)

    @property
    def spoken(self) -> list[int]:
        """Tokens of the text, once it has ended."""
        return list(self._ending.spoken(self._tokens))

    def push(self, piece: Piece, last: bool) -> None:
        """More tokens; `last` where the slot will not give more.

        Raises:
            UserError: the model's logits were NaN, and no stop string had ended the text before.
        """
        self._tokens += piece.tokens
        self._logprobs += piece.logprobs
        self._top += piece.top
        spoken = self._ending.spoken(piece.tokens)
        if not self._stops.stops:
            self._texts.append(self._decoder.push(spoken))
        else:
            self._watch(spoken)
        if piece.broken and not self._stops.found:
            raise UserError(
                f"the model's logits must be numbers, got NaN at step {self.count + 1} of the text;"
                " look for NaN or infinite values in its parameters and in its carry"
            )
        if last or self._stops.found:
            self._close(piece.finished)

    def _watch(self, spoken: Any) -> None:
        """Tokens one by one, up to a stop string."""
        for token in spoken:
            self._before.append(self._said)
            text = self._decoder.push([token])
            self._said += len(text)
            self._show(self._stops.push(text))
            if self._stops.found:
                return

    def _show(self, text: str) -> None:
        self._texts.append(text)
        self._shown += len(text)

    def _close(self, finished: bool) -> None:
        rest = self._decoder.finish()  # half a character
        self._show(self._stops.push("" if self._ending.whole else rest))
        self._show(self._stops.finish())
        self.finish_reason = "stop" if finished or self._stops.found else "length"
        if self._stops.found:
            kept = self._certain()
            del self._tokens[kept:], self._logprobs[kept:], self._top[kept:]

    def _certain(self) -> int:
        """Tokens before which only text stands that is shown."""
        return sum(before < self._shown for before in self._before)

    def chunk(self) -> Chunk | None:
        """What can be given out, if it is time to."""
        ended = self.finish_reason is not None
        certain = self._certain() if self._stops.stops and not ended else self.count
        now = time.perf_counter()
        first = self._last_time is None
        due = first or now - (self._last_time or now) >= _LONGEST_WAIT
        new, wanted = certain - self._given, self._generation.tokens_per_chunk
        enough = wanted is not None and (new >= wanted or (due and new > 0))
        if not (ended or enough):
            return None
        part = slice(self._given, certain)
        found = Chunk(
            self._tokens[part],
            "".join(self._texts),
            self._logprobs[part],
            self._top[part],
            self.finish_reason,
            self.prompt_scores,
        )
        self._given, self._last_time, self.prompt_scores = certain, now, None
        self._texts = []
        return found


def pieces(
    tokens: Int[np.ndarray, "R N"],
    lengths: Int[np.ndarray, "R"],
    finished: np.ndarray,
    logprobs: Float[np.ndarray, "R N"] | None,
) -> list[Piece]:
    """What a dispatch generated, row by row, without the likeliest tokens."""
    lines, known = tokens.tolist(), None if logprobs is None else logprobs.tolist()
    rows = []
    for row, (length, ended) in enumerate(zip(lengths.tolist(), finished.tolist(), strict=True)):
        line, scores = lines[row], [] if known is None else known[row][:length]
        broken = length < len(line) and line[length] == -1
        rows.append(Piece(line[:length], scores, [], ended, broken))
    return rows


def likeliest(
    tokens: Int[np.ndarray, "N n"], logprobs: Float[np.ndarray, "N n"], count: int
) -> list[dict[int, float]]:
    """The `count` likeliest tokens at each place, of more."""
    rows = zip(tokens[:, :count].tolist(), logprobs[:, :count].tolist(), strict=True)
    return [dict(zip(*row, strict=True)) for row in rows]
