"""Settings of the tokenizer."""

from typing import Literal

from pydantic import field_validator

from jaxgen.config.base import Config, Positive


class TokenizerConfig(Config):
    """How text becomes token ids."""

    kind: Literal["byte", "char", "word", "bpe", "integer"] = "char"
    """Unit of text: UTF-8 bytes, characters, white-space words, BPE pieces, or ready integers."""
    vocab_size: Positive | None = None
    """Largest vocabulary, special tokens included (bpe needs it; word and char cut to it)."""
    min_frequency: Positive = 1
    """Words and characters seen less often become <unk>."""
    nfc: bool = False
    """Normalise the text to Unicode NFC first."""

    @field_validator("vocab_size", mode="before")
    @classmethod
    def _none_in_toml(cls, value: object) -> object:
        """TOML has no null."""
        return None if value == "none" else value
