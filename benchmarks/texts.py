"""Texts and token ids that the data and metrics rows work on, made from a seed."""

import numpy as np

CHARACTERS = 2_000_000


def text() -> str:
    """Pseudo-English: words of a few letters with a skewed frequency."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    words = [
        "".join(rng.choice(letters[: rng.integers(4, 26)], rng.integers(1, 9))) for _ in range(5000)
    ]
    chosen = rng.zipf(1.3, CHARACTERS // 4) % len(words)
    return " ".join(words[index] for index in chosen)[:CHARACTERS]


def ids() -> np.ndarray:
    """The text's bytes."""
    return np.frombuffer(text().encode(), np.uint8)
