"""A model that trains in a second, for the tests of what is done with trained models."""

from pathlib import Path

TEXT = "".join(f"{a} and {b} make {a + b}. " for a in range(12) for b in range(12))

CONFIG = """
[data]
files = ['{corpus}']
validation_fraction = 0.1
test_fraction = 0.1

[model]
hidden_size = 8

[training]
batch_size = 2
sequence_length = 8
max_steps = 4
evaluate_every = 2
steps_per_dispatch = 2
devices = 1

[samples]
temperatures = [0.5]
max_new_tokens = 5
"""


def write_config(folder: Path, text: str = TEXT) -> Path:
    """Write a corpus and a configuration that trains on it."""
    corpus = folder / "corpus.txt"
    corpus.write_text(text, encoding="utf-8")
    config = folder / "tiny.toml"
    config.write_text(CONFIG.format(corpus=corpus), encoding="utf-8")
    return config
