"""Which steps one dispatch makes, and their batches."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import jax
import numpy as np

from jaxgen.config import TrainingConfig
from jaxgen.errors import UserError
from jaxgen.training.trainable import BatchSource
from jaxgen.types import PyTree


@runtime_checkable
class Steps(Protocol):
    """Over how many steps a learning rate takes its course."""

    @property
    def total(self) -> int:
        """All of them."""

    @property
    def epoch_steps(self) -> int:
        """Those of one pass over the data."""


class StepSchedule:
    """The steps of a training, divided into dispatches: calls of one compiled program."""

    def __init__(self, source: BatchSource, config: TrainingConfig) -> None:
        """Count the steps.

        Raises:
            UserError: One pass over the data has fewer batches than one step takes.
        """
        self._source = source
        sizes = {leaf.shape[0] for shape in source.shapes for leaf in jax.tree.leaves(shape)}
        self._rows = sizes.pop() if len(sizes) == 1 else None
        self.accumulate = config.accumulate_steps
        """Batches of one step."""
        self.epoch_steps = source.batches_per_epoch // self.accumulate
        """Steps of one pass over the data; batches too few for another step are left out."""
        if self.epoch_steps == 0:
            raise UserError(
                f"`training.accumulate_steps` must be at most the {source.batches_per_epoch} "
                f"batches of one pass over the training data, got {self.accumulate}"
            )
        steps = getattr(source, "total_steps", None)
        if steps is None:
            steps = max(1, round(config.epochs * self.epoch_steps))
        self.total = steps if config.max_steps is None else min(steps, config.max_steps)
        """Steps of the whole training."""
        self.capacity = min(config.steps_per_dispatch, self.total)
        """Most steps of one dispatch."""
        self.evaluate_every = config.evaluate_every or self.epoch_steps
        self.row_every = config.steps_per_dispatch
        """Steps between the rows of the metrics."""

    def evaluation_due(self, step: int) -> bool:
        """Whether an evaluation follows this many steps."""
        return step % self.evaluate_every == 0

    def row_due(self, step: int) -> bool:
        """Whether a row of metrics ends here."""
        return step % self.row_every == 0 or self.evaluation_due(step) or step == self.total

    def length(self, step: int, at_most: int) -> int:
        """Steps of the dispatch at `step`: of one shape, and past no epoch, evaluation or row."""
        epoch, first = divmod(step, self.epoch_steps)
        alike = self._source.same_shape(epoch, first * self.accumulate) // self.accumulate
        edges = (self.epoch_steps, self.evaluate_every, self.row_every)
        left = min(self.total - step, alike, *(edge - step % edge for edge in edges))
        return max(1, min(left, self.capacity, at_most))

    def read(
        self, step: int, length: int, rows: Callable[[int], slice] = lambda size: slice(None)
    ) -> PyTree:
        """Batches of `length` steps, [capacity, (batches,) B, ...], the rest of them zeros.

        Args:
            step: The first.
            length: How many.
            rows: Which rows of a batch of so many.
        """
        epoch, first = divmod(step, self.epoch_steps)
        place = epoch, first * self.accumulate, length * self.accumulate
        if self._rows is not None:
            batches = self._source.read(*place, rows(self._rows))
        else:  # the number of rows changes with the shape, so it is known only once they are read
            whole = self._source.read(*place)
            batches = jax.tree.map(lambda x: x[:, rows(x.shape[1])], whole)

        def arrange(x: np.ndarray) -> np.ndarray:
            if self.accumulate > 1:
                x = x.reshape(length, self.accumulate, *x.shape[1:])
            fill = np.zeros((self.capacity - length, *x.shape[1:]), x.dtype)
            return np.concatenate([x, fill]) if len(fill) else x

        return jax.tree.map(arrange, batches)

    def blank_batches(
        self, rows: Callable[[int], slice] = lambda size: slice(None)
    ) -> list[PyTree]:
        """What `read` gives, all zeros, once for each shape of batch: enough to compile for."""
        lead = (self.capacity,) if self.accumulate == 1 else (self.capacity, self.accumulate)

        def blank(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
            size, *rest = leaf.shape
            return np.zeros((*lead, len(range(size)[rows(size)]), *rest), leaf.dtype)

        return [jax.tree.map(blank, shape) for shape in self._source.shapes]
