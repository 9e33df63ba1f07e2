"""Suite: from a text file to token ids, and from those to batches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.costs import FLOAT, Cost
from benchmarks.texts import CHARACTERS, ids, text
from jaxgen.data.streams import TokenArray, TokenStream

ENCODED = Cost(0, CHARACTERS * (1 + FLOAT))
"""Every character is read and every id written once, at most one a character."""


@pytest.mark.parametrize("kind", ["byte", "char", "word", "bpe"], ids="encode {}".format)
def test_encode(kind: str, measure: Any) -> None:
    pytest.importorskip("tokenizers")
    pytest.importorskip("pydantic")
    from jaxgen.config import TokenizerConfig
    from jaxgen.data.vocabulary import build_tokenizer

    sample = text()
    size = 1000 if kind == "bpe" else None
    learned = sample[:200_000] if kind == "bpe" else sample
    tokenizer = build_tokenizer(TokenizerConfig(kind=kind, vocab_size=size), [learned])
    measure(
        lambda units: [tokenizer.encode(sample) for _ in range(units)],
        suite="data",
        unit="characters",
        cost=ENCODED,
        amount=CHARACTERS,
    )


@pytest.mark.parametrize("kind", ["char", "word"], ids="file to ids, {}".format)
def test_file_to_ids(kind: str, measure: Any, tmp_path: Path) -> None:
    """Opening, building the vocabulary and encoding: what a run begins with."""
    pytest.importorskip("tokenizers")
    pytest.importorskip("pydantic")
    pytest.importorskip("datasets")
    from jaxgen.config import CorpusConfig, TokenizerConfig
    from jaxgen.data.corpora import fit_tokenizer, load_corpus
    from jaxgen.data.tokens import encode_corpus

    path = tmp_path / "text.txt"
    path.write_text(text())
    data = CorpusConfig(files=(path,), validation_fraction=0.0, test_fraction=0.0)

    def run(units: int) -> None:
        for _ in range(units):
            corpus = load_corpus(data)
            encode_corpus(corpus, fit_tokenizer(TokenizerConfig(kind=kind), corpus))

    measure(run, suite="data", unit="characters", cost=ENCODED, amount=CHARACTERS)


@pytest.mark.parametrize("shape", [(32, 64), (64, 128)], ids="stream B={0[0]} T={0[1]}".format)
def test_stream(shape: tuple[int, int], measure: Any) -> None:
    batch_size, length = shape
    stream = TokenStream(TokenArray(np.tile(ids(), 2)), batch_size, length)
    batches = 16
    tokens = batches * batch_size * length

    def run(units: int) -> None:
        for index in range(units):
            stream.read(0, index % (stream.batches_per_epoch - batches), batches)

    measure(run, suite="data", unit="tokens", cost=Cost(0, tokens * (1 + FLOAT)), amount=tokens)
