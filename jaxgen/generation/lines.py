"""From token ids to texts: samples, beams, and lines of text that grow piece by piece."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgen.generation.programs import Piece
from jaxgen.generation.stop_strings import StopStrings


class Sample(NamedTuple):
    """One generated text."""

    text: str
    """Without the prompt and without the stop string."""
    tokens: list[int]
    """All tokens generated, also those of a stop string."""
    logprobs: list[float] | None
    """Natural log-probability of each token under the model itself, before any setting."""
    finished: bool
    """Whether a stop token or a stop string ended it."""


class Beam(NamedTuple):
    """One text that a beam search found."""

    text: str
    """Without the prompt."""
    tokens: list[int]
    """The stop token included."""
    logprob: float
    """Natural log-probability of all tokens together."""
    score: float
    """What it is ranked by: the log-probability over the length penalty, or, sampled, the
    log-probability with its Gumbel noise."""


class Line:
    """A text that grows by pieces of tokens."""

    def __init__(self, tokenizer: Any, context: np.ndarray, stop: str | Sequence[str] | None):
        self._decoder, self._stops = tokenizer.decoder(), StopStrings(stop)
        self._decoder.push(context)
        self.finished = False
        self.forget()

    def forget(self) -> None:
        """Let go of what was given out: a stream keeps nothing."""
        self._texts: list[str] = []
        self._tokens: list[int] = []
        self._logprobs: list[float] = []

    def push(self, made: Piece, row: int) -> str:
        """One piece more; the text that it makes certain."""
        if self.finished:
            return ""
        length = int(made.lengths[row])
        tokens = made.tokens[row, :length].tolist()
        self._tokens += tokens
        if made.logprobs is not None:
            self._logprobs += made.logprobs[row, :length].tolist()
        self._texts.append(self._stops.push(self._decoder.push(tokens)))
        self.finished = bool(made.finished[row]) or self._stops.found
        return self._texts[-1]

    def close(self) -> str:
        """What was held back for half a character or half a stop string."""
        rest = self._stops.push(self._decoder.finish())
        return rest + self._stops.finish()

    def sample(self, logprobs: bool) -> Sample:
        """All there is."""
        text = "".join(self._texts) + self.close()
        return Sample(text, self._tokens, self._logprobs if logprobs else None, self.finished)


def continuation(tokenizer: Any, context: np.ndarray, tokens: Sequence[int]) -> str:
    """What some tokens add to the text of a context."""
    decoder = tokenizer.decoder()
    decoder.push(context)
    return decoder.push(tokens) + decoder.finish()


def texts_of(samples: Any) -> Any:
    """The texts in the place of the samples."""
    return samples.text if isinstance(samples, Sample) else [texts_of(sample) for sample in samples]
