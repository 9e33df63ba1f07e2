"""The batches of a training cut into dispatches: as many steps as one call of a chunk makes."""

from typing import Protocol, runtime_checkable

import jax
import numpy as np

from jaxgen.config import TrainingConfig
from jaxgen.errors import UserError
from jaxgen.types import PyTree


@runtime_checkable
class Stream(Protocol):
    """Training batches in order, a pure function of where they are."""

    @property
    def windows_per_epoch(self) -> int:
        """Batches in one pass over the data; the carry starts anew with each pass."""

    def chunk(self, epoch: int, window: int, num_windows: int) -> PyTree:
        """NumPy arrays with `num_windows` consecutive batches on their leading axis."""


class Dispatches:
    """Which steps a dispatch makes, and their batches."""

    def __init__(self, stream: Stream, config: TrainingConfig) -> None:
        """Count the steps.

        Raises:
            UserError: One pass over the data has fewer windows than one step takes.
        """
        self._stream = stream
        self._windows = config.accumulate_steps
        self.epoch_steps = stream.windows_per_epoch // config.accumulate_steps
        """Of one pass; windows too few for another step are left out."""
        if self.epoch_steps == 0:
            raise UserError(
                f"`training.accumulate_steps` must be at most the {stream.windows_per_epoch} "
                f"windows of one pass over the training text, got {config.accumulate_steps}"
            )
        steps = max(1, round(config.epochs * self.epoch_steps))
        self.total = steps if config.max_steps is None else min(steps, config.max_steps)
        """Of the whole training."""
        self.capacity = min(config.steps_per_dispatch, self.total)
        """Of a dispatch at most."""
        self.evaluate_every = config.evaluate_every or self.epoch_steps
        self._edges = (self.epoch_steps, self.evaluate_every, config.steps_per_dispatch)

    def length(self, step: int, at_most: int) -> int:
        """Steps of the dispatch at `step`: none crosses an epoch, an evaluation or a row."""
        room = min(self.total - step, *(edge - step % edge for edge in self._edges))
        return max(1, min(room, self.capacity, at_most))

    def read(self, step: int, length: int) -> PyTree:
        """Batches of `length` steps, [capacity, (windows,) B, ...], the rest of them zeros."""
        epoch, first = divmod(step, self.epoch_steps)
        batches = self._stream.chunk(epoch, first * self._windows, length * self._windows)

        def arrange(x: np.ndarray) -> np.ndarray:
            if self._windows > 1:
                x = x.reshape(length, self._windows, *x.shape[1:])
            fill = np.zeros((self.capacity - length, *x.shape[1:]), x.dtype)
            return np.concatenate([x, fill]) if len(fill) else x

        return jax.tree.map(arrange, batches)
