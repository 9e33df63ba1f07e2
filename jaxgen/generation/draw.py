"""One token from each row of logits: top-k, top-p, min-p, typical-p and the draw, without a sort.

The draw inverts the cumulative distribution: of the tokens where they are few, else first of the
masses of blocks of about sqrt(V) tokens and then of the tokens in the chosen block. That is one
pass over the vocabulary and two uniform numbers a row, no V-long noise and no V-long sums.

Top-p rejects: a drawn token is in the nucleus if the tokens strictly more likely hold less than
`top_p` of the mass, which one masked sum tells. If it is not, neither is any less likely one, and
the next draw is from the tokens above it. What is accepted follows the nucleus exactly, and the
first draw is accepted with probability `top_p` or more.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.generation.largest import (
    BLOCKED,
    in_blocks,
    keep_top_k,
    ordered,
    peak_of,
    running_sums,
)
from jaxgen.generation.sampling import SamplingParams
from jaxgen.types import Array, Bool, Float, Int

# Up to this size a vocabulary is drawn from in one level.
_FEW = 256
# Numbers that fill the second-level cache of a core.
_LARGE = 2**19


class Noise(NamedTuple):
    """The randomness of one draw a row."""

    uniforms: Float[Array, "*B 2"]
    key: Any
    """A key a row for draws after a rejected first one; None where nothing rejects."""


def noise(
    keys: Array, steps: Int[Array, "N B"], sampling: SamplingParams, *, keyed: bool = False
) -> Noise:
    """Randomness of each step and row, [N, B]: a function of the row's key and the step alone.

    `keyed` keeps the keys where no setting of `draw` asks for them.
    """

    def one(key: Array, step: Array) -> Noise:
        key = jax.random.fold_in(key, step)
        return Noise(jax.random.uniform(key, (2,)), key if keyed or _rejects(sampling) else None)

    return jax.vmap(jax.vmap(one), in_axes=(None, 0))(keys, steps)


def _rejects(sampling: SamplingParams) -> bool:
    return sampling.top_p is not None and sampling.typical_p is None


def draw(logits: Float[Array, "B V"], sampling: SamplingParams, noise: Noise) -> Int[Array, "B"]:
    """Draw a token of each row; -1 where every token is banned (all logits -inf), or one is NaN.

    Args:
        logits: after penalties and bans, before the temperature.
        sampling: the rows' settings, [B].
        noise: the rows' randomness at this step.
    """
    return draw_or_broken(logits, sampling, noise)[0]


def draw_or_broken(
    logits: Float[Array, "B V"], sampling: SamplingParams, noise: Noise
) -> tuple[Int[Array, "B"], Bool[Array, "B"]]:
    """The same, and in which rows the logits have no softmax: NaN or +inf is among them."""
    hot = sampling.temperature > 0
    if sampling.top_k is not None:
        kept, ids, peak = keep_top_k(logits, sampling)
        place = _by_weight(kept, peak, sampling, noise)
        token = jnp.take_along_axis(ids, place[:, None], axis=1)[:, 0]
    elif logits.shape[1] < BLOCKED:
        peak = peak_of(logits)
        token = _by_weight(logits, peak, sampling, noise)
    else:
        maxima = peak_of(in_blocks(logits))
        peak = maxima.max(axis=1)
        token = jax.lax.cond(
            hot.any(),
            lambda: _by_weight(logits, peak, sampling, noise),
            lambda: _first_of_largest(logits, maxima, peak),
        )
    return jnp.where(jnp.isfinite(peak), token, -1), ~(peak < jnp.inf)


def _by_weight(
    logits: Float[Array, "B n"], peak: Float[Array, "B"], sampling: SamplingParams, noise: Noise
) -> Int[Array, "B"]:
    """The place of a token drawn by its weight, among those that the settings keep."""
    weights = _weights(logits, peak[:, None], sampling)
    if sampling.typical_p is not None:
        weights = jnp.where(_kept(logits, weights, sampling), weights, 0)
    # At 0 the first of the most likely tokens: they alone have a weight.
    uniforms = jnp.where(sampling.temperature[:, None] > 0, noise.uniforms, 0)
    place = _pick(_above_min_p(weights, sampling), uniforms)
    return _redraw(weights, sampling, noise.key, place) if _rejects(sampling) else place


def _first_of_largest(
    logits: Float[Array, "B V"], maxima: Float[Array, "B n"], peak: Float[Array, "B"]
) -> Int[Array, "B"]:
    """The first place of the largest logit, given the largest of each block."""
    blocks = in_blocks(logits)
    first = _first(maxima == peak[:, None])
    within = jax.vmap(lambda row, at: row[at])(blocks, first) == peak[:, None]
    return first * blocks.shape[2] + _first(within)


def _first(mask: Bool[Array, "B n"]) -> Int[Array, "B"]:
    """The first place that is True, or the last of all; in float32, of which XLA is faster."""
    last = mask.shape[1] - 1
    places = jnp.arange(last + 1, dtype=jnp.float32)
    return jnp.where(mask, places, last).min(axis=1).astype(jnp.int32)


def filter_logits(logits: Float[Array, "B V"], sampling: SamplingParams) -> Float[Array, "B V"]:
    """The logits of the distribution that `draw` samples from.

    For what the loop itself never needs: the probability of a token under the settings, say.

    Args:
        logits: after penalties and bans, before the temperature.
        sampling: one value a row (see `SamplingParams.rows`).

    Returns:
        The logits over the temperature, -inf where top-k, top-p, min-p or typical-p removed a
        token; for a greedy row (temperature 0) only the most likely token is left.
    """
    kept, places = logits, jnp.broadcast_to(jnp.arange(logits.shape[1]), logits.shape)
    if sampling.top_k is not None:
        kept, places, _ = keep_top_k(logits, sampling)
    weights = _weights(kept, kept.max(axis=1, keepdims=True), sampling)
    kept = jnp.where(_kept(kept, weights, sampling), kept, -jnp.inf)
    hot = sampling.temperature[:, None] > 0
    kept = jnp.where(hot, kept / jnp.where(hot, sampling.temperature[:, None], 1), kept)
    first = jnp.arange(kept.shape[1]) == jnp.argmax(kept, axis=1)[:, None]
    kept = jnp.where(hot | first, kept, -jnp.inf)
    rows = jnp.arange(logits.shape[0])[:, None]
    return jnp.full_like(logits, -jnp.inf).at[rows, places].set(kept)


def _weights(logits: Array, peak: Array, sampling: SamplingParams) -> Array:
    """Probabilities up to a factor; the most likely has 1. A greedy row has no others."""
    temperature = sampling.temperature[:, None]
    hot = temperature > 0
    scale = jnp.where(hot, temperature, 1)
    return jnp.where(hot, jnp.exp((logits - peak) / scale), (logits == peak).astype(jnp.float32))


def _above_min_p(weights: Array, sampling: SamplingParams) -> Array:
    if sampling.min_p is None:
        return weights
    return jnp.where(weights >= sampling.min_p[:, None], weights, 0)


def _pick(weights: Float[Array, "B V"], uniforms: Float[Array, "B 2"]) -> Int[Array, "B"]:
    """A token by its weight."""
    size = weights.shape[1]
    if size <= _FEW:
        return _invert(weights, uniforms[:, 0])
    block = _block(size) or 1 << round(math.log2(size) / 2)
    whole = size // block * block
    blocks = weights[:, :whole].reshape(len(weights), -1, block).sum(axis=2)
    if whole < size:
        rest = weights[:, whole:].sum(axis=1, keepdims=True)
        blocks = jnp.concatenate([blocks, rest], axis=1)
    first = _invert(blocks, uniforms[:, 0]) * block
    start = jnp.minimum(first, size - block)
    within = jax.vmap(lambda row, at: jax.lax.dynamic_slice(row, (at,), (block,)))(weights, start)
    within = jnp.where(start[:, None] + jnp.arange(block) >= first[:, None], within, 0)
    return start + _invert(within, uniforms[:, 1])


@lru_cache(maxsize=64)
def _block(size: int) -> int | None:
    """The divisor of `size` next to its square root, None where none is near.

    Rows that divide evenly are summed where they lie, several times faster than others.
    """
    root = math.sqrt(size)
    near = range(math.ceil(root / 1.5), math.floor(root * 1.5) + 1)
    return min((n for n in near if size % n == 0), key=lambda n: abs(n - root), default=None)


def _row_sums(x: Float[Array, "B V"]) -> Float[Array, "B"]:
    """Sums of rows, by blocks where they divide evenly: XLA then needs no second array of `x`."""
    block = _block(x.shape[1])
    if block is None or x.shape[1] <= _FEW:
        return x.sum(axis=1)
    return x.reshape(len(x), -1, block).sum(axis=2).sum(axis=1)


def _sums_above(x: Float[Array, "B V"], edge: Float[Array, "B 1"]) -> Float[Array, "B"]:
    """Sums of what is above the edge of its row.

    Of an array that no cache of a core holds, slices are added up: a masked copy would take longer.
    """
    rows, size = x.shape
    count = next((n for n in range(8, 17) if size % n == 0), 1) if rows * size >= _LARGE else 1
    if count == 1:
        return _row_sums(jnp.where(x > edge, x, 0))
    width = size // count

    def part(number: Any) -> Array:
        some = jax.lax.dynamic_slice_in_dim(x, number * width, width, axis=1)
        return jnp.where(some > edge, some, 0)

    added = jax.lax.fori_loop(1, count, lambda number, sums: sums + part(number), part(0))
    return added.sum(axis=1)


def _invert(weights: Float[Array, "B n"], uniform: Float[Array, "B"]) -> Int[Array, "B"]:
    """The first index whose cumulative weight exceeds `uniform` of the total."""
    size = weights.shape[1]
    sums = jnp.cumsum(weights, axis=1) if len(weights) == 1 else running_sums(weights)
    beyond = sums > uniform[:, None] * sums[:, -1:]
    # Rounding may let the sums grow, or stay below the target, where the weights do not say so:
    # a token without weight is never picked.
    index, real = jnp.arange(size), weights > 0
    first = jnp.where(beyond & real, index, size).min(axis=1)
    return jnp.where(first < size, first, jnp.where(real, index, 0).max(axis=1))


def _redraw(weights: Array, sampling: SamplingParams, keys: Any, token: Array) -> Array:
    """Draw again, from the more likely tokens, where the drawn one is not in the nucleus.

    A few rows at a time, so that the others do not draw with those that must.
    """
    batch = len(weights)
    few = -(-batch // 16)
    mass = _row_sums(weights) * sampling.top_p

    def outside(weights: Array, token: Array, mass: Array, top_p: Array) -> Array:
        held = _sums_above(weights, jnp.take_along_axis(weights, token[:, None], axis=1))
        return (held >= mass) & (held > 0) & (top_p < 1)

    def again(state: tuple) -> tuple:
        token, rejected, tries = state
        rows = jnp.arange(1)
        if batch > 1:
            _, rows = jax.lax.top_k(rejected.astype(jnp.float32), few)
        some = jax.tree.map(lambda x: x[rows], (weights, sampling, keys, token, tries, mass))
        weights_, sampling_, keys_, token_, tries_, mass_ = some
        uniform = jax.vmap(lambda key, n: jax.random.uniform(jax.random.fold_in(key, n), (2,)))
        likelier = weights_ > jnp.take_along_axis(weights_, token_[:, None], axis=1)
        likelier = _above_min_p(jnp.where(likelier, weights_, 0), sampling_)
        new = _pick(likelier, uniform(keys_, tries_))
        new = jnp.where(rejected[rows], new, token_)
        still = rejected[rows] & outside(weights_, new, mass_, sampling_.top_p)
        return token.at[rows].set(new), rejected.at[rows].set(still), tries.at[rows].add(1)

    rejected = outside(weights, token, mass, sampling.top_p)
    state = (token, rejected, jnp.zeros_like(token))
    return jax.lax.while_loop(lambda state: state[1].any(), again, state)[0]


def _kept(logits: Array, weights: Array, sampling: SamplingParams) -> Bool[Array, "B V"]:
    """Which tokens top-p, min-p and typical-p leave, each found outright (no rejection)."""
    kept = weights > 0
    if sampling.top_p is not None:
        edge = mass_threshold(weights, weights, sampling.top_p * weights.sum(axis=1))
        kept &= (weights >= edge[:, None]) | (sampling.top_p[:, None] >= 1)
    if sampling.min_p is not None:
        kept &= weights >= sampling.min_p[:, None]
    if sampling.typical_p is not None:
        weights = jnp.where(kept, weights, 0)
        total = weights.sum(axis=1, keepdims=True)
        surprise = jnp.log(total) - jnp.log(jnp.where(kept, weights, 1))
        entropy = (weights * surprise).sum(axis=1, keepdims=True) / total
        nearness = jnp.where(kept, -jnp.abs(surprise - entropy), -jnp.inf)
        edge = mass_threshold(nearness, weights, sampling.typical_p * total[:, 0])
        kept &= (nearness >= edge[:, None]) | (sampling.typical_p[:, None] >= 1)
    return kept


def mass_threshold(
    scores: Float[Array, "B V"], weights: Float[Array, "B V"], mass: Float[Array, "B"]
) -> Float[Array, "B"]:
    """The lowest score whose strictly better scores weigh less than `mass`.

    A search over the bits of the score, exact, in 32 masked sums: no sort.
    """
    order = ordered(scores)

    def narrow(place: Array, found: Array) -> Array:
        bit = jnp.uint32(31) - place.astype(jnp.uint32)
        highest = found | ((jnp.uint32(1) << bit) - jnp.uint32(1))
        enough = jnp.where(order > highest[:, None], weights, 0).sum(axis=1) < mass
        return jnp.where(enough, found, found | (jnp.uint32(1) << bit))

    edge = jax.lax.fori_loop(0, 32, narrow, jnp.zeros_like(order[:, 0]))
    # The edge may fall between two scores; give the score above it, and no more than the best.
    above = jnp.where(order >= edge[:, None], scores, jnp.inf).min(axis=1)
    return jnp.minimum(above, scores.max(axis=1))
