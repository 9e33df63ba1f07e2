"""From token ids to texts: samples, beams, and lines of text that grow chunk by chunk."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgen.errors import UserError
from jaxgen.generation.programs import DecodedChunk
from jaxgen.generation.stop_strings import StopStrings


class Sample(NamedTuple):
    """One generated text."""

    text: str
    """Without the prompt and without the stop string."""
    tokens: list[int]
    """Its tokens, a stop token included. Where a stop string ended it, the fewest that hold all of
    the text: a token in which the stop string begins is the last of them if text stands before the
    stop string in it, and is left out otherwise."""
    logprobs: list[float] | None
    """Natural log-probability of each token under the model itself, before any setting."""
    finished: bool
    """Whether a stop token or a stop string ended it."""


class Beam(NamedTuple):
    """One text that a beam search found."""

    text: str
    """Without the prompt and without the stop string."""
    tokens: list[int]
    """Its tokens, as those of a `Sample`."""
    logprob: float
    """Natural log-probability of these tokens together."""
    score: float
    """What it is ranked by: the log-probability of the tokens, those of a stop string included,
    over the length penalty, or, sampled, with its Gumbel noise."""
    token_logprobs: list[float] | None = None
    """Natural log-probability of each token; None where it was sampled."""


class Ending(NamedTuple):
    """How a text ends where no stop string ends it."""

    token: int | None = None
    """Ends a text without being part of it."""
    whole: bool = False
    """Half a character at the end is left out."""

    def spoken(self, tokens: Sequence[int]) -> Sequence[int]:
        """The tokens of a text, without the one that ends it."""
        return tokens[:-1] if tokens and tokens[-1] == self.token else tokens


GOES_ON = Ending()


class Line:
    """A text that grows by chunks of tokens."""

    def __init__(
        self,
        tokenizer: Any,
        context: np.ndarray,
        stop: str | Sequence[str] | None,
        ending: Ending = GOES_ON,
    ):
        """A text that follows the tokens of a context; UserError for a bad stop string."""
        self._tokenizer, self._context, self._ending = tokenizer, context, ending
        self._decoder, self._stops = tokenizer.decoder(), StopStrings(stop)
        self._decoder.push(context)
        self._length = 0
        self.finished = False
        self.forget()

    def forget(self) -> None:
        """Let go of what was given out: a stream keeps nothing."""
        self._texts: list[str] = []
        self._tokens: list[int] = []
        self._logprobs: list[float] = []

    def push(self, chunk: DecodedChunk, row: int) -> str:
        """One chunk more; the text that it makes certain.

        Raises:
            UserError: the model's logits were NaN, and no stop string had ended the text before.
        """
        if self.finished:
            return ""
        length = int(chunk.lengths[row])
        tokens = chunk.tokens[row, :length].tolist()
        self._tokens += tokens
        self._length += length
        if chunk.logprobs is not None:
            self._logprobs += chunk.logprobs[row, :length].tolist()
        spoken = self._ending.spoken(tokens)
        self._texts.append(self._stops.push(self._decoder.push(spoken)))
        if not self._stops.found and chunk.tokens[row, length : length + 1].tolist() == [-1]:
            raise UserError(
                f"the model's logits must be numbers, got NaN at step {self._length + 1} of the "
                "text; look for NaN or infinite values in its parameters and in its carry"
            )
        self.finished = bool(chunk.finished[row]) or self._stops.found
        return self._texts[-1]

    def close(self) -> str:
        """What was held back for half a character or half a stop string."""
        rest = self._stops.push(_finish(self._decoder, self._ending))
        return rest + self._stops.finish()

    def sample(self, logprobs: bool) -> Sample:
        """All there is."""
        text = "".join(self._texts) + self.close()
        count = len(self._tokens)
        if self._stops.found:
            count = tokens_of_text(self._tokenizer, self._context, self._tokens, text)
        known = self._logprobs[:count] if logprobs else None
        return Sample(text, self._tokens[:count], known, self.finished)


def tokens_of_text(tokenizer: Any, context: np.ndarray, tokens: Sequence[int], text: str) -> int:
    """How many of the tokens it takes to say a text that they begin with."""
    decoder = tokenizer.decoder()
    decoder.push(context)
    said = 0
    for count, token in enumerate(tokens):
        if said >= len(text):
            return count
        said += len(decoder.push([token]))
    return len(tokens)


def text_before_stop(
    tokenizer: Any,
    context: np.ndarray,
    tokens: Sequence[int],
    stop: Sequence[str],
    ending: Ending = GOES_ON,
) -> tuple[str, int]:
    """What tokens add to the text of a context before the first stop string, and by how many."""
    decoder, stops = tokenizer.decoder(), StopStrings(stop)
    decoder.push(context)
    spoken = ending.spoken(tokens)
    text = stops.push(decoder.push(spoken))
    text += stops.push(_finish(decoder, ending)) + stops.finish()
    if not stops.found:
        return text, len(tokens)
    return text, tokens_of_text(tokenizer, context, tokens, text)


def _finish(decoder: Any, ending: Ending) -> str:
    """What a decoder holds back: half a character, which a constrained text goes without."""
    rest: str = decoder.finish()
    return "" if ending.whole else rest


def texts_of(samples: Any) -> Any:
    """The texts in the place of the samples."""
    return samples.text if isinstance(samples, Sample) else [texts_of(sample) for sample in samples]
