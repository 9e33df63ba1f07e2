"""Rows of tokens in batches of few shapes, so that a session compiles a handful of programs."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np

from jaxgen.data.ragged import Ragged
from jaxgen.errors import UserError
from jaxgen.types import Array, Float, PyTree

Apply = Callable[[PyTree, Any, Any], Float[Array, "B C"]]
"""`apply(params, tokens, lengths) -> logits`, of arrays Int[B, T] and Int[B] of NumPy or JAX."""

Read = Callable[[Any, Any], Float[Array, "B C"]]
"""`Apply` with its parameters: of tokens and lengths."""

BATCH = 64
"""Rows of a full batch."""
ALONE = 4
"""So few rows are read one by one: a batch mostly of filling would take longer."""
SHORTEST = 8


def over_devices(apply: Apply, params: PyTree) -> Read:
    """`apply` on batches of 64, whose rows the devices of a CPU share where there are several.

    A core that has rows of its own is faster than one that gets a part of every small product. Each
    device keeps a copy of the parameters. What is no jitted function is called as it is.
    """
    cores = jax.local_device_count() if jax.default_backend() == "cpu" else 1
    devices = max(n for n in (1, 2, 4, 8) if n <= cores)
    jitted = isinstance(apply, jax.stages.Wrapped)
    if devices == 1 or not jitted:
        return partial(apply, params)
    divided, where = _by_rows(apply, devices)
    return partial(divided, jax.device_put(params, where))


@lru_cache(maxsize=8)
def _by_rows(apply: Apply, devices: int) -> tuple[Apply, jax.sharding.Sharding]:
    """`apply` with its rows divided over devices, and where its parameters must lie."""
    kind = jax.sharding.AxisType.Auto
    chosen = jax.local_devices()[:devices]
    mesh = jax.make_mesh((devices,), ("rows",), axis_types=(kind,), devices=chosen)
    whole, rows = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("rows")
    divided = jax.shard_map(
        apply, mesh=mesh, in_specs=(whole, rows, rows), out_specs=rows, check_vma=False
    )
    return jax.jit(divided), jax.sharding.NamedSharding(mesh, whole)


def powers_of_two(longest: int) -> tuple[int, ...]:
    """Padded lengths for texts of any length: 8, 16, 32, ..., `longest`."""
    lengths = []
    length = SHORTEST
    while length < longest:
        lengths.append(length)
        length *= 2
    return (*lengths, longest)


def logits_of(
    read: Read,
    read_alone: Read,
    rows: Ragged,
    padded_lengths: Sequence[int],
    single_lengths: Sequence[int],
) -> Float[np.ndarray, "N C"]:
    """The logits of each row, in the order given, however the rows are batched.

    Rows are sorted by length and read in batches of 64; where the shortest fill no batch, they are
    read in one that is filled up, or, if they are at most 4, one by one. At most
    `len(padded_lengths) + len(single_lengths)` shapes are compiled.

    Args:
        read: the model on a batch of 64.
        read_alone: the same on a single row.
        rows: at least one, of any length.
        padded_lengths: ascending; a batch is padded to the first that holds its longest row.
        single_lengths: the same for rows that are read alone.

    Raises:
        UserError: a logit is NaN or infinite.
    """
    order = np.argsort(rows.lengths, kind="stable")
    rest = len(rows) % BATCH
    groups = [order[at : at + BATCH] for at in range(rest, len(rows), BATCH)]
    short = [order[at : at + 1] for at in range(rest)] if rest <= ALONE else [order[:rest]]
    begun = []  # all of them, before the first is waited for
    for group in (*short, *groups):
        alone = len(group) == 1
        filled = np.concatenate([group, np.full(0 if alone else BATCH - len(group), -1)])
        longest = int(rows.lengths[group].max())
        apply, sizes = (read_alone, single_lengths) if alone else (read, padded_lengths)
        length = next(size for size in sizes if longest <= size)
        tokens, lengths = rows.padded(filled, length)
        begun.append((group, apply(tokens, lengths)))
    parts = [(group, np.asarray(found)[: len(group)]) for group, found in begun]
    logits = np.empty((len(rows), parts[0][1].shape[1]), np.float32)
    for group, part in parts:
        logits[group] = part
    if not np.isfinite(logits).all():
        raise UserError(
            "the model's logits must be numbers, got NaN or infinity; look for such values in its "
            "parameters"
        )
    return logits
