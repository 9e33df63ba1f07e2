"""Data parallelism: the batch divided over devices, one collective a step.

Every device holds all parameters and its share of the batch (and of the carry). Gradients and
token counts are summed over the devices before they are divided, so the update is the one that a
single device makes, up to the order of float additions. Dropout masks differ between device
counts, as each device folds its number into the key.

Over several processes the axis spans the devices of all, those of process 0 first: each process has
the rows that its devices would have among as many devices of one process.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.training.step import MultiStep, TrainState, TrainStep, multi_step_of
from jaxgen.types import PyTree

AXIS = "data"


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

    @property
    def spans(self) -> bool:
        """Whether the devices are those of several processes."""
        return self.mesh is not None and self.mesh.is_multi_process

    def rows(self, size: int) -> slice:
        """Which rows of so many this process places."""
        if not self.spans:
            return slice(None)
        index, count = jax.process_index(), jax.process_count()
        return slice(size * index // count, size * (index + 1) // count)

    def unstack_runs(self, state: TrainState) -> list[TrainState]:
        """The state of each run that the steps train side by side: here of the only one.

        Of several processes, each holds all of it then.
        """
        if not self.spans or state.step.is_fully_addressable:  # not on the devices of all yet
            return [state]
        carry = multihost_utils.process_allgather(state.carry, tiled=True)
        return [self.local(state._replace(carry=()))._replace(carry=carry)]

    def stack_runs(self, states: Sequence[TrainState]) -> TrainState:
        """Put what `unstack_runs` gave back on the devices."""
        return self.place_state(states[0])

    def of_run(self, tree: PyTree, index: int) -> PyTree:
        """What belongs to one run in something that the steps or an evaluation gave."""
        return tree

    def place_state(self, state: TrainState) -> TrainState:
        """Put a state on the devices: the carry by batch row, the rest whole on each."""
        if self.mesh is None:
            return jax.device_put(state)
        placed = self._put(state._replace(carry=()), P())
        return placed._replace(carry=self.place_carry(state.carry))

    def place_carry(self, carry: PyTree) -> PyTree:
        """Put a carry on the devices, in buffers of its own (the steps donate them)."""
        if self.mesh is not None:
            own = jax.tree.map(lambda x: x[self.rows(len(x))], carry) if self.spans else carry
            carry = self._put(own, P(AXIS))
        return jax.tree.map(lambda x: x.copy(), carry)

    def place_batches(self, batches: PyTree, *, accumulate: int = 1) -> PyTree:
        """Put the batches of a dispatch, leaves [K, (batches,) B, ...], on the devices.

        Of several processes, each is given its own `rows`.
        """
        if self.mesh is None:
            return jax.device_put(batches)
        return self._put(batches, _batch_spec(accumulate))

    def divide(self, multi_step: MultiStep, *, accumulate: int = 1) -> MultiStep:
        """The steps of one run, to be jitted, divided over the devices."""
        if self.mesh is None:
            return multi_step
        specs = TrainState._make([P()] * len(TrainState._fields))._replace(carry=P(AXIS))
        return jax.shard_map(
            multi_step,
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

    def _put(self, tree: PyTree, spec: P) -> PyTree:
        """Lay a tree on the devices; of several processes, each gives what its devices hold."""
        assert self.mesh is not None
        where = NamedSharding(self.mesh, spec)
        if not self.spans:
            return jax.device_put(tree, where)

        def put(leaf: Any) -> jax.Array:
            if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(put(jax.random.key_data(leaf)))
            return jax.make_array_from_process_local_data(where, np.asarray(leaf))

        return jax.tree.map(put, tree)


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


def most_devices(parts: int) -> int:
    """The most devices that JAX sees and that divide so many rows or runs."""
    return max(n for n in range(1, jax.device_count() + 1) if parts % n == 0)


def most_spanning(rows: int) -> int:
    """The most devices, as many of each process, that divide so many rows; 0 where none do."""
    processes, each = jax.process_count(), jax.local_device_count()
    return processes * max(
        (n for n in range(1, each + 1) if rows % (n * processes) == 0), default=0
    )


def make_layout(devices: int) -> Layout:
    """A layout over the first `devices` devices, or the first of each process."""
    if devices == 1:
        return Layout()
    each, used = devices // jax.process_count(), list[jax.Device]()
    for process in range(jax.process_count()):
        used += [d for d in jax.devices() if d.process_index == process][:each]
    return Layout(Mesh(used, (AXIS,)))


def jit_multi_step(train_step: TrainStep, layout: Layout, *, accumulate: int = 1) -> MultiStep:
    """`step.multi_step_of` over the devices of a layout, jitted, the state donated.

    Args:
        train_step: From `make_train_step`, made with the layout's `axis_name`.
        layout: Where it holds several runs, metrics are [runs, K], and a run whose loss or gradient
            is not finite changes no more, alone.
        accumulate: Batches a step.
    """
    return jax.jit(
        layout.divide(multi_step_of(train_step), accumulate=accumulate), donate_argnums=0
    )


JitSteps = Callable[..., MultiStep]
"""(train_step, layout, *, accumulate): compiles the steps, as `jit_multi_step` does."""


def _batch_spec(accumulate: int) -> P:
    return P(None, AXIS) if accumulate == 1 else P(None, None, AXIS)
