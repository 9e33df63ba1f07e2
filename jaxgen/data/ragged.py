"""Rows of different lengths: kept end to end, cut, and padded to a batch."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxgen.types import Float, Int

Labels = Int[np.ndarray, " N"] | Float[np.ndarray, "N C"] | None
"""One class a row; 0 and 1 for each of several classes; or none."""


class LabelledBatch(NamedTuple):
    """Padded rows with their labels: arrays, or the shapes of some. Batches may be stacked."""

    tokens: Any
    """Int[..., B, T], int32; 0 beyond the length."""
    lengths: Any
    """Int[..., B], int32; 0 for an empty row, or one that only fills the batch."""
    labels: Any
    """Int[..., B], int32 classes; or Float[..., B, C], float32 0 or 1 for each of several."""
    weights: Any
    """Float[..., B], float32: 1, or 0 for a row that only fills the batch."""


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of token ids, end to end in one array: millions of rows are two objects."""

    ids: Int[np.ndarray, " M"]
    """Int32: the rows, one after the other."""
    offsets: Int[np.ndarray, " offsets"]
    """Int64[N + 1]: where each row starts in `ids`, and where the last one ends."""

    @classmethod
    def from_rows(cls, rows: Iterable[ArrayLike]) -> "Ragged":
        """Put rows of integers end to end."""
        arrays = [np.asarray(row, np.int32) for row in rows]
        lengths = np.fromiter(map(len, arrays), np.int64, len(arrays))
        return cls(np.concatenate([np.zeros(0, np.int32), *arrays]), _offsets(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Int[np.ndarray, " N"]:
        """Tokens of each row, int64."""
        return np.diff(self.offsets)

    def row(self, index: int) -> Int[np.ndarray, " T"]:
        """The tokens of one row, a view; `index` counts from 0."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def take(self, indexes: Int[np.ndarray, " K"]) -> "Ragged":
        """Some rows, in this order."""
        lengths = self.lengths[indexes]
        offsets = _offsets(lengths)
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[indexes] - offsets[:-1], lengths)
        return Ragged(self.ids[places], offsets)

    def cut(self, max_length: int, keep: Literal["start", "end", "both"] = "start") -> "Ragged":
        """Leave at most `max_length` tokens of each row.

        Args:
            max_length: Most tokens of a row.
            keep: What stays of a longer row: its start, its end, or half of each; of an odd
                number the start gets one more.
        """
        first = {"start": max_length, "end": 0, "both": (max_length + 1) // 2}[keep]
        lengths = np.minimum(self.lengths, max_length)
        offsets = _offsets(lengths)
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
        left_out = np.where(within < first, 0, np.repeat(self.lengths - lengths, lengths))
        places = within + np.repeat(self.offsets[:-1], lengths) + left_out
        return Ragged(self.ids[places], offsets)

    def padded(
        self, indexes: Int[np.ndarray, "*B"], length: int
    ) -> tuple[Int[np.ndarray, "*B T"], Int[np.ndarray, "*B"]]:
        """Rows of one length: tokens (int32, 0 beyond the end of a row) and lengths (int32).

        Args:
            indexes: Which rows, in an array of any shape; -1 is a row of no tokens.
            length: T, which no row may exceed.
        """
        starts = np.where(indexes < 0, 0, self.offsets[indexes])
        lengths = np.where(indexes < 0, 0, self.offsets[indexes + 1] - starts)
        if (lengths > length).any():
            raise ValueError(f"a row of {lengths.max()} tokens in a batch of length {length}")
        steps = np.arange(length)
        real = steps < lengths[..., None]
        tokens = np.zeros(real.shape, np.int32)
        tokens[real] = self.ids[(starts[..., None] + steps)[real]]
        return tokens, lengths.astype(np.int32)


def rows_digest(rows: Ragged, labels: Labels = None) -> str:
    """128 bits that tell rows and labels apart, whatever their integer types and the machine."""
    hashed = hashlib.sha256()
    parts = [(rows.lengths, "<i8"), (rows.ids, "<i4")]
    if labels is not None:
        parts.append((labels, "<i4" if np.issubdtype(labels.dtype, np.integer) else "<f4"))
    for array, dtype in parts:
        hashed.update(np.ascontiguousarray(array, dtype).data)
        hashed.update(str(array.shape).encode())
    return hashed.hexdigest()[:32]


def _offsets(lengths: Int[np.ndarray, " N"]) -> Int[np.ndarray, " offsets"]:
    """Where rows of these lengths start and end."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
