"""Labels as people write them, `joy=0.7,fear=0.3` or `not:anger`, as ids and weights."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxgen.errors import UserError, nearest
from jaxgen.types import Float, Int

_NOT = "not:"


class LabelWeights(NamedTuple):
    """Labels to follow, or to steer away from."""

    labels: tuple[int, ...]
    """Their ids, each once."""
    weights: tuple[float, ...]
    """Of the sum in `jaxgen.generation.guidance`, at strength 1: those to follow sum to 1; one to
    steer away from has -1, or less of it."""


def parse_labels(text: str, names: Sequence[str]) -> LabelWeights:
    """Read labels with their weights.

    `joy` is one label; `joy=0.7,fear=0.3` several, whose weights are divided by their sum (without
    `=`, a label weighs 1); `not:anger` steers away, with weight -1, and `not:anger=0.5` with -0.5.

    Args:
        text: names parted by commas, with blanks around them or not. A name that holds a comma or
            `=`, or begins with `not:`, can be given alone.
        names: the labels that the model knows, by id.

    Raises:
        UserError: a label is not known or comes twice, a weight is no number, negative or not
            finite, or the weights of the labels to follow sum to nothing.
    """
    if text.strip() in names:
        return LabelWeights((names.index(text.strip()),), (1.0,))
    follow: dict[int, float] = {}
    avoid: dict[int, float] = {}
    for part in text.split(","):
        name, equals, written = part.strip().rpartition("=")
        name, weight = (name.strip(), _weight(written, part)) if equals else (written.strip(), 1.0)
        away = name.startswith(_NOT) and name not in names
        number = _number(name.removeprefix(_NOT).strip() if away else name, names)
        if number in follow or number in avoid:
            raise UserError(f"`label` must name each label once, got `{names[number]}` twice")
        (avoid if away else follow)[number] = weight
    total = sum(follow.values())
    if follow and not 0 < total < math.inf:
        raise UserError(
            f"the weights of `label` must sum to more than 0, and to a number, got {total} in "
            f"{text!r}; give one of them a weight, as in `{names[next(iter(follow))]}=1`"
        )
    weights = [weight / total for weight in follow.values()] + [-w for w in avoid.values()]
    return LabelWeights((*follow, *avoid), tuple(weights))


def stack_labels(
    rows: Sequence[LabelWeights],
) -> tuple[Int[np.ndarray, "B K"], Float[np.ndarray, "B K"]]:
    """Labels and weights of rows as arrays; weight 0 where a row has fewer labels than another."""
    count = max(len(row.labels) for row in rows)
    labels = np.zeros((len(rows), count), np.int32)
    weights = np.zeros((len(rows), count), np.float32)
    for place, row in enumerate(rows):
        labels[place, : len(row.labels)] = row.labels
        weights[place, : len(row.labels)] = row.weights
    return labels, weights


def _weight(written: str, part: str) -> float:
    try:
        weight = float(written)
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise UserError(
            f"a weight of `label` must be a finite number, 0 or more, got {part.strip()!r}; "
            "to steer away from a label write `not:` before it"
        )
    return weight


def _number(name: str, names: Sequence[str]) -> int:
    if name not in names:
        raise UserError(
            f"`label` must be one of {', '.join(names)}, got {name!r}{nearest(name, names)}"
        )
    return names.index(name)
