"""What the tasks of running text share: its tokens, where documents begin, the unit of its loss."""

from collections import Counter
from typing import Any

import numpy as np

from jaxgen.data.corpora import Source
from jaxgen.data.tokenizers import Tokenizer, warn_unknown
from jaxgen.data.tokens import encode_source
from jaxgen.types import Int

EVALUATION_ROWS = 16
"""Rows that a held-out text is read in."""


def unit_of(tokenizer: Tokenizer) -> str:
    """How to show a loss: bits where a token is a character or a byte, else perplexity."""
    return "bpc" if tokenizer.kind in ("char", "byte") else "perplexity"


def reset_id_of(experiment: Any, tokenizer: Tokenizer) -> int | None:
    """The <eos> after which the carry starts anew; None where it never does."""
    return tokenizer.eos_id if experiment.data.reset_documents else None


def count_tokens(source: Source, tokenizer: Tokenizer) -> Int[np.ndarray, " V"]:
    """How often each token occurs in a text."""
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for ids in encode_source(source, tokenizer, Counter()):
        counts += np.bincount(ids, minlength=len(counts))
    return counts


def encode_text(source: Source, tokenizer: Tokenizer, *, warn: bool) -> np.ndarray:
    """All tokens of a text, [N]; with `warn` a warning of those that the vocabulary lacks."""
    unknown: Counter[str] = Counter()
    ids = np.concatenate([*encode_source(source, tokenizer, unknown)])
    if warn:
        warn_unknown(unknown, source.name)
    return ids
