"""Figures of control over a language model as tables for the terminal."""

from collections.abc import Mapping
from typing import Any

from jaxgen.evaluation.classification_tables import grid, shorten
from jaxgen.evaluation.control import COPIED_WORDS, strengths_that_meet

_TITLES = {
    "perplexity": ("perplexity", ".2f"),
    "distinct_1": ("distinct-1", ".4f"),
    "distinct_2": ("distinct-2", ".4f"),
    "copied": ("copied", ".1%"),
    "longest_copy": ("longest copy", ",d"),
    "mean_words": ("words", ".1f"),
    "empty": ("empty", ",d"),
    "cut": ("cut", ",d"),
}


def control_tables(figures: Mapping[str, Any]) -> str:
    """The figures of `jaxgen.tasks.conditional_control.control` as three blocks of text."""
    real, rows = figures["real"], figures["strengths"]
    head = ["", "accuracy", *(title for title, _ in _TITLES.values())]
    table = [head] + [
        [f"strength {row['strength']:g}", _shown(row["accuracy"], ".4f"), *_values(row)]
        for row in rows
    ]
    table.append(["real text", _shown(real["accuracy"], ".4f"), *_values(real)])
    labels = [["accuracy", *(f"{row['strength']:g}" for row in rows), "real text"]]
    labels += [
        [shorten(name), *(_shown(row["per_label"][name], ".3f") for row in (*rows, real))]
        for name in figures["labels"]
    ]
    met = ", ".join(f"{strength:g}" for strength in strengths_that_meet(figures))
    facts = {
        "text": f"{figures['text']} ({real['texts']:,} texts)",
        "samples": f"{figures['samples']:,} a label, temperature {figures['temperature']:g}, "
        f"top-p {figures['top_p']:g}, at most {figures['max_new_tokens']:,} tokens",
        "distinct-n": f"of {figures['distinct_texts']:,} texts each",
        "copied": f"texts with more than {COPIED_WORDS} words in a row out of a training text",
        "targets met at": f"strength {met}" if met else "no strength",
    }
    if "curve" in figures:
        facts["curve"] = figures["curve"] or "could not be drawn"
    lines = "\n".join(f"{name:16}{value}" for name, value in facts.items())
    return f"{lines}\n\n{grid(table)}\n\n{grid(labels)}"


def _values(row: Mapping[str, Any]) -> list[str]:
    return [_shown(row.get(name), form) for name, (_, form) in _TITLES.items()]


def _shown(value: float | int | None, form: str) -> str:
    """A dash where there is no such figure."""
    return "-" if value is None else format(value, form)
