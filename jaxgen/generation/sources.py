"""Sources to translate: read, cut, and put into batches of few shapes."""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgen.errors import UserError
from jaxgen.types import Int

SHORTEST = 16
MOST_PLACES = 1 << 14
"""Source tokens times texts that are decoded together, at most: what bounds the memory."""
Ids = Int[np.ndarray, "_"]
"""Token ids; as many as there are."""


class SourceWarning(UserWarning):
    """Sources were cut, or hold what the vocabulary lacks."""


class SourceReader:
    """Reads texts, and counts what it leaves out."""

    def __init__(self, tokenizer: Any, longest: int):
        """Read with a tokenizer's `encode_many`, at most `longest` tokens of a text."""
        self.tokenizer, self.longest = tokenizer, longest
        self.total = self.cut = 0
        self.unknown: Counter[str] = Counter()

    def read(self, texts: Sequence[str]) -> list[Ids]:
        """The tokens of each text; none of an empty one, or one of blanks."""
        for text in texts:
            if not isinstance(text, str):
                raise UserError(f"a translator reads texts, got {text!r:.80}; give a str for each")
        spoken = [text if text.strip() else "" for text in texts]
        encoded, unknown = self.tokenizer.encode_many(spoken)
        self.unknown += unknown
        self.cut += sum(len(ids) > self.longest for ids in encoded)
        self.total += len(encoded)
        return [ids[: self.longest] for ids in encoded]

    def warn(self) -> None:
        """Say in one warning what was left out, if anything."""
        if told := self.left_out():
            warnings.warn("; and ".join(told), SourceWarning, stacklevel=4)

    def left_out(self) -> list[str]:
        """What was left out of the texts that were read: a sentence each."""
        told = []
        if self.cut:
            told.append(
                f"{self.cut:,} of {self.total:,} sources are longer than {self.longest} tokens; "
                "their end is cut off"
            )
        if self.unknown:
            shown = ", ".join(f"{x!r} ({count}x)" for x, count in self.unknown.most_common(10))
            rest = f" and {len(self.unknown) - 10} more" if len(self.unknown) > 10 else ""
            told.append(
                f"outside the vocabulary, the texts have {shown}{rest}: "
                f"{self.unknown.total():,} in all became <unk>"
            )
        return told


class SourceBatch(NamedTuple):
    """Padded sources of one bucket."""

    places: Int[np.ndarray, "B"]
    """Numbers of the sources."""
    tokens: Int[np.ndarray, "B S"]
    """0 beyond the length."""
    lengths: Int[np.ndarray, "B"]


def padded(rows: Sequence[Ids], width: int) -> Int[np.ndarray, "B S"]:
    """Rows of tokens, filled up with 0."""
    tokens = np.zeros((len(rows), width), np.int32)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return tokens


def source_bucket(length: int, longest: int) -> int:
    """What a source is padded to: 16, 32, 64, ..., `longest`."""
    bucket = SHORTEST
    while bucket < length:
        bucket *= 2
    return min(bucket, longest)


def source_batches(
    sources: Sequence[Ids], longest: int, width: int, batch_size: int
) -> Iterator[SourceBatch]:
    """Batches that hold every source that has tokens once, the shortest first.

    A batch is of one bucket, which its source alone decides, so that what is made of a source does
    not depend on the others.

    Args:
        sources: tokens of each, `longest` at most.
        longest: tokens of a source, at most.
        width: texts that are decoded for each source.
        batch_size: sources of a batch at most; fewer where they are long, or `width` is large.
    """
    lengths = np.array([len(ids) for ids in sources], np.int32)
    buckets = np.array([source_bucket(length, longest) for length in lengths.tolist()], np.int32)
    for bucket in np.unique(buckets[lengths > 0]).tolist():
        rows = np.flatnonzero((buckets == bucket) & (lengths > 0))
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        fit = max(MOST_PLACES // (bucket * width), 1)
        most = min(1 << (fit.bit_length() - 1), batch_size)
        for first in range(0, len(rows), most):
            places = rows[first : first + most]
            tokens = padded([sources[place] for place in places], bucket)
            yield SourceBatch(places, tokens, lengths[places])
