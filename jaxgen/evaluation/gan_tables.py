"""Figures of a text GAN as tables for the terminal, in the field's layout."""

from collections.abc import Mapping
from typing import Any

from jaxgen.evaluation.classification_tables import grid
from jaxgen.evaluation.gan_figures import ORDERS, Row, known
from jaxgen.evaluation.gan_verdict import sentences

_GRAMS = {
    **{f"bleu_{n}": (f"BLEU-{n}", ".3f") for n in ORDERS},
    **{f"self_bleu_{n}": (f"Self-BLEU-{n}", ".3f") for n in ORDERS},
    "distinct_2": ("distinct-2", ".3f"),
}
_OTHERS = {
    "nll_gen": ("NLL_gen", ".3f"),
    "nll_test": ("NLL_test", ".3f"),
    "nll_oracle": ("NLL_oracle", ".3f"),
    "fed": ("FED", ".4f"),
    "lm": ("LM", ".3f"),
    "rlm": ("RLM", ".3f"),
}
_FACTS = {"text": "text", "samples": "samples", "adversarial_steps": "adversarial steps"}


def gan_tables(figures: Mapping[str, Any]) -> str:
    """What `jaxgen.evaluation.gan_verdict.joined` gives as blocks of text.

    The GAN, MLE at its best temperature and at 1, and the training texts, a row each, with
    deviations where there are several seeds; the curve of MLE; and in words who wins.

    Args:
        figures: perhaps with `text`, the name of the held-out texts, `samples`, how many were
            drawn, and `adversarial_steps`.
    """
    rows = {
        "GAN": figures["gan"],
        f"MLE, best temperature ({figures['mle_best']['temperature']:g})": figures["mle_best"],
        "MLE, temperature 1": figures["mle"],
        "training texts": figures["train"],
    }
    facts = {title: figures[name] for name, title in _FACTS.items() if name in figures}
    facts["seeds"] = figures["gan"]["seeds"]
    lines = [
        f"{title:19}{value:,}" if isinstance(value, int) else f"{title:19}{value}"
        for title, value in facts.items()
    ]
    blocks = ["\n".join(lines), *(_table(rows, columns) for columns in (_GRAMS, _OTHERS))]
    names = [figures["verdict"][name] for name in ("quality", "diversity")]
    curve = {
        f"{title}, temperature {row['temperature']:g}": row
        for title, name in (("MLE", "mle_sweep"), ("GAN", "gan_sweep"))
        for row in figures.get(name, ())
    }
    blocks.append(_table(curve, {name: (_GRAMS | _OTHERS)[name] for name in names}))
    return "\n\n".join([*(block for block in blocks if block), "\n".join(sentences(figures))])


def _table(rows: Mapping[str, Row], columns: Mapping[str, tuple[str, str]]) -> str:
    """The columns that any row has; empty where there are none."""
    shown = {name: of for name, of in columns.items() if any(known(x, name) for x in rows.values())}
    if not shown:
        return ""
    head = ["", *(title for title, _ in shown.values())]
    return grid(
        [head]
        + [
            [title, *(_shown(row, name, form) for name, (_, form) in shown.items())]
            for title, row in rows.items()
        ]
    )


def _shown(row: Row, name: str, form: str) -> str:
    """A mean and its deviation; a dash where there is no such figure."""
    if not known(row, name):
        return "-"
    deviation = row.get("deviation", {}).get(name)
    return format(row[name], form) + ("" if deviation is None else f" ± {deviation:{form}}")
