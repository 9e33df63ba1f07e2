"""The order of batches of several shapes: which rows each batch of an epoch holds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxgen.types import Int


class BucketOrder:
    """Which rows each batch of an epoch holds, knowing nothing of them but their bucket.

    Buckets rise: what fits in one fits in the next. Every epoch, rows are shuffled within their
    bucket and cut into batches. Rows that are too few for another step of their bucket go up to the
    next one, so that only the last step of the last bucket may be incomplete. Batches of one bucket
    stay together in blocks, and the blocks are shuffled. Everything is a pure function of the
    arguments, the same on every machine.
    """

    def __init__(
        self,
        buckets: Int[np.ndarray, " N"],
        sizes: Sequence[int],
        *,
        seed: int = 0,
        block: int = 1,
        accumulate_steps: int = 1,
    ) -> None:
        """Count the batches of each bucket: they are the same in every epoch.

        Args:
            buckets: Of the rows, at least one.
            sizes: Rows of a batch in each bucket; buckets after the last with rows are left out.
            seed: Of the order, with the epoch.
            block: Batches of one bucket in a row, a multiple of `accumulate_steps`.
            accumulate_steps: Batches of one step, which must be of one bucket.
        """
        if block % accumulate_steps or block < 1:
            raise ValueError(f"blocks of {block} batches, {accumulate_steps} a step")
        self._seed, self._block = seed % 2**32, block
        self._members = [np.flatnonzero(buckets == k) for k in range(buckets.max() + 1)]
        self._sizes = list(sizes)[: len(self._members)]
        self._batches: list[int] = []
        left = 0
        for members, size in zip(self._members, self._sizes, strict=True):
            steps, left = divmod(left + len(members), size * accumulate_steps)
            last = len(self._batches) == len(self._members) - 1
            self._batches.append((steps + (last and left > 0)) * accumulate_steps)
        self.batches_per_epoch = sum(self._batches)
        self.occurring = [bucket for bucket, batches in enumerate(self._batches) if batches]
        """The buckets that batches come from, in every epoch."""
        self._current: tuple[int, _Epoch] | None = None

    def same_shape(self, epoch: int, first: int) -> int:
        """Batches of one bucket from `first` on."""
        buckets = self._epoch(epoch).buckets[first:]
        changes = np.flatnonzero(buckets != buckets[0])
        return int(changes[0]) if len(changes) else len(buckets)

    def read(self, epoch: int, first: int, count: int) -> tuple[Int[np.ndarray, "K B"], int]:
        """Indexes of the rows of `count` batches, -1 for none, and their bucket."""
        if not 0 <= first < first + count <= self.batches_per_epoch:
            raise ValueError(f"batches {first} to {first + count} of {self.batches_per_epoch}")
        rows, buckets = self._epoch(epoch)
        if (buckets[first : first + count] != buckets[first]).any():
            raise ValueError(f"batches {first} to {first + count} are of several buckets")
        return np.stack(rows[first : first + count]), int(buckets[first])

    def _epoch(self, epoch: int) -> "_Epoch":
        """The order of an epoch, kept until another is asked for."""
        current = self._current
        if current is None or current[0] != epoch:
            current = self._current = epoch, self._shuffled(epoch)
        return current[1]

    def _shuffled(self, epoch: int) -> "_Epoch":
        # Bits of a named generator stay the same in later versions of NumPy; its permutations may
        # not. Sorting by them shuffles.
        random = np.random.Philox(np.random.SeedSequence((self._seed, epoch)))
        blocks: list[tuple[int, np.ndarray]] = []
        left = np.zeros(0, np.int64)
        for bucket, (batches, size) in enumerate(zip(self._batches, self._sizes, strict=True)):
            rows = np.concatenate([left, self._members[bucket]])
            rows = rows[random.random_raw(len(rows)).argsort(kind="stable")]
            rows, left = rows[: batches * size], rows[batches * size :]
            filled = np.concatenate([rows, np.full(batches * size - len(rows), -1)])
            cut = filled.reshape(batches, size)
            blocks += [
                (bucket, cut[start : start + self._block])
                for start in range(0, batches, self._block)
            ]
        order = random.random_raw(len(blocks)).argsort(kind="stable")
        blocks = [blocks[place] for place in order]
        buckets = np.repeat([bucket for bucket, _ in blocks], [len(rows) for _, rows in blocks])
        return _Epoch([batch for _, rows in blocks for batch in rows], buckets)


class _Epoch(NamedTuple):
    """The batches of an epoch in order: the rows of each, and the bucket of each."""

    rows: list[Int[np.ndarray, " B"]]
    buckets: Int[np.ndarray, " K"]
