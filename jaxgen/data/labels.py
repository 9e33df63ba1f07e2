"""Labels as class ids: their names in a fixed order, there and back."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxgen.errors import UserError, nearest
from jaxgen.types import Float, Int

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_SHOWN = 20


@dataclass(frozen=True)
class LabelSet:
    """The labels that a classifier knows.

    Attributes:
        names: the label of each class id.
        multi_label: whether a text may have any number of labels rather than exactly one.
    """

    names: tuple[str, ...]
    multi_label: bool = False

    @classmethod
    def fit(cls, labels: Sequence[tuple[str, ...]], multi_label: bool = False) -> "LabelSet":
        """The labels of the training rows: integers in the order of numbers, else of the alphabet.

        Raises:
            UserError: there are fewer than two, or none at all with `multi_label`.
        """
        names = {name for row in labels for name in row}
        if multi_label and not names:
            raise UserError(
                "no training text has a label, so there is nothing to learn; label some of them"
            )
        if not multi_label and len(names) < 2:
            raise UserError(
                f"every training text has the label {next(iter(names), None)!r}, and a classifier "
                "needs two or more; give texts of another class too"
            )
        integers = all(map(is_integer, names))
        ordered = sorted(names, key=lambda name: (int(name), name)) if integers else sorted(names)
        return cls(tuple(ordered), multi_label)

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.names)

    def encode(
        self, labels: Sequence[tuple[str, ...]], where: str
    ) -> Int[np.ndarray, "N"] | Float[np.ndarray, "N C"]:
        """Turn the label names of rows into numbers.

        Args:
            labels: the names of each row: exactly one, or any number with `multi_label`.
            where: what the rows are, for messages.

        Returns:
            Class ids, int32; with `multi_label` a 1.0 for each label that a row has and 0.0 for
            each other, float32.

        Raises:
            UserError: a label is not one of the set's.
        """
        ids = {name: index for index, name in enumerate(self.names)}
        unknown = dict.fromkeys(name for row in labels for name in row if name not in ids)
        if unknown:
            raise self._unknown(list(unknown), where)
        if not self.multi_label:
            return np.fromiter((ids[name] for (name,) in labels), np.int32, len(labels))
        encoded = np.zeros((len(labels), len(self)), np.float32)
        for index, row in enumerate(labels):
            encoded[index, [ids[name] for name in row]] = 1.0
        return encoded

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"labels": list(self.names), "multi_label": self.multi_label}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LabelSet":
        """Read what `to_dict` wrote; other keys are left alone."""
        return cls(tuple(values["labels"]), bool(values["multi_label"]))

    def _unknown(self, names: list[str], where: str) -> UserError:
        shown, known = _list(names), _list(self.names)
        close = nearest(names[0], self.names) if len(names) == 1 else ""
        labels = "a label" if len(names) == 1 else f"{len(names)} labels"
        return UserError(
            f"{where} has {labels} that the training data do not have: {shown}{close}; known are: "
            f"{known}; mend {'that label' if len(names) == 1 else 'those labels'}, or add such "
            "texts to the training data"
        )


def is_integer(name: str) -> bool:
    """Whether a label is written as an integer."""
    return _INTEGER.fullmatch(name) is not None


def _list(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(f"{name:.60}" for name in names[:_SHOWN]) + more
