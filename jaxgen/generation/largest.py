"""The k largest logits of each row, without a sort of the vocabulary."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.generation.sampling import SamplingParams
from jaxgen.types import Array, Bool, Float, Int, UInt32

BLOCKED = 2048
"""Below this size of a vocabulary a search by blocks is not worth its gathers."""
_BLOCK = 32
# From so many rows on, a search of all at once is faster than the library's row by row.
_MANY_ROWS = 8


def keep_top_k(
    logits: Float[Array, "B V"], sampling: SamplingParams
) -> tuple[Float[Array, "B n"], Int[Array, "B n"], Float[Array, "B"]]:
    """Candidates with -inf for all but the row's k largest, their tokens, and the largest logit.

    Where V is large, candidates are the k blocks with the largest maxima: the k largest lie there.
    """
    rows, size = logits.shape
    cap = sampling.max_top_k
    cap = size if cap is None or cap < 0 else min(cap, size)
    k = jnp.where(sampling.top_k > 0, jnp.minimum(sampling.top_k, cap), cap)
    many = rows >= _MANY_ROWS
    if searches_blocks(size, cap):
        blocks = in_blocks(logits)
        maxima = peak_of(blocks)
        peak, choose = maxima.max(axis=1), partial(_blocks_by_library, count=cap)
        if many:
            search = partial(_blocks_by_search, count=cap)
            chosen = jax.lax.platform_dependent(maxima, cpu=search, default=choose)
        else:
            chosen = choose(maxima)
        values, ids = _of_blocks(blocks, chosen)
        lowest = jnp.take_along_axis(maxima, chosen, axis=1).min(axis=1)
    else:
        values, ids = logits, jnp.broadcast_to(jnp.arange(size), logits.shape)
        peak, lowest = peak_of(logits), logits.min(axis=1)
    kept = _largest_of_many(values, k, lowest) if many else _largest_of_few(values, k, cap)
    return jnp.where(kept, values, -jnp.inf), ids, peak


def top_k(x: Float[Array, "V"], k: int) -> tuple[Float[Array, "k"], Int[Array, "k"]]:
    """As `jax.lax.top_k` (of equals the lower index first), but by blocks where V is large."""
    if not searches_blocks(x.shape[0], k):
        values, places = jax.lax.top_k(x, k)
        return values, places
    blocks = in_blocks(x[None])
    candidates, places = _of_blocks(blocks, _blocks_by_library(blocks.max(axis=2), k))
    values, found = jax.lax.top_k(candidates[0], k)
    return values, places[0, found]


def searches_blocks(vocab_size: int, k: int) -> bool:
    """Whether the k largest are looked for by blocks; what is drawn may depend on k then."""
    return vocab_size >= BLOCKED and k * _BLOCK * 2 <= vocab_size


def in_blocks(x: Float[Array, "B V"]) -> Float[Array, "B n block"]:
    """Rows in blocks of a few tokens, the last filled with -inf."""
    rows, size = x.shape
    # A block that divides V spares a padded copy of all logits.
    block = next((n for n in range(_BLOCK, 2 * _BLOCK) if size % n == 0), _BLOCK)
    padded = jnp.pad(x, ((0, 0), (0, -size % block)), constant_values=-jnp.inf)
    return padded.reshape(rows, -1, block)


def _of_blocks(
    blocks: Float[Array, "B n block"], chosen: Int[Array, "B k"]
) -> tuple[Float[Array, "B m"], Int[Array, "B m"]]:
    """Values of the chosen blocks of each row, and their places in it."""
    rows, block = len(blocks), blocks.shape[2]
    places = chosen[:, :, None] * block + jnp.arange(block)
    values = jax.vmap(lambda row, these: row[these])(blocks, chosen)
    return values.reshape(rows, -1), places.reshape(rows, -1)


def _blocks_by_library(maxima: Float[Array, "B n"], count: int) -> Int[Array, "B k"]:
    """Numbers of the blocks with the largest maxima, rising: ties go to the lower index."""
    return jnp.sort(jax.vmap(lambda row: jax.lax.top_k(row, count)[1])(maxima), axis=1)


def _blocks_by_search(maxima: Float[Array, "B n"], count: int) -> Int[Array, "B k"]:
    """The same for many rows on a CPU, where the library takes row by row on one core."""
    lowest = maxima.min(axis=1)
    wanted = jnp.full(len(maxima), count)
    return _true_places(_largest_of_many(maxima, wanted, lowest), count)


def _true_places(mask: Bool[Array, "B n"], count: int) -> Int[Array, "B k"]:
    """The places of the first `count` that are True, rising; there are so many in each row.

    By counts of groups of places first, and then within the group.
    """
    size = mask.shape[1]
    width = math.isqrt(size - 1) + 1
    groups = jnp.pad(mask, ((0, 0), (0, -size % width))).reshape(len(mask), -1, width)
    inside = running_sums(groups.astype(jnp.float32))
    before = running_sums(inside[..., -1])
    number = jnp.arange(count, dtype=jnp.float32)[:, None]
    group = (before[:, None] <= number).sum(axis=2, dtype=jnp.int32)
    of_group = jax.vmap(lambda row, these: row[these])
    earlier = of_group(before - inside[..., -1], group)
    within = (of_group(inside, group) <= number - earlier[..., None]).sum(axis=2, dtype=jnp.int32)
    return group * width + within


def running_sums(x: Float[Array, "*B n"]) -> Float[Array, "*B n"]:
    """Sums of the last axis up to each place.

    A matmul with a triangle is several times faster than XLA's cumulative sum on a CPU.
    """
    size = x.shape[-1]
    ones = jnp.triu(jnp.ones((size, size), x.dtype))
    return jnp.matmul(x, ones, precision=jax.lax.Precision.HIGHEST)


def _largest_of_few(
    values: Float[Array, "B n"], k: Int[Array, "B"], cap: int
) -> Bool[Array, "B n"]:
    """Which are the k largest of their row, of equals the lower index first, by the library."""
    values = jnp.where(values == 0, 0.0, values)  # -0 and 0 are equal
    found = (jnp.take_along_axis(x, k[:, None] - 1, axis=1) for x in jax.lax.top_k(values, cap))
    edge, last = found
    return (values > edge) | ((values == edge) & (jnp.arange(values.shape[1]) <= last))


def _largest_of_many(
    values: Float[Array, "B n"], k: Int[Array, "B"], lowest: Float[Array, "B"]
) -> Bool[Array, "B n"]:
    """The same by a search of all rows at once: the library takes row by row.

    Args:
        values: of each row.
        k: how many to find.
        lowest: a value that k or more are not below.
    """
    order, size = ordered(values), values.shape[1]
    wanted = k.astype(jnp.float32)[:, None]
    least, most = ordered(lowest[:, None]), order.max(axis=1, keepdims=True)
    held = _Held(least, most - least + 1, _count(order >= least))
    held = _narrowed(lambda x: order >= x, held, wanted)
    edge = held.threshold
    back = jnp.arange(size, dtype=jnp.uint32)[::-1]

    def kept(last: Array) -> Array:
        return (order > edge) | ((order == edge) & (back >= last))

    # Where more than k are left, they are equal at the edge: the lower indices of those.
    width = jnp.where(held.many > wanted, jnp.uint32(size), jnp.uint32(1))
    held = held._replace(threshold=jnp.zeros_like(edge), width=width)
    return kept(_narrowed(kept, held, wanted).threshold)


def peak_of(x: Float[Array, "*B n"]) -> Float[Array, "*B"]:
    """The largest of the last axis; +inf where one is NaN.

    XLA's maximum of many numbers loses NaN on a CPU (seen with jaxlib 0.10.2 and 0.12.0).
    """
    return jnp.where(jnp.isnan(x), jnp.inf, x).max(axis=-1)


class _Held(NamedTuple):
    """A threshold of each row that keeps k or more values."""

    threshold: UInt32[Array, "B 1"]
    width: UInt32[Array, "B 1"]
    """How far above it a threshold is known that keeps fewer."""
    many: Float[Array, "B 1"]
    """How many values it keeps."""


def _narrowed(kept: Callable[[Array], Array], held: _Held, wanted: Float[Array, "B 1"]) -> _Held:
    """By halves the highest threshold that keeps what is wanted; or earlier, any that does exactly.

    Args:
        kept: what a threshold keeps, [B, n]: the less, the higher it is.
        held: the thresholds to search between.
        wanted: how many to keep.
    """

    def surplus(held: _Held) -> Array:
        return ((held.many > wanted) & (held.width > 1)).any()

    def narrow(held: _Held) -> _Held:
        half = jnp.maximum(held.width >> 1, 1)
        left = _count(kept(held.threshold + half))
        higher = _Held(held.threshold + half, held.width - half, left)
        lower = held._replace(width=half)
        return jax.tree.map(lambda a, b: jnp.where(left >= wanted, a, b), higher, lower)

    return jax.lax.while_loop(surplus, narrow, held)


def _count(mask: Bool[Array, "B n"]) -> Float[Array, "B 1"]:
    return mask.astype(jnp.float32).sum(axis=1, keepdims=True)


def ordered(x: Float[Array, "B V"]) -> UInt32[Array, "B V"]:
    """Unsigned integers in the order of the floats."""
    # -0 and 0 are equal; a compiler may drop `+ 0.0`.
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.uint32)
    sign = jnp.uint32(0x80000000)
    return jnp.where(bits >= sign, ~bits, bits | sign)
