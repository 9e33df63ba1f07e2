"""In which order a training of several phases takes its steps, and batches that say so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxgen.training.trainable import BatchSource
from jaxgen.types import Int, PyTree


class PhasedBatch(NamedTuple):
    """A batch, and what is done with it."""

    batch: PyTree
    phase: Any
    """Int[..., B]: the phase, the same in every row, so that devices may divide the rows."""


@dataclass(frozen=True)
class PhaseOrder:
    """Which phase each step is of: some after one another, then a cycle again and again."""

    first: tuple[tuple[int, int], ...]
    """Phases and their steps, in order."""
    cycle: tuple[int, ...]
    """A phase a step."""

    @property
    def first_steps(self) -> int:
        """Steps before the cycle."""
        return sum(steps for _, steps in self.first)

    def of_steps(self, steps: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """The phase of each step, counted from 0."""
        phases = np.asarray(self.cycle, np.int32)[(steps - self.first_steps) % len(self.cycle)]
        end = 0
        for phase, length in self.first:
            phases = np.where((end <= steps) & (steps < end + length), np.int32(phase), phases)
            end += length
        return phases


@dataclass(frozen=True)
class PhasedBatches:
    """Batches of a `BatchSource`, each with the phase of its step: one batch a step.

    The phase lies in the batch and not in the state of the training: several seeds share the batch,
    so that under `jax.vmap` each step is of one phase and not of all.
    """

    source: BatchSource
    order: PhaseOrder

    @property
    def batches_per_epoch(self) -> int:
        """Batches in one pass over the data."""
        return self.source.batches_per_epoch

    @property
    def shapes(self) -> Sequence[PyTree]:
        """Shapes and types of the batches."""
        return [
            PhasedBatch(shape, jax.ShapeDtypeStruct((_rows(shape),), np.int32))
            for shape in self.source.shapes
        ]

    def same_shape(self, epoch: int, first: int) -> int:
        """Batches of one shape from `first` on."""
        return self.source.same_shape(epoch, first)

    def read(self, epoch: int, first: int, count: int, rows: slice = slice(None)) -> PhasedBatch:
        """Consecutive batches of one shape, leaves [count, rows, ...]."""
        batch = self.source.read(epoch, first, count, rows)
        steps = epoch * self.batches_per_epoch + first + np.arange(count)
        phases = self.order.of_steps(steps)
        size = jax.tree.leaves(batch)[0].shape[1]
        return PhasedBatch(batch, np.broadcast_to(phases[:, None], (count, size)).copy())


def _rows(shape: PyTree) -> int:
    return jax.tree.leaves(shape)[0].shape[0]
