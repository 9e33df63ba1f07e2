"""Texts to rows of token ids: cleaned, cut and, where padding is to be read, padded."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxgen.data.ragged import Ragged
from jaxgen.data.tokenizers import Tokenizer


@dataclass(frozen=True)
class TextEncoder:
    """How a classifier reads texts, the same in training and in use."""

    tokenizer: Tokenizer
    clean: Callable[[str], str]
    """Makes of a text what the tokenizer is to read."""
    max_length: int
    """Most tokens of a row."""
    keep: Literal["start", "end", "both"] = "start"
    """What stays of a longer text."""
    read_padding: bool = False
    """Fill every row to `max_length` with the tokenizer's `<pad>`, as tokens like any other."""

    def encode(self, texts: Sequence[str]) -> tuple[Ragged, Counter[str]]:
        """Rows of the texts, and the count of what the vocabulary does not have.

        A text of which nothing is left is a row of no tokens.
        """
        ids, unknown = self.tokenizer.encode_many([self.clean(text) for text in texts])
        rows = Ragged.from_rows(ids).cut(self.max_length, self.keep)
        if self.read_padding:
            tokens, lengths = rows.padded(np.arange(len(rows)), self.max_length)
            tokens[np.arange(self.max_length) >= lengths[:, None]] = self.tokenizer.pad_id
            rows = Ragged.from_rows(tokens)
        return rows, unknown
