"""Batches of rows of similar length, in a bounded number of shapes.

Rows are padded to one of a few lengths (a bucket each), so that short rows cost little and only as
many programs are compiled as there are lengths.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxgen.data.bucket_order import BucketOrder
from jaxgen.data.ragged import LabelledBatch, Labels, Ragged
from jaxgen.errors import UserError
from jaxgen.types import Bool, Int

MOST_CANDIDATES = 2048


def bucket_lengths(lengths: Int[np.ndarray, " N"], count: int) -> tuple[int, ...]:
    """Choose the padded lengths that need the least padding.

    A dynamic programme over the different lengths: the last bucket is the longest, and the best
    buckets below a bucket do not depend on it. Exact for up to `MOST_CANDIDATES` different lengths;
    of more, that many evenly spaced ones are candidates.

    Args:
        lengths: Of the rows; 0 counts as 1.
        count: Most padded lengths.

    Returns:
        Rising padded lengths, the last that of the longest row.

    Raises:
        UserError: There are no rows, or `count` is below 1.
    """
    if count < 1:
        raise UserError(f"`buckets` must be at least 1, got {count}; use 1 for one padded length")
    if len(lengths) == 0:
        raise UserError("there are no rows to batch; give at least one")
    different, rows = np.unique(np.maximum(lengths, 1).astype(np.int64), return_counts=True)
    tokens = different * rows
    spaced = np.linspace(0, len(different), min(len(different), MOST_CANDIDATES) + 1)
    ends = spaced.astype(np.int64)[1:] - 1
    candidates = different[ends]
    # Rows and tokens no longer than each candidate, and before the first one none.
    rows, tokens = (np.concatenate([[0], np.cumsum(x)[ends]]) for x in (rows, tokens))

    count = min(count, len(candidates))
    # [k, j]: least padding of the rows up to candidate j in at most k + 1 buckets, j the last;
    # and the candidate where the bucket before the last ends. Both count candidates from 1.
    padding = np.zeros((count, len(candidates) + 1), np.int64)
    before = np.zeros_like(padding)
    for j, length in enumerate(candidates, 1):
        last = length * (rows[j] - rows[:j]) - (tokens[j] - tokens[:j])
        padding[0, j] = last[0]
        totals = padding[:-1, :j] + last
        before[1:, j] = totals.argmin(axis=1)
        padding[1:, j] = totals.min(axis=1)
    chosen, j = [], len(candidates)
    for k in reversed(range(count)):
        if j:
            chosen.append(int(candidates[j - 1]))
            j = before[k, j]
    return tuple(reversed(chosen))


class LabelDropout(NamedTuple):
    """Labels that are replaced while training, of other rows in each epoch."""

    rate: float
    """Share of the rows, below 1."""
    null: int
    """The label in their place."""

    def dropped(self, seed: int, epoch: int, rows: int) -> Bool[np.ndarray, " N"]:
        """Which of so many rows lose their label: a pure function of its arguments."""
        random = np.random.Philox(np.random.SeedSequence((seed, epoch, 1)))  # 1: not the order's
        return random.random_raw(rows) < np.uint64(self.rate * 2**64)


class BucketedRows:
    """Training batches of labelled rows: a `BatchSource` of as many shapes as padded lengths.

    Each row comes once an epoch, in the order of `BucketOrder`. With one padded length it is plain
    shuffled batches.
    """

    def __init__(
        self,
        rows: Ragged,
        labels: Labels,
        batch_size: int,
        padded_lengths: Sequence[int],
        seed: int = 0,
        block: int = 1,
        *,
        accumulate_steps: int = 1,
        label_dropout: LabelDropout | None = None,
    ) -> None:
        """Divide rows into batches.

        Args:
            rows: The texts.
            labels: Int[N] classes, or Float[N, C] of 0 and 1; without any they are 0.
            batch_size: Rows of a batch.
            padded_lengths: Rising; those that nothing needs are left out.
            seed: Of the order, with the epoch.
            block: Batches of one shape in a row, a multiple of `accumulate_steps`.
            accumulate_steps: Batches of one step, which must have one shape.
            label_dropout: For classes.

        Raises:
            UserError: There are no rows, or one is longer than the last padded length.
        """
        self._rows, self._labels = rows, _as_labels(rows, labels)
        self._batch_size = batch_size
        self._seed, self._label_dropout = seed, label_dropout
        self._padded_lengths = tuple(padded_lengths)
        self._order = BucketOrder(
            _bucket_of(rows.lengths, padded_lengths),
            [batch_size] * len(padded_lengths),
            seed=seed,
            block=block,
            accumulate_steps=accumulate_steps,
        )
        self.batches_per_epoch = self._order.batches_per_epoch

    @property
    def shapes(self) -> list[LabelledBatch]:
        """Shapes and types of the batches that occur, from the shortest on."""
        size, labels = self._batch_size, self._labels
        return [
            LabelledBatch(
                tokens=jax.ShapeDtypeStruct((size, length), np.int32),
                lengths=jax.ShapeDtypeStruct((size,), np.int32),
                labels=jax.ShapeDtypeStruct((size, *labels.shape[1:]), labels.dtype),
                weights=jax.ShapeDtypeStruct((size,), np.float32),
            )
            for length in (self._padded_lengths[bucket] for bucket in self._order.occurring)
        ]

    def same_shape(self, epoch: int, first: int) -> int:
        """Batches of one shape from `first` on."""
        return self._order.same_shape(epoch, first)

    def read(self, epoch: int, first: int, count: int, rows: slice = slice(None)) -> LabelledBatch:
        """Consecutive batches of one shape, leaves [count, rows, ...]."""
        indexes, bucket = self._order.read(epoch, first, count)
        labels, dropout = self._labels, self._label_dropout
        if dropout is not None:
            dropped = dropout.dropped(self._seed, epoch, len(labels))
            labels = np.where(dropped, np.int32(dropout.null), labels)
        return _labelled_batch(self._rows, labels, indexes[:, rows], self._padded_lengths[bucket])


def batches_by_length(
    rows: Ragged, labels: Labels, batch_size: int, padded_lengths: Sequence[int]
) -> Iterator[tuple[Int[np.ndarray, " K"], LabelledBatch]]:
    """Each row once, in the smallest padded length that it fits: batches to evaluate on.

    Yields:
        Indexes of the K rows that the batch begins with, and the batch; the rest of its
        `batch_size` rows have weight 0. `result[indexes] = outputs[:len(indexes)]` restores the
        order.

    Raises:
        UserError: A row is longer than the last padded length; at once, before the first batch.
    """
    buckets = _bucket_of(rows.lengths, padded_lengths) if len(rows) else np.zeros(0, np.int64)
    labels = _as_labels(rows, labels)

    def batches() -> Iterator[tuple[np.ndarray, LabelledBatch]]:
        for bucket, length in enumerate(padded_lengths):
            members = np.flatnonzero(buckets == bucket)
            for start in range(0, len(members), batch_size):
                indexes = members[start : start + batch_size]
                filled = np.concatenate([indexes, np.full(batch_size - len(indexes), -1)])
                yield indexes, _labelled_batch(rows, labels, filled, length)

    return batches()


def _bucket_of(
    lengths: Int[np.ndarray, " N"], padded_lengths: Sequence[int]
) -> Int[np.ndarray, " N"]:
    """Place of the smallest padded length that each row fits in."""
    if len(lengths) == 0:
        raise UserError("there are no rows to batch; give at least one")
    if list(padded_lengths) != sorted({*padded_lengths}) or padded_lengths[0] < 1:
        raise ValueError(f"padded lengths must rise from at least 1, got {padded_lengths}")
    if lengths.max() > padded_lengths[-1]:
        raise UserError(
            f"rows must have at most {padded_lengths[-1]} tokens, the longest padded length, got "
            f"one of {lengths.max()}; cut them first"
        )
    return np.searchsorted(np.asarray(padded_lengths), lengths)


def _as_labels(rows: Ragged, labels: Labels) -> np.ndarray:
    """Int32[N] or float32[N, C]; zeros where there are none."""
    if labels is None:
        return np.zeros(len(rows), np.int32)
    if len(labels) != len(rows):
        raise ValueError(f"{len(labels)} labels of {len(rows)} rows")
    return labels.astype(np.int32 if np.issubdtype(labels.dtype, np.integer) else np.float32)


def _labelled_batch(
    rows: Ragged, labels: np.ndarray, indexes: Int[np.ndarray, "*B"], length: int
) -> LabelledBatch:
    """The rows of these indexes; where one is -1, a row of weight 0."""
    tokens, lengths = rows.padded(indexes, length)
    real = indexes >= 0
    chosen = labels[indexes]
    chosen[~real] = 0
    return LabelledBatch(tokens, lengths, chosen, real.astype(np.float32))
