"""The figures of a text GAN as a table for the terminal, in the field's layout."""

from collections.abc import Mapping
from typing import Any


def gan_table(figures: Mapping[str, Any]) -> str:
    """The rows of `jaxgen.evaluation.gan_figures` and in words whether the GAN loses.

    Args:
        figures: what `jaxgen evaluate --json` prints: `gan`, `mle` (temperature 1), `mle_best` (at
            its best temperature), `train`, `mle_sweep`, optional `gan_sweep`, `adversarial_steps`.
    """
    raise NotImplementedError
