"""jaxgen's own contestant in training by the epoch, its batches read and padded on the way."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.costs import compiled_bytes
from benchmarks.machine import device_peak
from jaxgen.training.optimizers import make_optimizer
from jaxgen.training.parallel import jit_multi_step, make_layout
from jaxgen.training.step import LossFn, init_state, make_train_step

BLOCK = 8
"""Batches of one shape in a row: at most so many steps a dispatch."""


class EpochTraining:
    """A unit of `run` is one epoch, its batches read and padded on the way.

    Each run goes on with the next epoch, as a training does; its rows lie in other batches, but
    the padded lengths are the same.

    Args:
        source: of the batches, a `jaxgen.training.trainable.BatchSource`.
        loss_fn: see `jaxgen.training.step`.
        params: makes the starting parameters.
        learning_rate: of Adam.
        devices: host devices of data parallelism, requested before.
    """

    def __init__(
        self,
        source: Any,
        loss_fn: LossFn,
        params: Callable[[], Any],
        learning_rate: float,
        devices: int,
    ):
        self.source, self.params = source, params
        self.layout = make_layout(devices)
        self.tx = make_optimizer(name="adam", learning_rate=learning_rate)
        self.reset()
        train_step = make_train_step(loss_fn, self.tx, axis_name=self.layout.axis_name)
        steps = jit_multi_step(train_step, self.layout)
        started = time.perf_counter()
        self.programs = {}
        for shape in self.source.shapes:
            blank = jax.tree.map(lambda x: np.zeros((BLOCK, *x.shape), x.dtype), shape)
            batches = self.layout.place_batches(blank)
            program = steps.lower(self.state, batches, jnp.int32(BLOCK)).compile()
            self.programs[shapes_of(blank)] = program
        self.compile_seconds = time.perf_counter() - started

    def reset(self) -> None:
        """Back to the starting parameters and the first epoch."""
        state = init_state(self.params(), self.tx, jax.random.key(0))
        self.state = self.layout.place_state(state)
        self.epoch = 0

    def dispatch(self, first: int, most: int = BLOCK) -> Any:
        """Begin the steps at `first`, of one shape; their metrics, and how many."""
        count = min(self.source.same_shape(self.epoch, first), most)
        batches = self.source.read(self.epoch, first, count)

        def filled(x: np.ndarray) -> np.ndarray:
            rest = np.zeros((BLOCK - count, *x.shape[1:]), x.dtype)
            return np.concatenate([x, rest]) if len(rest) else x

        batches = jax.tree.map(filled, batches)
        program = self.programs[shapes_of(batches)]
        placed = self.layout.place_batches(batches)
        self.state, metrics = program(self.state, placed, jnp.int32(count))
        return metrics, count

    def losses(self, steps: int) -> list[float]:
        """Losses of the epoch's first steps, each before its update."""
        self.reset()
        found: list[float] = []
        while len(found) < steps:
            most = min(BLOCK, steps - len(found))
            metrics, count = self.dispatch(len(found), most)
            found += np.asarray(metrics.loss)[:count].tolist()
        return found

    def run(self, steps: int) -> None:
        """Train for so many epochs and wait for the end."""
        for _ in range(steps):
            first = 0
            while first < self.source.batches_per_epoch:
                first += self.dispatch(first)[1]
            self.epoch += 1
        jax.block_until_ready(self.state)

    def facts(self) -> dict[str, Any]:
        """Compile time of all shapes, and memory of the largest program by XLA's accounting."""
        held = [compiled_bytes(program) for program in self.programs.values()]
        most = max((n for n in held if n), default=0) * self.layout.devices
        return {"compile_seconds": self.compile_seconds, "program_bytes": most, **device_peak()}


def shapes_of(batches: Any) -> tuple[tuple[int, ...], ...]:
    """What tells the program of some batches."""
    return tuple(x.shape for x in jax.tree.leaves(batches))
