"""Batches from a text's tokens: contiguous streams to train on, exact batches to evaluate on.

A window of T steps is T + 1 tokens: the first T are the inputs, the last T the targets, so that
every position is predicted (dense targets) and each window starts on the last token of the one
before.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import jax
import numpy as np

from jaxgen.errors import UserError
from jaxgen.types import Int


@runtime_checkable
class Tokens(Protocol):
    """Token ids of a text, read by range."""

    def __len__(self) -> int:
        """Number of tokens."""

    def read(self, start: int, stop: int) -> Int[np.ndarray, " N"]:
        """Token ids (int32) from `start` up to `stop`, which lie in the text."""


class TokenArray:
    """Tokens in memory, in the smallest unsigned type that holds them."""

    def __init__(self, ids: np.ndarray):
        """Keep the ids as they are."""
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    def read(self, start: int, stop: int) -> Int[np.ndarray, " N"]:
        """A copy of the range, int32."""
        return self._ids[start:stop].astype(np.int32)


class TokenStream:
    """Windows for stateful truncated back-propagation through time.

    The text is cut into `batch_size` rows of equal length that follow one another; window w of row
    b goes on where window w - 1 of row b ended, so the carry of one window is the right start for
    the next. Every method is a pure function of its arguments: (epoch, window) is all that
    resuming needs. A batch is one window of each row.

    The tokens that do not fill a last window are left out at the end in epoch 0 (where `seed` is 0)
    and at a place that changes with the epoch afterwards, so that all are seen and windows break
    differently.
    """

    def __init__(
        self,
        tokens: Tokens,
        batch_size: int,
        sequence_length: int,
        *,
        reset_id: int | None = None,
        seed: int = 0,
    ):
        """Divide a text into windows.

        Args:
            tokens: The text.
            batch_size: Rows.
            sequence_length: Steps of a window.
            reset_id: The token that ends a document; None where there are no documents.
            seed: Moves the place of the tokens that are left out.

        Raises:
            UserError: The text is shorter than one window of each row.
        """
        smallest = batch_size * sequence_length + 1
        if len(tokens) < smallest:
            raise UserError(
                f"the training text has {len(tokens)} tokens, but one batch of {batch_size} "
                f"sequences of {sequence_length} needs {smallest}; lower `training.batch_size` or "
                "`training.sequence_length`, or give more text"
            )
        self.tokens = tokens
        self.batch_size = batch_size
        self.sequence_length = sequence_length
        self.reset_id = reset_id
        self.seed = seed
        self.batches_per_epoch = (len(tokens) - 1) // (batch_size * sequence_length)

    @property
    def shapes(self) -> list[dict[str, jax.ShapeDtypeStruct]]:
        """Shape and type of a batch; there is only one."""
        shape = (self.batch_size, self.sequence_length)
        batch = {"tokens": jax.ShapeDtypeStruct((shape[0], shape[1] + 1), np.int32)}
        if self.reset_id is not None:
            batch["resets"] = jax.ShapeDtypeStruct(shape, np.bool_)
        return [batch]

    def same_shape(self, epoch: int, first: int) -> int:
        """Batches of one shape from `first` on: the rest of the epoch."""
        return self.batches_per_epoch - first

    def read(
        self, epoch: int, first: int, count: int, rows: slice = slice(None)
    ) -> dict[str, np.ndarray]:
        """Consecutive batches of one epoch.

        Args:
            epoch: Counted from 0.
            first: The first batch, counted from 0.
            count: How many.
            rows: Which rows of them.

        Returns:
            `tokens` Int[count, rows, T + 1], int32: inputs `[..., :-1]`, targets `[..., 1:]`; and
            with a `reset_id` `resets` Bool[count, rows, T]: True where an input follows it, so that
            a document begins there.
        """
        length = self.sequence_length
        starts = self._starts(epoch, first, count)[rows]
        texts = [self.tokens.read(start, start + count * length + 1) for start in starts]
        cut = [windows(text, length + 1, length) for text in texts]
        batches = {"tokens": np.stack(cut, axis=1)}
        if self.reset_id is not None:
            ends = [
                _before(self.tokens, start, count * length) == self.reset_id for start in starts
            ]
            batches["resets"] = np.stack([end.reshape(count, -1) for end in ends], axis=1)
        return batches

    def _starts(self, epoch: int, first: int, count: int) -> range:
        """Where each row's part of these windows starts."""
        if not 0 <= first <= first + count <= self.batches_per_epoch or count < 1:
            raise ValueError(f"batches {first} to {first + count} of {self.batches_per_epoch}")
        row = self.batches_per_epoch * self.sequence_length
        left_out = len(self.tokens) - 1 - self.batch_size * row
        # Multiples of the golden ratio spread evenly, whatever the number of epochs.
        place = (epoch * (5**0.5 - 1) / 2 + self.seed * 2**0.5) % 1
        start = int(place * (left_out + 1)) + first * self.sequence_length
        return range(start, start + self.batch_size * row, row)


def evaluation_batches(
    tokens: Tokens, batch_size: int, sequence_length: int, *, reset_id: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Yield batches in which each token but the text's first is a target exactly once.

    The carry goes on from batch to batch, as in `TokenStream`; it starts from zero once in each
    row.

    Yields:
        `tokens` Int[B, T + 1]; `mask` Bool[B, T], True for the targets `tokens[:, 1:]` that count
        (the rest is padding); and with a `reset_id` `resets` as in `TokenStream.read`.

    Raises:
        UserError: there are fewer than two tokens, so nothing to predict.
    """
    for starts, counts in _evaluation_parts(tokens, batch_size, sequence_length):
        ids = np.zeros((batch_size, sequence_length + 1), np.int32)
        resets = np.zeros((batch_size, sequence_length), bool)
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            if count:
                ids[row, : count + 1] = tokens.read(start, start + count + 1)
            if count and reset_id is not None:
                resets[row, :count] = _before(tokens, start, count) == reset_id
        batch = {"tokens": ids, "mask": np.arange(sequence_length) < np.array(counts)[:, None]}
        yield batch if reset_id is None else batch | {"resets": resets}


def windows(tokens: Int[np.ndarray, " N"], length: int, stride: int = 1) -> Int[np.ndarray, "W L"]:
    """Every `stride`-th window of `length` tokens that fits, as a read-only view."""
    return np.lib.stride_tricks.sliding_window_view(tokens, length)[::stride]


def _evaluation_parts(
    tokens: Tokens, batch_size: int, sequence_length: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield where each row's inputs start and how many targets it has, batch by batch."""
    targets = len(tokens) - 1
    if targets < 1:
        raise UserError(
            f"the text to evaluate has {len(tokens)} tokens and needs at least 2; "
            "give a longer text or hold out a larger share"
        )
    row = -(-targets // batch_size)
    for done in range(0, row, sequence_length):
        starts = [number * row + done for number in range(batch_size)]
        ends = [min((number + 1) * row, targets) for number in range(batch_size)]
        yield (
            starts,
            [
                min(max(end - start, 0), sequence_length)
                for start, end in zip(starts, ends, strict=True)
            ],
        )


def _before(tokens: Tokens, start: int, count: int) -> Int[np.ndarray, " N"]:
    """The token before each of `count` tokens; before the text's first stands -1."""
    if start:
        return tokens.read(start - 1, start - 1 + count)
    return np.concatenate([np.array([-1], np.int32), tokens.read(0, count - 1)])
