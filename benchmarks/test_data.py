"""Suite: tokenizers and the cutting of a text into batches."""

from typing import Any

import numpy as np
import pytest

from jaxgen.data.streams import TokenStream

CHARACTERS = 2_000_000


class ArrayTokens:
    """Token ids in memory."""

    def __init__(self, ids: np.ndarray):
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.ids[start:stop]


def text() -> str:
    """Pseudo-English of a fixed seed: words of a few letters with a skewed frequency."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    words = [
        "".join(rng.choice(letters[: rng.integers(4, 26)], rng.integers(1, 9))) for _ in range(5000)
    ]
    chosen = rng.zipf(1.3, CHARACTERS // 4) % len(words)
    return " ".join(words[index] for index in chosen)[:CHARACTERS]


@pytest.mark.parametrize("kind", ["byte", "char", "word", "bpe"], ids="encode {}".format)
def test_encode(kind: str, measure: Any, benchmark: Any) -> None:
    pytest.importorskip("tokenizers")
    pytest.importorskip("pydantic")
    from jaxgen.config import TokenizerConfig
    from jaxgen.data.vocabulary import build_tokenizer

    sample = text()
    size = 1000 if kind == "bpe" else None
    learned = sample[:200_000] if kind == "bpe" else sample
    tokenizer = build_tokenizer(TokenizerConfig(kind=kind, vocab_size=size), [learned])
    seconds = measure(lambda units: [tokenizer.encode(sample) for _ in range(units)], suite="data")
    benchmark.extra_info.update(characters_per_second=len(sample) / seconds)


@pytest.mark.parametrize("shape", [(32, 64), (64, 128)], ids="stream B={0[0]} T={0[1]}".format)
def test_stream(shape: tuple[int, int], measure: Any, benchmark: Any) -> None:
    batch_size, length = shape
    ids = np.random.default_rng(0).integers(0, 65, 4_000_000).astype(np.int32)
    stream = TokenStream(ArrayTokens(ids), batch_size, length)

    def run(units: int) -> None:
        for index in range(units):
            stream.chunk(0, index % (stream.windows_per_epoch - 16), 16)

    seconds = measure(run, suite="data")
    benchmark.extra_info.update(tokens_per_second=16 * batch_size * length / seconds)
