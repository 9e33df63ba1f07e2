"""`Text`, an engine's request on its way, and what a dispatch does for some of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxgen.generation.carry import PromptState
from jaxgen.serving.answers import TextAnswer
from jaxgen.serving.output import Output, Piece
from jaxgen.serving.requests import Chunk, TokenScores
from jaxgen.serving.settings import Asked
from jaxgen.serving.slots import Generated, Scored
from jaxgen.types import Int


@dataclass(eq=False)
class Text:
    """A text on its way through the engine."""

    asked: Asked
    output: Output
    answer: TextAnswer
    submitted: float
    prompt: Int[np.ndarray, "P"]
    """What is to be read."""
    limit: int
    """Tokens to generate after that."""
    read: int = 0
    """Prompt tokens that were read, or are being read."""
    begun: int = 0
    """Tokens that were generated, or are being generated; more than asked for towards the end."""
    generated: int = 0
    scores: list[tuple[float, dict[int, float]]] = field(default_factory=list)
    """Of the prompt's tokens, as far as they were asked for and read."""
    row: int | None = None
    """Its slot."""
    first_token: float | None = None
    """When it came."""
    last_chunk: Chunk | None = None
    """Waits for the state after the text, which is read anew."""
    over: bool = False
    """Answered in full, or given up."""

    @property
    def is_read(self) -> bool:
        """Whether the prompt was read."""
        return self.read == len(self.prompt)

    @property
    def scored(self) -> bool:
        """Whether the prompt's log-probabilities are asked for."""
        return self.asked.generation.score_prompt and self.last_chunk is None

    @property
    def slot(self) -> int:
        """Its slot; -1 where it has none."""
        return -1 if self.row is None else self.row

    def prompt_scores(self) -> TokenScores:
        """Log-probabilities of the prompt's tokens, without what the engine put before them."""
        found: list[Any] = list(self.scores)
        if self.asked.generation.after is None and found:
            found[0] = (None, None)  # nothing stands before it
        found = found[len(self.prompt) - len(self.asked.generation.prompt) :]
        return TokenScores([one for one, _ in found], [top for _, top in found])

    @property
    def remaining(self) -> int:
        """Tokens that it may still read and generate."""
        return len(self.prompt) - self.read + self.limit - self.generated


@dataclass
class Event:
    """What a dispatch gave for a text."""

    text: Text
    piece: Piece | None
    """None: the prompt alone was to be read, and was."""
    last: bool
    """The slot is free again."""
    state: PromptState | None = None


@dataclass
class Dispatch:
    """Programs that were started, whose results are still to come."""

    started: float
    estimate: float
    keys: list[Any] = field(default_factory=list)
    """Of the estimates of their times."""
    steps: int = 0
    rows: int = 0
    """Tokens that each text generates, and slots that do so, with those that hold no text."""
    reading: Sequence[tuple[Text, int]] = ()
    """Texts and the tokens of each that are read."""
    scored: Scored | None = None
    ready: list[Text] = field(default_factory=list)
    """Texts of which no more is asked than was just read."""
    generating: Sequence[Text] = ()
    generated: Generated | None = None
    waited_for: bool = True
    """Whether its results were still to come when the host had time for them."""
