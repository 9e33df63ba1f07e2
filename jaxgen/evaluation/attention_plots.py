"""attention.png: which tokens of the source each token of the target attends to, as a heat map."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.errors import UserError
from jaxgen.evaluation.classification_tables import shorten
from jaxgen.evaluation.pictures import can_draw, new_figure, plain_names, save_figure

_INCHES = 0.28
"""Side of a cell, until the picture is as large as it may be."""
_LARGEST = 16.0


def plot_attention(
    path: Path,
    source_tokens: Sequence[str],
    target_tokens: Sequence[str],
    weights: Any,
) -> Path | None:
    """Draw the attention of one pair: the source from left to right, the target downwards.

    Args:
        path: a PNG file.
        source_tokens: S tokens as text.
        target_tokens: T tokens as text.
        weights: [T, S], of each target token over the source, from 0 to 1.

    Returns:
        The path, or None with a warning where it cannot be written.

    Raises:
        UserError: matplotlib is missing, or the weights are not one for each pair of tokens.
    """
    weights = np.asarray(weights, np.float32)
    wanted = (len(target_tokens), len(source_tokens))
    if weights.shape != wanted or 0 in wanted:
        raise UserError(
            "`weights` must be [T, S], one for each target and source token and at least one, got "
            f"shape {weights.shape} for {wanted[0]} target and {wanted[1]} source tokens"
        )
    if not can_draw():
        raise UserError(
            "a picture of the attention needs matplotlib, which is not installed; install "
            "jaxgen[plot]"
        )
    with plain_names():
        width, height = (min(_INCHES * count + 1.6, _LARGEST) for count in reversed(wanted))
        figure = new_figure(max(width, 3.0), max(height, 2.4))
        axes = figure.subplots()
        image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        upright = max(map(len, source_tokens)) < 3
        _name(axes.xaxis, source_tokens, width, rotation=0 if upright else 90)
        _name(axes.yaxis, target_tokens, height)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.set_xlabel("source")
        axes.set_ylabel("target")
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, label="attention", shrink=0.8).outline.set_visible(False)
        return save_figure(path, figure)


def _name(axis: Any, tokens: Sequence[str], inches: float, rotation: int = 0) -> None:
    """One name a row or column, as large as there is room for."""
    points = min(9.0, 72 * 0.8 * inches / len(tokens))
    names = [shorten(token, 18).replace(" ", "␣") or "∅" for token in tokens]
    axis.set_ticks(range(len(tokens)), names, fontsize=points, rotation=rotation)
