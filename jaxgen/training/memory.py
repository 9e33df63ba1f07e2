"""Whether a training fits into memory, found out from shapes before anything is allocated."""

import math
from pathlib import Path

import jax
import numpy as np

from jaxgen.errors import UserError
from jaxgen.types import PyTree


def tree_bytes(shapes: PyTree) -> int:
    """Bytes of a tree of arrays, or of what `jax.eval_shape` says of one."""

    def size(leaf: jax.Array | jax.ShapeDtypeStruct) -> int:
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return 0  # a few bytes
        return math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize

    return sum(map(size, jax.tree.leaves(shapes)))


def available_bytes() -> int | None:
    """Memory that a computation may take on the first device; None where that is unknown.

    Of a GPU or TPU, what JAX may take of its memory; of a CPU, what the system can still give, swap
    included, and at most the limit of the container.
    """
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        limit = (device.memory_stats() or {}).get("bytes_limit")
        return None if limit is None else int(limit)
    limits = (_meminfo(Path("/proc/meminfo")), _integer(Path("/sys/fs/cgroup/memory.max")))
    return min((limit for limit in limits if limit is not None), default=None)


def check_memory(nbytes: int, available: int | None = None) -> None:
    """Check that parameters, their gradient and the optimizer's state fit into memory.

    Args:
        nbytes: What they take at least.
        available: Bytes that there are; None asks `available_bytes`.

    Raises:
        UserError: They do not.
    """
    available = available_bytes() if available is None else available
    if available is not None and nbytes > available:
        raise UserError(
            "parameters, gradients and optimizer state would take "
            f"{_readable(nbytes)} of memory, and there are {_readable(available)}; lower "
            "`model.hidden_size`, `model.num_layers` or the size of the vocabulary"
        )


def _meminfo(path: Path) -> int | None:
    """What Linux can still give."""
    try:
        lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
        return 1024 * sum(int(lines[name].split()[0]) for name in ("MemAvailable", "SwapFree"))
    except (OSError, ValueError, KeyError):
        return None


def _integer(path: Path) -> int | None:
    """The limit of the container; "max" means none."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _readable(nbytes: int) -> str:
    """2.5 GiB, 310 MiB."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20)):
        if nbytes >= size:
            return f"{nbytes / size:.3g} {unit}"
    return f"{nbytes} bytes"
