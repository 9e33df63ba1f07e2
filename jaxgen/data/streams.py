"""Batches from a text's tokens: contiguous streams to train on, exact batches to evaluate on.

A window of T steps is T + 1 tokens: the first T are the inputs, the last T the targets, so that
every position is predicted (dense targets) and each window starts on the last token of the one
before.
"""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np

from jaxgen.errors import UserError
from jaxgen.types import Bool, Int


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
    resuming needs.

    The tokens that do not fill a last window are left out at the end in epoch 0 and at a place
    that changes with the epoch afterwards, so that all are seen and windows break differently.
    """

    def __init__(self, tokens: Tokens, batch_size: int, sequence_length: int):
        """UserError where the text is shorter than one window of each row."""
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
        self.windows_per_epoch = (len(tokens) - 1) // (batch_size * sequence_length)

    def chunk(self, epoch: int, window: int, num_windows: int) -> Int[np.ndarray, "K B W"]:
        """Consecutive windows of one epoch, int32: inputs `[..., :-1]`, targets `[..., 1:]`."""
        length = self.sequence_length
        size = num_windows * length + 1
        rows = [
            self.tokens.read(start, start + size)
            for start in self._starts(epoch, window, num_windows)
        ]
        return np.stack([windows(row, length + 1, length) for row in rows], axis=1)

    def resets(
        self, epoch: int, window: int, num_windows: int, eos_id: int
    ) -> Bool[np.ndarray, "K B T"]:
        """Where an input of `chunk` follows an ``<eos>``, so that a new document starts there."""
        size = num_windows * self.sequence_length
        rows = [
            _before(self.tokens, start, size) == eos_id
            for start in self._starts(epoch, window, num_windows)
        ]
        return np.stack([row.reshape(num_windows, -1) for row in rows], axis=1)

    def _starts(self, epoch: int, window: int, num_windows: int) -> range:
        """Where each row's part of these windows starts."""
        if not 0 <= window <= window + num_windows <= self.windows_per_epoch or num_windows < 1:
            raise ValueError(
                f"windows {window} to {window + num_windows} of {self.windows_per_epoch}"
            )
        row = self.windows_per_epoch * self.sequence_length
        left_out = len(self.tokens) - 1 - self.batch_size * row
        # Multiples of the golden ratio spread evenly, whatever the number of epochs.
        first = int(epoch * (5**0.5 - 1) / 2 % 1 * (left_out + 1))
        first += window * self.sequence_length
        return range(first, first + self.batch_size * row, row)


def evaluation_batches(
    tokens: Tokens, batch_size: int, sequence_length: int
) -> Iterator[tuple[Int[np.ndarray, "B W"], Bool[np.ndarray, "B T"]]]:
    """Yield (tokens, mask) so that each token but the text's first is a target exactly once.

    The carry goes on from batch to batch, as in `TokenStream`; it starts from zero once in each
    row. The mask is True for the targets `tokens[:, 1:]` that count; the rest is padding.

    Raises:
        UserError: there are fewer than two tokens, so nothing to predict.
    """
    for starts, counts in _evaluation_parts(tokens, batch_size, sequence_length):
        batch = np.zeros((batch_size, sequence_length + 1), np.int32)
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            if count:
                batch[row, : count + 1] = tokens.read(start, start + count + 1)
        yield batch, np.arange(sequence_length) < np.array(counts)[:, None]


def evaluation_resets(
    tokens: Tokens, batch_size: int, sequence_length: int, eos_id: int
) -> Iterator[Bool[np.ndarray, "B T"]]:
    """Yield, for each of `evaluation_batches`, where an input follows an ``<eos>``."""
    for starts, counts in _evaluation_parts(tokens, batch_size, sequence_length):
        resets = np.zeros((batch_size, sequence_length), bool)
        for row, (start, count) in enumerate(zip(starts, counts, strict=True)):
            if count:
                resets[row, :count] = _before(tokens, start, count) == eos_id
        yield resets


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
