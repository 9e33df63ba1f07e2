"""Figures of a translator as text for the terminal: its scores beside those of copies."""

from collections.abc import Iterator, Mapping
from typing import Any

from jaxgen.evaluation.classification_tables import grid

_SCORES = {"exact_match": ("exact match", ".4f"), "bleu": ("BLEU", ".2f"), "chrf": ("chrF", ".2f")}
_TOKENS = ("nll", "perplexity", "token_accuracy")


def translation_tables(figures: Mapping[str, Any]) -> str:
    """The figures of `jaxgen.tasks.seq2seq_evaluation.evaluate`.

    The text and the figures of its tokens; a table with a row for the translations and one for the
    copies of the nearest training pair, where these are measured, of all pairs and of each kind
    that is measured apart; and how sacreBLEU computed its figures.
    """
    plain = {
        name: figures[name] for name in ("text", "pairs", "beam_size", *_TOKENS) if name in figures
    }
    lines = [f"{name:16}{_shown(value)}" for name, value in plain.items()]
    scores = [name for name in _SCORES if name in figures]
    rows = [["", "pairs", *(_SCORES[name][0] for name in scores)]]
    for name, row in _rows(figures):
        values = [format(row[score], _SCORES[score][1]) for score in scores]
        rows.append([name, f"{row['pairs']:,}" if "pairs" in row else "", *values])
    blocks = ["\n".join(lines), grid(rows)]
    signatures = [f"{_SCORES[name][0]}  {figures[f'{name}_signature']}" for name in scores[1:]]
    return "\n\n".join([*blocks, "\n".join(signatures)] if signatures else blocks)


def _rows(figures: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each row of scores by its name."""
    apart = {
        name.replace("_", " "): row
        for name, row in figures.items()
        if isinstance(row, Mapping) and name != "nearest_pair"
    }
    for name, row in {"translations": figures, **apart}.items():
        yield name, row
        if "nearest_pair" in row:
            yield "  nearest training pair", row["nearest_pair"]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
