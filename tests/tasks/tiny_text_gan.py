"""A text GAN that trains in a moment, once it is compiled."""

from pathlib import Path
from typing import Any

from jaxgen.config import TextGanExperiment

TINY = {
    "model": {
        "embedding_size": 4,
        "hidden_size": 4,
        "discriminator_embedding_size": 4,
        "discriminator_hidden_size": 4,
    },
    "training": {"batch_size": 8, "epochs": 2, "devices": 1, "steps_per_dispatch": 4},
    "samples": {"shown": 0, "measured": 10},
}


def write_lines(folder: Path, count: int = 40) -> Path:
    """Texts of two or three words."""
    names, verbs = ("ann", "bob", "cid", "dot", "eve"), ("likes", "sees", "has")
    lines = [f"{names[n % 5]} {verbs[n % 3]}{f' {names[n % 4]}' * (n % 2)}" for n in range(count)]
    path = folder / "lines.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def settings(**sections: dict[str, Any]) -> TextGanExperiment:
    given = {name: TINY.get(name, {}) | sections.get(name, {}) for name in {*TINY, *sections}}
    return TextGanExperiment.model_validate(given)
