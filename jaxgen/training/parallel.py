"""Data parallelism: the batch divided over devices, one collective a step.

Every device holds all parameters and its share of the batch (and of the carry). Gradients and
token counts are summed over the devices before they are divided, so the update is the one that a
single device makes, up to the order of float additions. Dropout masks differ between device
counts, as each device folds its number into the key.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.errors import UserError
from jaxgen.training.step import (
    Averaging,
    LossFn,
    TrainChunk,
    TrainState,
    chunk_of,
    make_train_step,
)
from jaxgen.types import PyTree

AXIS = "data"
WORTH_MEASURING = 20.0
"""Seconds of training below which the number of devices is not worth a measurement."""


@dataclass(frozen=True)
class Layout:
    """Where the pieces of a training step lie."""

    mesh: Mesh | None = None
    """One axis of devices; None for a single device."""

    @property
    def devices(self) -> int:
        """Number of devices."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def axis_name(self) -> str | None:
        """The axis over which the devices sum gradients, where they do."""
        return None if self.mesh is None else AXIS

    def members(self, state: TrainState) -> list[TrainState]:
        """The state of each training that the steps make side by side: here of the only one."""
        return [state]

    def place_members(self, states: Sequence[TrainState]) -> TrainState:
        """Put what `members` gave back on the devices."""
        return self.place_state(states[0])

    def place_state(self, state: TrainState) -> TrainState:
        """Put a state on the devices: the carry by batch row, the rest whole on each."""
        if self.mesh is None:
            return jax.device_put(state)
        placed = jax.device_put(state, NamedSharding(self.mesh, P()))
        return placed._replace(carry=self.place_carry(state.carry))

    def place_carry(self, carry: PyTree) -> PyTree:
        """Put a carry on the devices, in buffers of its own (the chunk donates them)."""
        if self.mesh is not None:
            carry = jax.device_put(carry, NamedSharding(self.mesh, P(AXIS)))
        return jax.tree.map(lambda x: x.copy(), carry)

    def place_batches(self, batches: PyTree, *, accumulate: int = 1) -> PyTree:
        """Put the batches of a chunk, leaves [K, (windows,) B, ...], on the devices."""
        if self.mesh is None:
            return jax.device_put(batches)
        return jax.device_put(batches, NamedSharding(self.mesh, _batch_spec(accumulate)))

    def divide(self, chunk: TrainChunk, *, accumulate: int = 1) -> TrainChunk:
        """A chunk of one training, to be jitted, divided over the devices."""
        if self.mesh is None:
            return chunk
        specs = TrainState._make([P()] * len(TrainState._fields))._replace(carry=P(AXIS))
        return jax.shard_map(
            chunk,
            mesh=self.mesh,
            in_specs=(specs, _batch_spec(accumulate), P()),
            out_specs=(specs, P()),
            check_vma=False,
        )

    def local(self, tree: PyTree) -> PyTree:
        """The first device's copy of something that every device holds whole."""
        if self.mesh is None:
            return tree
        return jax.tree.map(lambda x: x.addressable_data(0), tree)


def request_host_devices(devices: int | Literal["auto"] = "auto") -> None:
    """Let the CPU appear as several devices. Call it before JAX does any work.

    Args:
        devices: How many; "auto" means the cores this process may run on, 8 at most. Nothing
            happens where the environment already says (`XLA_FLAGS`, `JAX_NUM_CPU_DEVICES`) or
            JAX has started.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    if "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    count = min(usable_cores(), 8) if devices == "auto" else devices
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # JAX has started: its devices are what they are
        return


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def candidate_devices(devices: int | Literal["auto"], batch_size: int) -> tuple[int, ...]:
    """Device counts to choose from.

    Args:
        devices: A count, which is then the only one; or "auto": one device and all of them on a
            CPU, all of them elsewhere.
        batch_size: Rows of a batch, which the count must divide.

    Raises:
        UserError: There are not so many devices, or they do not divide the batch.
    """
    available = jax.device_count()
    if devices != "auto":
        if devices > available:
            raise UserError(
                f"`training.devices` must be at most the {available} that JAX sees, got "
                f'{devices}; use "auto"'
            )
        if batch_size % devices:
            raise UserError(
                f"`training.batch_size` must be a multiple of `training.devices`, got "
                f"{batch_size} and {devices}"
            )
        return (devices,)
    most = most_devices(batch_size)
    if most == 1:
        return (1,)
    return (1, most) if jax.default_backend() == "cpu" else (most,)


def most_devices(parts: int) -> int:
    """The most devices that JAX sees and that divide so many rows or runs."""
    return max(n for n in range(1, jax.device_count() + 1) if parts % n == 0)


def make_layout(devices: int) -> Layout:
    """A layout over the first `devices` devices."""
    if devices == 1:
        return Layout()
    return Layout(Mesh(jax.devices()[:devices], (AXIS,)))


def make_chunk(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    layout: Layout,
    *,
    accumulate: int = 1,
    averaging: Averaging = "none",
    ema_decay: float = 0.999,
) -> TrainChunk:
    """`step.chunk_of` `step.make_train_step` over the devices of a layout, jitted, state donated.

    Where the layout holds several seeds, metrics are [seeds, K], and a seed whose loss or gradient
    is not finite ends its chunk alone.
    """
    train_step = make_train_step(
        loss_fn,
        tx,
        accumulate=accumulate,
        averaging=averaging,
        ema_decay=ema_decay,
        axis_name=layout.axis_name,
    )
    return jax.jit(layout.divide(chunk_of(train_step), accumulate=accumulate), donate_argnums=0)


def measure_devices(
    candidates: Mapping[int, tuple[Layout, TrainChunk]],
    make_state: Callable[[], TrainState],
    batches: PyTree,
    *,
    accumulate: int = 1,
    total_steps: int,
) -> dict[int, float]:
    """Measure a few steps with each layout, in turns; the states are thrown away.

    A training that the first layout ends within `WORTH_MEASURING` has only that one measured:
    to compile the other program would cost more than it may gain.

    Args:
        candidates: Layout and chunk for each device count, the likeliest to be fastest first.
        make_state: Makes a fresh state (the chunk donates it).
        batches: Batches of one chunk, on the host.
        accumulate: Windows a step.
        total_steps: Steps of the whole training.

    Returns:
        Median seconds a step for each device count that was measured.
    """
    placed: dict[int, tuple[TrainState, PyTree]] = {}

    def seconds(devices: int, steps: int) -> float:
        layout, chunk = candidates[devices]
        if devices not in placed:
            state = layout.place_state(make_state())
            placed[devices] = state, layout.place_batches(batches, accumulate=accumulate)
        state, inputs = placed[devices]
        start = time.perf_counter()
        state, metrics = chunk(state, inputs, np.int32(steps))  # the type that training passes
        jax.block_until_ready(metrics)
        placed[devices] = state, inputs
        return (time.perf_counter() - start) / steps

    first, *rest = candidates
    seconds(first, 1)  # compiles
    one = seconds(first, 1)
    if one * total_steps < WORTH_MEASURING:
        return {first: one}
    for devices in rest:
        seconds(devices, 1)
    steps = max(1, min(jax.tree.leaves(batches)[0].shape[0], int(0.2 / one)))
    rounds = [{devices: seconds(devices, steps) for devices in candidates} for _ in range(5)]
    return {devices: statistics.median(r[devices] for r in rounds) for devices in candidates}


def fastest(seconds: Mapping[int, float]) -> int:
    """The device count to train with: more devices must gain a twentieth, or noise decides."""
    best = min(seconds)
    for devices in sorted(seconds):
        if seconds[devices] < 0.95 * seconds[best]:
            best = devices
    return best


def _batch_spec(accumulate: int) -> P:
    return P(None, AXIS) if accumulate == 1 else P(None, None, AXIS)
