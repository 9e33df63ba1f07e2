"""Batches of sources and targets of similar lengths, by tokens, in a bounded number of shapes."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxgen.config import PairData
from jaxgen.data.bucket_order import BucketOrder
from jaxgen.data.buckets import bucket_lengths
from jaxgen.data.ragged import Ragged
from jaxgen.errors import UserError
from jaxgen.types import Int

CANDIDATES = 32
"""Lengths of each side that shapes are chosen from."""


class PairBatch(NamedTuple):
    """Padded sources and targets: arrays, or the shapes of some. Batches may be stacked."""

    sources: Any
    """Int[..., B, S], int32; 0 beyond the length."""
    source_lengths: Any
    """Int[..., B], int32; 0 for a row that only fills the batch."""
    targets: Any
    """Int[..., B, T + 1], int32: from <bos> on to <eos>; 0 beyond the length."""
    target_lengths: Any
    """Int[..., B], int32: with <bos> and <eos>; 0 for a row that only fills the batch."""
    weights: Any
    """Float[..., B], float32: 1, or 0 for a row that only fills the batch."""


class PairShape(NamedTuple):
    """What the rows of a batch are padded to."""

    source: int
    """S, tokens of a source."""
    target: int
    """T + 1, tokens of a target with <bos> and <eos>."""


class PairRows(NamedTuple):
    """Encoded pairs."""

    sources: Ragged
    targets: Ragged
    """From <bos> on to <eos>."""

    def take(self, indexes: Int[np.ndarray, " K"]) -> "PairRows":
        """Some of them."""
        return PairRows(self.sources.take(indexes), self.targets.take(indexes))


def encoded_pairs(
    sources: Ragged, targets: Ragged, config: PairData, *, bos: int, eos: int, name: str
) -> PairRows:
    """Put <bos> and <eos> around targets, and cut what is too long.

    A target that is cut has no <eos>: where it ends is not its end.

    Args:
        sources: Tokens of the sources.
        targets: Tokens of the targets, without <bos> and <eos>.
        config: Says what is too long.
        bos: Id of <bos>.
        eos: Id of <eos>.
        name: Of the pairs, for messages.

    Raises:
        UserError: As `check_lengths`.
    """
    check_lengths(sources, config.source_length, "source", config.too_long, name)
    check_lengths(targets, config.target_length, "target", config.too_long, name)
    whole = with_ends(targets, bos, eos)
    return PairRows(sources.cut(config.source_length), whole.cut(config.target_length + 2))


def check_lengths(
    rows: Ragged,
    most: int,
    side: Literal["source", "target"],
    too_long: Literal["cut", "refuse"],
    name: str,
) -> None:
    """Warn of rows of more than `most` tokens, which are to be cut, or refuse them.

    Raises:
        UserError: A row is longer, and `too_long` is "refuse".

    Warns:
        UserWarning: A row is longer; with how many are.
    """
    lengths = rows.lengths
    longer = np.count_nonzero(lengths > most)
    if not longer:
        return
    found = (
        f"{longer} of {len(rows)} {side}s of {name} are longer than `data.{side}_length`, {most} "
        f"tokens; the longest is number {lengths.argmax() + 1} with {lengths.max()}"
    )
    if too_long == "refuse":
        raise UserError(
            f"{found}; raise `data.{side}_length`, take them out, or cut them with --data.too-long "
            "cut"
        )
    warnings.warn(f"{found}; their end is cut off", stacklevel=3)


def with_ends(targets: Ragged, bos: int, eos: int) -> Ragged:
    """The same rows, each from `bos` on to `eos`."""
    count = np.arange(len(targets) + 1)
    ids, offsets = np.empty(len(targets.ids) + 2 * count[-1], np.int32), targets.offsets + 2 * count
    real = np.ones(len(ids), bool)
    real[offsets[:-1]] = real[offsets[1:] - 1] = False
    ids[real] = targets.ids
    ids[offsets[:-1]], ids[offsets[1:] - 1] = bos, eos
    return Ragged(ids, offsets)


def pair_shapes(rows: PairRows, count: int) -> tuple[PairShape, ...]:
    """Choose shapes, each within the next, that need the least padding of both sides together.

    Lengths of both sides go together, so shapes that rise in both waste little, and what is left of
    one shape can go up to the next. A dynamic programme over the candidate lengths of each side,
    those that `bucket_lengths` chooses for it alone; exact where a side has at most `CANDIDATES`
    different lengths.

    Args:
        rows: The pairs.
        count: Most shapes.

    Returns:
        Rising shapes, the last with the longest source and the longest target.

    Raises:
        UserError: There are no pairs, or `count` is below 1.
    """
    if count < 1:
        raise UserError(f"`buckets` must be at least 1, got {count}; use 1 for one shape")
    sides = rows.sources.lengths, rows.targets.lengths
    sources, targets = (np.asarray(bucket_lengths(side, CANDIDATES)) for side in sides)
    # How many pairs fit in each shape of candidate lengths, and the tokens of a padded pair.
    fitting = np.zeros((len(sources), len(targets)), np.int64)
    np.add.at(fitting, (np.searchsorted(sources, sides[0]), np.searchsorted(targets, sides[1])), 1)
    fits = fitting.cumsum(0).cumsum(1).ravel()
    source, target = (side.ravel() for side in np.meshgrid(sources, targets, indexing="ij"))
    tokens = source + target

    within = (source <= source[:, None]) & (target <= target[:, None])
    more = np.where(within, (fits[:, None] - fits) * tokens[:, None], np.iinfo(np.int64).max // 2)
    least = [fits * tokens]  # [k][j]: of all pairs that fit in j, with k + 1 shapes, j the last
    before = []
    for _ in range(min(count, len(fits)) - 1):
        totals = least[-1] + more
        before.append(totals.argmin(axis=1))
        least.append(totals.min(axis=1))
    chosen = [len(fits) - 1]
    for choice in reversed(before):
        chosen.append(int(choice[chosen[-1]]))
    rising = dict.fromkeys(j for j in reversed(chosen) if fits[j])
    return tuple(PairShape(int(source[j]), int(target[j])) for j in rising)


def rows_of_batch(shape: PairShape, batch_tokens: int, devices: int = 1) -> int:
    """Rows of a batch: as many as give `batch_tokens`, padding included, and divide by devices."""
    return max(1, batch_tokens // (sum(shape) * devices)) * devices


class PairBatches:
    """Training batches of pairs: a `BatchSource` whose shapes have different numbers of rows.

    Each pair comes once an epoch, in the order of `BucketOrder`.
    """

    def __init__(
        self,
        rows: PairRows,
        batch_tokens: int,
        shapes: Sequence[PairShape],
        seed: int = 0,
        block: int = 1,
        *,
        accumulate_steps: int = 1,
        devices: int = 1,
    ) -> None:
        """Divide pairs into batches.

        Args:
            rows: The pairs.
            batch_tokens: Source and target tokens of a batch, padding included, at most; save where
                one pair a device has more.
            shapes: Each within the next; those that nothing needs are left out.
            seed: Of the order, with the epoch.
            block: Batches of one shape in a row, a multiple of `accumulate_steps`.
            accumulate_steps: Batches of one step, which must have one shape.
            devices: The rows of each batch are a multiple of it.

        Raises:
            UserError: There are no pairs, or one is longer than the last shape.
        """
        self._rows, self._shapes = rows, tuple(shapes)
        # A batch that all pairs together would not fill is made no larger than they need.
        most = -(-len(rows.sources) // devices) * devices
        self._sizes = [
            min(most, rows_of_batch(shape, batch_tokens, devices)) for shape in self._shapes
        ]
        self._order = BucketOrder(
            _shape_of(rows, shapes),
            self._sizes,
            seed=seed,
            block=block,
            accumulate_steps=accumulate_steps,
        )
        self.batches_per_epoch = self._order.batches_per_epoch

    @property
    def shapes(self) -> list[PairBatch]:
        """Shapes and types of the batches that occur, from the shortest on."""
        return [
            PairBatch(
                sources=jax.ShapeDtypeStruct((self._sizes[k], self._shapes[k].source), np.int32),
                source_lengths=jax.ShapeDtypeStruct((self._sizes[k],), np.int32),
                targets=jax.ShapeDtypeStruct((self._sizes[k], self._shapes[k].target), np.int32),
                target_lengths=jax.ShapeDtypeStruct((self._sizes[k],), np.int32),
                weights=jax.ShapeDtypeStruct((self._sizes[k],), np.float32),
            )
            for k in self._order.occurring
        ]

    def same_shape(self, epoch: int, first: int) -> int:
        """Batches of one shape from `first` on."""
        return self._order.same_shape(epoch, first)

    def read(self, epoch: int, first: int, count: int, rows: slice = slice(None)) -> PairBatch:
        """Consecutive batches of one shape, leaves [count, rows, ...]."""
        indexes, bucket = self._order.read(epoch, first, count)
        return _pair_batch(self._rows, indexes[:, rows], self._shapes[bucket])


def pairs_by_shape(
    rows: PairRows, batch_tokens: int, shapes: Sequence[PairShape], devices: int = 1
) -> Iterator[tuple[Int[np.ndarray, " K"], PairBatch]]:
    """Each pair once, in the first shape that it fits in: batches to evaluate on.

    Yields:
        Indexes of the K pairs that the batch begins with, and the batch; the rest of its rows have
        weight 0. `result[indexes] = outputs[:len(indexes)]` restores the order.

    Raises:
        UserError: A pair is longer than the last shape; at once, before the first batch.
    """
    buckets = _shape_of(rows, shapes) if len(rows.sources) else np.zeros(0, np.int64)

    def batches() -> Iterator[tuple[np.ndarray, PairBatch]]:
        for bucket, shape in enumerate(shapes):
            size = rows_of_batch(shape, batch_tokens, devices)
            members = np.flatnonzero(buckets == bucket)
            for start in range(0, len(members), size):
                indexes = members[start : start + size]
                filled = np.concatenate([indexes, np.full(size - len(indexes), -1)])
                yield indexes, _pair_batch(rows, filled, shape)

    return batches()


def _shape_of(rows: PairRows, shapes: Sequence[PairShape]) -> Int[np.ndarray, " N"]:
    """Place of the first shape that each pair fits in."""
    if len(rows.sources) == 0:
        raise UserError("there are no pairs to batch; give at least one")
    ends = np.array(shapes)
    if not len(ends) or (ends[0] < 1).any() or (np.diff(ends, axis=0) < 0).any():
        raise ValueError(f"shapes must rise from at least 1 in both sides, got {shapes}")
    lengths = np.stack([rows.sources.lengths, rows.targets.lengths], axis=1)
    longest = lengths.max(axis=0)
    if (longest > ends[-1]).any():
        raise UserError(
            f"pairs must have at most {ends[-1][0]} source and {ends[-1][1]} target tokens, the "
            f"longest shape, got {longest[0]} and {longest[1]}; cut them first"
        )
    # Shapes rise, so a pair fits in the first one that both of its sides fit in.
    return np.maximum(*(np.searchsorted(ends[:, side], lengths[:, side]) for side in (0, 1)))


def _pair_batch(rows: PairRows, indexes: Int[np.ndarray, "*B"], shape: PairShape) -> PairBatch:
    """The pairs of these indexes; where one is -1, a row of weight 0."""
    return PairBatch(
        *rows.sources.padded(indexes, shape.source),
        *rows.targets.padded(indexes, shape.target),
        (indexes >= 0).astype(np.float32),
    )
