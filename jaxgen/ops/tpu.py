"""Memory and speed of TPU cores: closed forms for the blocks and the time of the kernel."""

from typing import Any, NamedTuple

import jax.numpy as jnp


class Chip(NamedTuple):
    """Published figures of one TPU device (a core, or a megacore pair)."""

    flops: float
    """Peak FLOP/s of bfloat16 products."""
    bandwidth: float
    """Bytes/s of its HBM."""
    vmem: int
    """Bytes of vector memory of one core."""

    def ridge(self, itemsize: int) -> float:
        """The batch below which a step that reads its matrix from HBM waits for the reading.

        A step does 2 * B * H * G products' FLOPs on H * G * itemsize bytes.
        """
        return self.flops * itemsize / (2 * self.bandwidth)


# Source: Google Cloud's pages "TPU v5e", "TPU v5p" and "TPU v6e" (system architecture); the vector
# memory is the one of `jax.experimental.pallas.tpu.get_tpu_info_for_chip`.
CHIPS = {
    "TPU v5 lite": Chip(197e12, 819e9, 128 * 2**20),
    "TPU v5": Chip(459e12, 2765e9, 64 * 2**20),
    "TPU v6 lite": Chip(918e12, 1640e9, 128 * 2**20),
}
SMALLEST = Chip(197e12, 819e9, 16 * 2**20)
"""Stands for a chip that is not in the table: the least that any of them has."""

LANES, SUBLANES = 128, 8
_LONGEST_BLOCK = 32
_BLOCK_SHARE, _KERNEL_SHARE = 0.25, 0.6

XLA_SHARE = 0.5
"""Share of VMEM up to which XLA itself keeps a loop's matrix there.

Read off programs compiled ahead of time for v5e and v6e: the matrix of a scan's body carries
memory space S(1) at H = 512, 1024 and 2048 (up to 32 MiB in bfloat16, as which it is multiplied),
forward and backward; at H = 3072 (72 MiB) in some programs only, at H = 4096 (128 MiB) in none.
"""


class Blocks(NamedTuple):
    """How the kernel cuts its work."""

    rows: int
    """Batch rows of one block."""
    steps: int
    """Time steps of one block."""
    vmem: int
    """Bytes of VMEM that it asks for."""


def chip_of(device_kind: str | None) -> Chip:
    """The figures of a device kind as JAX names it."""
    return CHIPS.get(device_kind or "", SMALLEST)


def plan_blocks(T: int, B: int, H: int, dtype: Any, chip: Chip) -> Blocks | None:
    """The largest blocks that fit beside the recurrent matrix, the same forward and backward.

    Returns:
        None where even one step of the fewest rows does not fit.
    """
    itemsize = jnp.dtype(dtype).itemsize
    matrix = 4 * H * H * itemsize
    if matrix > _KERNEL_SHARE * chip.vmem:
        return None
    for rows in _divisors(B, whole=True):
        padded = -(-rows // SUBLANES) * SUBLANES
        # Per step: pre-activations in and activations out, c, h and h before; twice, as one block
        # is computed while the next is fetched. The flags fill a register row whatever they hold.
        step = 2 * padded * (2 * 4 * H * itemsize + 4 * H + 2 * H * itemsize + 4 * LANES)
        scratch = 16 * padded * 4 * H * 4  # carries, cotangents and the pre-activations of one step
        for steps in _divisors(T):
            if steps <= _LONGEST_BLOCK and steps * step + scratch <= _BLOCK_SHARE * chip.vmem:
                return Blocks(rows, steps, matrix + steps * step + scratch)
    return None


def _divisors(n: int, whole: bool = False) -> list[int]:
    """Divisors, largest first; with `whole`, n itself and those that fill whole registers."""
    found = [d for d in range(n, 0, -1) if n % d == 0]
    return [d for d in found if d == n or d % SUBLANES == 0] if whole else found


def scan_rereads(H: int, chip: Chip) -> bool:
    """Whether XLA's loop has to read the recurrent matrix from HBM at every step."""
    matrix = 4 * H * H * 2  # it is multiplied as bfloat16
    return matrix > XLA_SHARE * chip.vmem


def modelled_seconds(
    T: int, B: int, H: int, dtype: Any, chip: Chip, *, kernel: bool
) -> dict[str, float]:
    """Lower bounds on a forward pass: `products`, `bytes` and the larger of both, `seconds`.

    The pre-activations are read, outputs and what the backward pass needs are written; the matrix
    is read once, or at every step where the backend cannot keep it on chip.
    """
    itemsize = jnp.dtype(dtype).itemsize
    reads = 1 if kernel or not scan_rereads(H, chip) else T
    matrix = 4 * H * H * (itemsize if reads == 1 else 2)
    traffic = T * B * H * (2 * 4 * itemsize + 4 + itemsize)
    products = 2 * T * B * H * 4 * H / chip.flops
    moved = (reads * matrix + traffic) / chip.bandwidth
    return {"products": products, "bytes": moved, "seconds": max(products, moved)}
