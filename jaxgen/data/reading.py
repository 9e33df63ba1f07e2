"""Texts to rows of tokens as a classifier reads them: cleaned, encoded, cut to its length."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxgen.data.ragged import Ragged
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.errors import UserError


@dataclass(frozen=True)
class TextReader:
    """How a classifier reads a text, the same in training and in use.

    Attributes:
        tokenizer: cuts the text.
        clean: what is done to the text before.
        max_length: tokens that are read at most.
        keep: what stays of a longer text, see `Ragged.cut`.
        read_padding: fill shorter texts up with the tokenizer's `<pad>`, as tokens like any other.
    """

    tokenizer: Tokenizer
    clean: Callable[[str], str]
    max_length: int
    keep: Literal["start", "end", "both"] = "start"
    read_padding: bool = False

    def read(self, texts: Sequence[object]) -> tuple[Ragged, int]:
        """The tokens of each text, and how many texts hold nothing that the tokenizer knows.

        Raises:
            UserError: one of them is no text.
        """
        encoded, _ = self.tokenizer.encode_many([self.clean(_text(text)) for text in texts])
        rows = Ragged.from_rows(encoded)
        unknown = self.tokenizer.unk_id
        known = np.cumsum(np.append(0, rows.ids != (-1 if unknown is None else unknown)))
        silent = int((np.diff(known[rows.offsets]) == 0).sum())
        rows = rows.cut(self.max_length, self.keep)
        return self._filled(rows) if self.read_padding else rows, silent

    def _filled(self, rows: Ragged) -> Ragged:
        tokens, lengths = rows.padded(np.arange(len(rows)), self.max_length)
        tokens[np.arange(self.max_length) >= lengths[:, None]] = self.tokenizer.pad_id
        return Ragged(tokens.reshape(-1), np.arange(len(rows) + 1) * self.max_length)

    def count(self, text: str) -> int:
        """Tokens of a text, before it is cut."""
        return len(self.tokenizer.encode_with_unknowns(self.clean(text))[0])


def _text(text: object) -> str:
    if not isinstance(text, str):
        raise UserError(f"a classifier reads texts, got {text!r:.80}; give a str for each")
    return text
