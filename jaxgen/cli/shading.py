"""The words that decided a prediction: shaded in a terminal, as numbers elsewhere."""

import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rich.text import Text

    from jaxgen.prediction.explain import Explanation

_FAINT = 0.05
"""Words below this share of the largest weight are not shaded."""
_UNREAD = 50
"""A longer row of words without any weight, as beyond what the model reads, is left out."""


def print_explanation(explanation: "Explanation") -> None:
    """Print the text with its words shaded: green for the label, red against it.

    Where that cannot be seen, each word is a line, `weight<TAB>word`.
    """
    from rich.console import Console

    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    if console.is_terminal and console.color_system is not None and not console.no_color:
        console.print(shaded(explanation))
        console.print(
            f"(green: for {explanation.label}, red: against it)", style="dim", markup=False
        )
    else:
        print("\n".join(weight_lines(explanation)))


def shaded(explanation: "Explanation") -> "Text":
    """The text with a background for each word that matters."""
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    weights = explanation.weights
    largest = float(np.abs(weights).max(initial=0.0)) or 1.0
    shown, end = Text(), 0
    for index in _shown(weights):
        if index is None:
            shown.append(" [...]")
            end = -1
            continue
        start, stop = explanation.spans[index]
        shown.append(" " if end < 0 else explanation.text[end:start])
        share = float(weights[index]) / largest
        style = None
        if abs(share) >= _FAINT:
            other = round(235 * (1 - abs(share)))
            rgb = (other, 235, other) if share > 0 else (235, other, other)
            style = Style(color="black", bgcolor=Color.from_rgb(*rgb))
        shown.append(explanation.text[start:stop], style)
        end = stop
    return shown


def weight_lines(explanation: "Explanation") -> list[str]:
    """A line for each word, in the order of the text: its weight in nats, a tab and the word."""
    words, weights = explanation.words, explanation.weights
    return [
        "\t[...]" if index is None else f"{weights[index]:+.4f}\t{words[index]}"
        for index in _shown(weights)
    ]


def _shown(weights: np.ndarray) -> "list[int | None]":
    """Numbers of the words to show; None where some are left out."""
    places = np.flatnonzero(weights)
    ends = [-1, *places.tolist(), len(weights)]
    shown: list[int | None] = []
    for before, after in pairwise(ends):
        if after - before - 1 > _UNREAD:
            shown.append(None)
        else:
            shown += range(before + 1, after)
        if after < len(weights):
            shown.append(after)
    return shown
