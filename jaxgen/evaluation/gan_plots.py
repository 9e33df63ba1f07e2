"""The quality-diversity curve of a text GAN beside that of MLE."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plot_curve(path: Path, figures: Mapping[str, Any]) -> Path | None:
    """Draw MLE's temperatures as a line and the GAN as a point, or its own line.

    The figures are those of `gan_table`; matplotlib must be installed
    (`jaxgen.evaluation.pictures.check_curve`).
    """
    raise NotImplementedError
