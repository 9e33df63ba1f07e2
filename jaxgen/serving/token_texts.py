"""Tokens as OpenAI's API writes them: their texts, and where in the text they begin."""

import codecs
import math
from collections.abc import Iterable
from typing import Any

LOWEST = -9999.0
"""Stands for the logarithm of 0, which JSON has not."""


class TokenTexts:
    """The texts of tokens that come one after the other.

    Attributes:
        length: characters that the tokens so far complete.
    """

    def __init__(self, tokenizer: Any, context: Iterable[int]):
        """Begin after the tokens of a context, which do not count."""
        self._tables = tokenizer.token_texts(False), tokenizer.token_texts(True)
        self._after_word = False
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        for token in context:
            self.push(token)
        self.length = 0

    def text(self, token: int) -> str:
        r"""What a token would add now; `bytes:\xe2\x82` where that is half a character."""
        piece, _ = self._tables[self._after_word][token]
        try:
            return piece.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)

    def push(self, token: int) -> None:
        """Go on with a token."""
        piece, self._after_word = self._tables[self._after_word][token]
        self.length = getattr(self, "length", 0) + len(self._utf8.decode(piece))

    def likeliest(self, scores: dict[int, float]) -> dict[str, float]:
        """Log-probabilities by the texts of tokens, the highest first."""
        ranked = sorted(scores.items(), key=lambda pair: -pair[1])
        found: dict[str, float] = {}
        for token, logprob in ranked:
            found.setdefault(self.text(token), as_json(logprob))
        return found


def as_json(logprob: float) -> float:
    """A log-probability that JSON can say."""
    return LOWEST if math.isnan(logprob) else max(logprob, LOWEST)
