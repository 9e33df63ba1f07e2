"""Labels as people write them, `joy=0.7,fear=0.3` or `not:anger`, as what a model is asked for."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgen.errors import UserError, nearest
from jaxgen.generation.guidance import Guidance
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


class Steering(NamedTuple):
    """What texts are to be about, and how strongly."""

    rows: Sequence[LabelWeights]
    """The labels of all texts, or of each."""
    strengths: Float[np.ndarray, "N"] | None
    """What their weights are multiplied by, one for all or one each; None is 1."""
    null: int
    """Id of the null label."""

    @property
    def sizes(self) -> dict[str, int]:
        """How many rows each option speaks of."""
        strengths = 1 if self.strengths is None else len(self.strengths)
        return {"label": len(self.rows), "guidance": strengths}

    def condition(self, count: int) -> Int[np.ndarray, "B"] | Guidance:
        """What a model is conditioned on for `count` rows: plain labels where these are enough."""
        rows = [*self.rows] * (count if len(self.rows) == 1 else 1)
        if self.strengths is None and all(row.weights == (1.0,) for row in rows):
            return np.array([row.labels[0] for row in rows], np.int32)
        labels, weights = stack_labels(rows)
        if self.strengths is not None:
            weights = weights * self.strengths[:, None]
        return Guidance(labels, np.int32(self.null), weights)


def read_steering(
    options: Mapping[str, Any], names: Sequence[str], num_labels: int
) -> Steering | None:
    """What is asked of a conditioned model; None where there is nothing to condition.

    Args:
        options: `label`, `guidance` and `after`, as in `TextModel.generate`.
        names: of the labels, by id; may be empty.
        num_labels: labels of the model, the null label as the last; 0 is none.

    Raises:
        UserError: the model has no labels, or not that one; a strength is no number, negative or
            not finite, or there is nothing for it to strengthen.
    """
    label, guidance, after = (options.get(name) for name in ("label", "guidance", "after"))
    for name, value in (("label", label), ("guidance", guidance)):
        if value is not None and not num_labels:
            first = value[0] if isinstance(value, list | tuple) and value else value
            raise UserError(f"`{name}` must be left out: this model has no labels, got {first}")
        if value is not None and after is not None:
            raise UserError(
                f"`{name}` is part of the state that `after` gives; leave one of the two out"
            )
    if guidance is not None and label is None:
        raise UserError(
            f"`guidance` must stand beside a `label` that it strengthens, got {guidance} alone; "
            "give a label, or leave `guidance` out"
        )
    if not num_labels or after is not None:
        return None
    null = num_labels - 1
    label = _plain(null if label is None else label)
    given = label if isinstance(label, list | tuple) else [label]
    if not given:
        raise UserError("`label` must hold at least one label, got an empty list")
    rows = [_read_label(_plain(one), names, num_labels) for one in given]
    return Steering(rows, None if guidance is None else _strengths(guidance), null)


def _plain(value: Any) -> Any:
    """Python's own numbers and lists in the place of arrays."""
    return value.tolist() if hasattr(value, "tolist") else value


def _read_label(label: Any, names: Sequence[str], num_labels: int) -> LabelWeights:
    if isinstance(label, str) and names:
        return parse_labels(label, names)
    whole = isinstance(label, int) and not isinstance(label, bool)
    if not whole or not 0 <= label < num_labels:
        known = f" or name {', '.join(names)}" if names else ""
        without = "; the labels of this model have no names" if isinstance(label, str) else ""
        raise UserError(
            f"`label` must be in [0, {num_labels}){known}, one or one a prompt, got "
            f"{label!r}{without}"
        )
    return LabelWeights((label,), (1.0,))


def _strengths(guidance: Any) -> Float[np.ndarray, "N"]:
    try:
        strengths = np.atleast_1d(np.asarray(guidance))
    except ValueError:  # lists of different lengths
        strengths = np.array([None])
    if strengths.dtype.kind not in "iuf" or strengths.ndim > 1 or not strengths.size:
        raise UserError(f"`guidance` must be a number, or one a row, got {guidance}")
    bad = strengths[~((strengths >= 0) & (strengths <= np.finfo(np.float32).max))]
    if bad.size:
        raise UserError(
            f"`guidance` must be a finite number, 0 or more, got {bad[0]}; 1 is plain "
            "conditioning, and to steer away from a label write `not:` before it"
        )
    return strengths.astype(np.float32)


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
