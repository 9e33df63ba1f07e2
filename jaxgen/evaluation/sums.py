"""The sums of a loss over held-out batches, in few compiled calls."""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.types import Array, LossAux, PyTree, Sum

LossFn = Callable[[Any, Any, Any, Any], tuple[Array, LossAux]]


def make_sums(
    loss_fn: LossFn,
    *,
    batches_per_dispatch: int = 32,
    over_runs: Callable[[Callable], Callable] | None = None,
) -> Callable[[PyTree, PyTree, Iterable[PyTree]], dict[str, Sum]]:
    """Build `sums(params, carry, batches)`, compiled once a shape.

    Args:
        loss_fn: As in training; called without a key, it is deterministic. Of what it returns, the
            carry and the sums are used.
        batches_per_dispatch: Batches read in one compiled call.
        over_runs: Maps a function over the leading axis of its first argument: then parameters and
            carries are those of several runs stacked, and so are the sums.

    Returns:
        A function of the parameters, the initial carry, and the batches in reading order: pytrees
        of NumPy arrays. They are read as a stream and the carry flows through them; where the
        shape changes another program goes on, so those of one shape had better follow one another.
        Sums over a batch are float32, those over batches float64; without batches there are none.
    """

    def dispatch(model: PyTree, batches: PyTree, count: Array) -> tuple[PyTree, PyTree]:
        params, carry = model

        def batch_at(index: Any) -> PyTree:
            return jax.tree.map(
                lambda x: jax.lax.dynamic_index_in_dim(x, index, keepdims=False), batches
            )

        def read(carry: PyTree, batch: PyTree) -> tuple[PyTree, PyTree]:
            aux = loss_fn(params, carry, batch, None)[1]
            return aux.carry, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), aux.sums)

        read = jax.jit(read, inline=True)  # traced once for its shapes and its body

        def body(memory: PyTree) -> PyTree:
            index, carry, rows = memory
            carry, row = read(carry, batch_at(index))
            rows = jax.tree.map(lambda all_, one: all_.at[index].set(one), rows, row)
            return index + 1, carry, rows

        shapes = jax.eval_shape(read, carry, batch_at(0))[1]
        rows = jax.tree.map(lambda s: jnp.zeros((batches_per_dispatch, *s.shape)), shapes)
        start = (jnp.int32(0), carry, rows)
        _, carry, rows = jax.lax.while_loop(lambda memory: memory[0] < count, body, start)
        return carry, rows

    compiled = jax.jit(dispatch if over_runs is None else over_runs(dispatch))
    batch_axis = 0 if over_runs is None else 1

    def total(row: Array) -> np.ndarray:
        return np.asarray(np.asarray(row, np.float64).sum(axis=batch_axis))

    def sums(params: PyTree, carry: PyTree, batches: Iterable[PyTree]) -> dict[str, Sum]:
        # Where the parameters are: what comes back lies there, and would be another program's.
        carry = jax.device_put(carry, getattr(jax.tree.leaves(params)[0], "sharding", None))
        rows = []
        for group in _groups(batches, batches_per_dispatch):
            filled = group + [group[-1]] * (batches_per_dispatch - len(group))
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *filled)
            carry, row = compiled((params, carry), stacked, np.int32(len(group)))
            rows.append(row)
        totals = [jax.tree.map(total, row) for row in rows]
        return (
            jax.tree.map(lambda *parts: np.asarray(np.sum(parts, axis=0)), *totals)
            if totals
            else {}
        )

    return sums


def _groups(batches: Iterable[PyTree], size: int) -> Iterator[list[PyTree]]:
    """At most `size` batches of one shape that follow one another."""
    for _, alike in groupby(batches, lambda batch: jax.tree.map(np.shape, batch)):
        while group := list(islice(alike, size)):
            yield group
