"""Figures of a text GAN and of what it is compared with, as rows.

A row is a dict with the figures of one model at one `temperature`. That of several seeds has their
means, how many `seeds` there are, and the standard `deviation` of each figure.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from jaxgen.errors import UserError
from jaxgen.evaluation.bleu import Texts, bleus, self_bleus
from jaxgen.evaluation.memorisation import distinct

Row = Mapping[str, Any]

ORDERS = (2, 3, 4, 5)
"""Lengths of n-grams of BLEU and Self-BLEU."""
COLUMNS = (
    *(f"bleu_{n}" for n in ORDERS),
    *(f"self_bleu_{n}" for n in ORDERS),
    *("nll_gen", "nll_test", "nll_oracle", "distinct_2", "fed", "lm", "rlm"),
)
"""The figures of a row.

`nll_gen` and `nll_test` are the nats per token that the generator gives to held-out texts, those of
validation and those of the test, never to training texts, and `nll_oracle` those that the oracle
gives to samples; all three of the model at the temperature of the row. `fed` is the Fréchet
distance to real texts; `lm` the nats per token that a judge gives to samples, and `rlm` those that
a judge trained on samples gives to real texts.
"""


def sample_figures(samples: Texts, references: Texts) -> dict[str, float]:
    """What is told from samples alone: BLEU and Self-BLEU of each order, and distinct-2.

    Args:
        samples: the tokens of each sample, as in `jaxgen.evaluation.bleu.bleu`.
        references: those of held-out texts.

    Raises:
        UserError: as `bleu` and `self_bleu`.
    """
    quality, likeness = bleus(samples, references, ORDERS[-1]), self_bleus(samples, ORDERS[-1])
    return {
        **{f"bleu_{n}": quality[n] for n in ORDERS},
        **{f"self_bleu_{n}": likeness[n] for n in ORDERS},
        "distinct_2": distinct(list(samples), 2),
    }


def mean_row(rows: Sequence[Row]) -> dict[str, Any]:
    """One row out of those of several seeds; a figure that a seed lacks is left out.

    Returns:
        The mean of each of the `COLUMNS` and of `temperature`, `seeds`, and where there are several
        `deviation`, name -> sample standard deviation.
    """
    names = [name for name in (*COLUMNS, "temperature") if all(known(row, name) for row in rows)]
    values = {name: [float(row[name]) for row in rows] for name in names}
    row: dict[str, Any] = {name: fmean(found) for name, found in values.items()}
    row["seeds"] = len(rows)
    if len(rows) > 1:
        row["deviation"] = {name: stdev(found) for name, found in values.items()}
    return row


def known(row: Row, name: str) -> bool:
    """Whether a row has a figure, and it is a finite number."""
    value = row.get(name)
    return value is not None and math.isfinite(value)


def best_temperature(sweep: Sequence[Row]) -> int:
    """Index of the best of MLE's rows, by a figure that counts quality and diversity both.

    The Fréchet distance, else the reverse score, else NLL_oracle plus NLL_test, else BLEU less
    Self-BLEU of the longest order: the first of these that every row has.

    Raises:
        UserError: there are no rows, or none of these figures.
    """
    costs = (
        ("fed",),
        ("rlm",),
        ("nll_oracle", "nll_test"),
        *((f"self_bleu_{n}", f"bleu_{n}") for n in reversed(ORDERS)),
    )
    for names in costs:
        if sweep and all(known(row, name) for row in sweep for name in names):
            signs = [-1 if name.startswith("bleu") else 1 for name in names]
            totals = [
                sum(sign * row[name] for sign, name in zip(signs, names, strict=True))
                for row in sweep
            ]
            return totals.index(min(totals))
    raise UserError(
        "the best temperature needs rows that all have one of fed, rlm, nll_oracle with nll_test, "
        f"or bleu_n with self_bleu_n, got {len(sweep)} rows"
    )
