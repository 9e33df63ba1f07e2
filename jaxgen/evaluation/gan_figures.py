"""The figures of a text GAN as rows: one of each model and temperature, over its seeds.

A row is a dict of the `COLUMNS` that are known, every figure a number: the mean over the seeds.
`temperature` is that of the samples, `seeds` how many runs there were, and `deviation` a dict of
the standard deviations of the same names, where there were several.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

COLUMNS = (
    *(f"bleu_{n}" for n in (2, 3, 4, 5)),
    *(f"self_bleu_{n}" for n in (2, 3, 4, 5)),
    *("nll_gen", "nll_test", "nll_oracle", "distinct_2", "fed", "lm", "rlm"),
)
"""nll_gen is nats per token of held-out text under the generator's own early phase ..."""


def sample_figures(samples: Any, references: Any, n_max: int = 5) -> dict[str, float]:
    """`bleu_2` ... , `self_bleu_2` ... and `distinct_2` of samples, as lists of tokens."""
    raise NotImplementedError


def mean_row(rows: Sequence[Row]) -> dict[str, Any]:
    """One row out of those of several seeds: means, `deviation` (N - 1) and `seeds`."""
    raise NotImplementedError


def best_temperature(sweep: Sequence[Row]) -> int:
    """Index of the best row of MLE's temperatures."""
    raise NotImplementedError


def verdict(figures: Mapping[str, Any]) -> dict[str, Any]:
    """How the GAN compares with MLE's curve of temperatures.

    Args:
        figures: `gan` and `train`, rows; `mle`, MLE's at temperature 1; `mle_sweep`, rows of MLE
            at several temperatures; optionally `gan_sweep`.
    """
    raise NotImplementedError
