"""Trainings that differ only in their seed, side by side as one program.

The data are read once and each batch is shared by all seeds. On a CPU every core runs whole steps
of its seeds one after the other, which is faster there than to interleave them; elsewhere each
operation is made for all seeds at once (`jax.vmap`), so that small models fill a large device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.errors import UserError
from jaxgen.training.parallel import AXIS, Layout, make_layout, most_devices
from jaxgen.training.step import MultiStep, TrainState
from jaxgen.types import Array, PyTree


@dataclass(frozen=True)
class SeedLayout(Layout):
    """Every leaf of a state has the seeds on its leading axis, which the devices divide."""

    seeds: int = 1
    vmap: bool | None = None
    """Make each operation for all seeds of a device at once, rather than everything for one seed
    after the other; by default where the device is not a CPU."""

    @property
    def axis_name(self) -> None:
        """None: the seeds never talk to each other."""
        return None

    def divide(self, multi_step: MultiStep, *, accumulate: int = 1) -> MultiStep:
        """The steps of one run, to be jitted, for all seeds."""
        return over_seeds(multi_step, self)

    def of_run(self, tree: PyTree, index: int) -> PyTree:
        """What belongs to one seed."""
        return jax.tree.map(lambda x: x[index], tree)

    def unstack_runs(self, state: TrainState) -> list[TrainState]:
        """The state of each seed, on the host."""
        host = jax.tree.map(_to_host, state)
        states = [self.of_run(host, index) for index in range(self.seeds)]
        return [s._replace(key=jax.random.wrap_key_data(s.key)) for s in states]

    def stack_runs(self, states: Sequence[TrainState]) -> TrainState:
        """Stack what `unstack_runs` gave back, and put it on the devices."""
        hosts = [jax.tree.map(_to_host, state) for state in states]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *hosts)
        return self._divide(stacked._replace(key=jax.random.wrap_key_data(stacked.key)))

    def place_carry(self, carry: PyTree) -> PyTree:
        """Give each seed a carry of its own."""
        return self._divide(
            jax.tree.map(lambda x: np.broadcast_to(x, (self.seeds, *x.shape)), carry)
        )

    def place_batches(self, batches: PyTree, *, accumulate: int = 1) -> PyTree:
        """Put the batches of a dispatch whole on each device."""
        where = None if self.mesh is None else NamedSharding(self.mesh, P())
        return jax.device_put(batches, where)

    def local(self, tree: PyTree) -> PyTree:
        """Nothing is held twice: the tree itself."""
        return tree

    def _divide(self, tree: PyTree) -> PyTree:
        where = None if self.mesh is None else NamedSharding(self.mesh, P(AXIS))
        return jax.tree.map(lambda x: x.copy(), jax.device_put(tree, where))


def over_seeds(function: Callable, layout: SeedLayout) -> Callable:
    """`function`, to be jitted, of stacked first arguments; the others are shared by all seeds.

    Args:
        function: Of one seed.
        layout: Divides the seeds over devices.
    """
    at_once = jax.default_backend() != "cpu" if layout.vmap is None else layout.vmap

    def mapped(stacked: PyTree, *shared: Any) -> PyTree:
        def one(own: PyTree) -> PyTree:
            return function(own, *shared)

        return jax.vmap(one)(stacked) if at_once else jax.lax.map(one, stacked)

    if layout.mesh is None:
        return mapped

    def divided(stacked: PyTree, *shared: Any) -> PyTree:
        return jax.shard_map(
            mapped,
            mesh=layout.mesh,
            in_specs=(P(AXIS), *[P()] * len(shared)),
            out_specs=P(AXIS),
            check_vma=False,
        )(stacked, *shared)

    return divided


def seed_devices(devices: int | Literal["auto"], seeds: int) -> int:
    """Devices over which to divide the seeds.

    Args:
        devices: A count, or "auto": the most that divide the seeds.
        seeds: How many.

    Raises:
        UserError: There are no seeds, or not so many devices, or they do not divide the seeds.
    """
    if seeds < 1:
        raise UserError(f"`seeds` must be at least 1, got {seeds}; leave it out to train one run")
    if devices == "auto":
        return most_devices(seeds)
    available = jax.device_count()
    if devices > available or seeds % devices:
        raise UserError(
            f"`training.devices` must divide the {seeds} seeds and be at most the {available} "
            f'that JAX sees, got {devices}; use "auto"'
        )
    return devices


def backend_of_seeds(backend: str) -> str:
    """The backend that runs the models of several seeds; UserError where another is asked for."""
    if backend not in ("auto", "scan"):
        raise UserError(
            f"`model.backend` must be scan (or auto, which takes it) with `seeds`, got {backend}: "
            "only scan runs several models at once; set it, or train the seeds one by one"
        )
    return "scan"


def make_seed_layout(seeds: int, devices: int, vmap: bool | None = None) -> SeedLayout:
    """A layout of so many seeds over the first `devices` devices."""
    return SeedLayout(make_layout(devices).mesh, seeds, vmap)


def first_states(
    state_of: Callable[[Array], TrainState], keys: Sequence[Array], layout: SeedLayout
) -> TrainState:
    """The state of each seed before the first step, made by `state_of` from its key."""
    # On one device: QR of 128 units was seen to hang where two CPU devices made it at once.
    alone = make_seed_layout(layout.seeds, 1)
    states = jax.jit(over_seeds(state_of, alone))(jnp.stack(keys))
    return layout.stack_runs(alone.unstack_runs(states))


def _to_host(leaf: Any) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)
