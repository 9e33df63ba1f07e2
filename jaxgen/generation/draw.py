"""One token from one row of logits: top-k, top-p, min-p, typical-p and the draw, without a sort.

The draw inverts the cumulative distribution in two levels: the mass of each block of about
sqrt(V) tokens, then the tokens of the chosen block. That is one pass over the vocabulary, two
uniform numbers and no V-long array of noise or of cumulative sums.

Top-p rejects: a drawn token is in the nucleus if the tokens strictly more likely hold less than
`top_p` of the mass, which one masked sum tells. If it is not, neither is any less likely one, and
the next draw is from the tokens above it. What is accepted follows the nucleus exactly, and the
first draw is accepted with probability `top_p` or more.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.generation.sampling import SamplingParams
from jaxgen.types import Array, Bool, Float, Int, UInt32

# Below this size the search for the largest k by blocks is not worth its gathers.
_BLOCKED_TOP_K = 2048


class Noise(NamedTuple):
    """The randomness of one draw."""

    uniforms: Float[Array, "*B 2"]
    key: Any
    """For draws after a rejected first one; None where nothing rejects."""


def noise(keys: Array, steps: Int[Array, "N"], sampling: SamplingParams) -> Noise:
    """Randomness of each step and row, [N, B]: a function of the row's key and the step alone."""

    def one(step: Array, key: Array) -> Noise:
        key = jax.random.fold_in(key, step)
        return Noise(jax.random.uniform(key, (2,)), key if _rejects(sampling) else None)

    return jax.vmap(lambda step: jax.vmap(lambda key: one(step, key))(keys))(steps)


def _rejects(sampling: SamplingParams) -> bool:
    return sampling.top_p is not None and sampling.typical_p is None


def draw(logits: Float[Array, "V"], sampling: SamplingParams, noise: Noise) -> Int[Array, ""]:
    """Draw a token of one row; -1 where every token is banned (all logits -inf).

    Args:
        logits: after penalties and bans, before the temperature.
        sampling: the row's settings, scalars.
        noise: the row's randomness at this step.
    """
    ids = None
    if sampling.top_k is not None:
        logits, ids = _keep_top_k(logits, sampling)
    peak = logits.max()
    if sampling.typical_p is not None:
        logits = jnp.where(_kept(logits, peak, sampling), logits, -jnp.inf)
    token = _pick(logits, peak, sampling, noise.uniforms)
    if _rejects(sampling):
        token = _until_in_nucleus(logits, peak, sampling, noise.key, token)
    token = token if ids is None else ids[token]
    return jnp.where(peak > -jnp.inf, token, -1)


def filtered(logits: Float[Array, "V"], sampling: SamplingParams) -> Float[Array, "V"]:
    """The logits that `draw` draws from: over the temperature, -inf where a filter removed them.

    For a greedy row (temperature 0) only the most likely token is left.
    """
    below = jnp.full_like(logits, -jnp.inf)
    places = jnp.arange(logits.shape[0])
    kept = logits
    if sampling.top_k is not None:
        kept, places = _keep_top_k(logits, sampling)
    peak = kept.max()
    kept = jnp.where(_kept(kept, peak, sampling), kept, -jnp.inf)
    hot = sampling.temperature > 0
    kept = jnp.where(hot, kept / jnp.where(hot, sampling.temperature, 1), kept)
    kept = jnp.where(hot | (jnp.arange(kept.shape[0]) == jnp.argmax(kept)), kept, -jnp.inf)
    return below.at[places].set(kept)


def top_k(x: Float[Array, "V"], k: int) -> tuple[Float[Array, "k"], Int[Array, "k"]]:
    """As `jax.lax.top_k` (of equals the lower index first), but by blocks where V is large.

    The k largest lie in the k blocks with the largest maxima, so that all but one pass see k
    blocks only.
    """
    size = x.shape[0]
    block = 32
    if size < _BLOCKED_TOP_K or k * block * 2 > size:
        values, places = jax.lax.top_k(x, k)
        return values, places
    blocks = _in_blocks(x, block)
    _, chosen = jax.lax.top_k(blocks.max(axis=1), k)
    chosen = jnp.sort(chosen)  # ties go to the lower index in the second search too
    values, places = jax.lax.top_k(blocks[chosen].reshape(-1), k)
    return values, chosen[places // block] * block + places % block


def _keep_top_k(logits: Array, sampling: SamplingParams) -> tuple[Array, Array]:
    """The `max_top_k` largest logits in order, -inf after the row's k, and their tokens."""
    cap = sampling.max_top_k
    cap = logits.shape[0] if cap is None or cap < 0 else min(cap, logits.shape[0])
    values, ids = top_k(logits, cap)
    k = jnp.where(sampling.top_k > 0, sampling.top_k, cap)
    return jnp.where(jnp.arange(cap) < k, values, -jnp.inf), ids


def _weights(logits: Array, peak: Array, sampling: SamplingParams) -> Array:
    """Probabilities up to a factor; the most likely has 1. A greedy row has no others."""
    hot = sampling.temperature > 0
    scale = jnp.where(hot, sampling.temperature, 1)
    return jnp.where(hot, jnp.exp((logits - peak) / scale), (logits == peak).astype(jnp.float32))


def _pick(logits: Array, peak: Array, sampling: SamplingParams, uniforms: Array) -> Array:
    """A token by its weight, by block and then within it; the lowest id for a greedy row."""
    size = logits.shape[0]
    block = max(8, 1 << round(math.log2(size) / 2))

    def weights(logits: Array) -> Array:
        weights = _weights(logits, peak, sampling)
        if sampling.min_p is None:
            return weights
        return jnp.where(weights >= sampling.min_p, weights, 0)

    uniforms = jnp.where(sampling.temperature > 0, uniforms, 0)
    blocks = _in_blocks(logits, block)
    chosen = _invert(weights(blocks).sum(axis=1), uniforms[0])
    within = _invert(
        weights(jax.lax.dynamic_index_in_dim(blocks, chosen, keepdims=False)), uniforms[1]
    )
    return jnp.minimum(chosen * block + within, size - 1)


def _invert(weights: Float[Array, "n"], uniform: Float[Array, ""]) -> Int[Array, ""]:
    """The first index whose cumulative weight exceeds `uniform` of the total."""
    index = jnp.arange(weights.shape[0])
    # Masked sums: in these small sizes fewer kernels than a cumulative sum, and exact in that a
    # weight of zero leaves the sum as it is, so that a banned token is never picked.
    sums = jnp.where(index[:, None] >= index, weights, 0).sum(axis=1)
    total = sums[-1]
    target = jnp.minimum(uniform * total, total * (1 - 2.0**-23))
    return jnp.minimum((sums <= target).sum(dtype=jnp.int32), weights.shape[0] - 1)


def _until_in_nucleus(
    logits: Array, peak: Array, sampling: SamplingParams, key: Any, token: Array
) -> Array:
    """Redraw among the more likely tokens until the drawn one is in the nucleus."""
    mass = _weights(logits, peak, sampling).sum() * sampling.top_p

    def outside(token: Array) -> Array:
        above = logits > logits[token]
        held = jnp.where(above, _weights(logits, peak, sampling), 0).sum()
        return (held >= mass) & (held > 0) & (sampling.top_p < 1)

    def again(state: tuple) -> tuple:
        token, _, count = state
        uniforms = jax.random.uniform(jax.random.fold_in(key, count), (2,))
        likelier = jnp.where(logits > logits[token], logits, -jnp.inf)
        token = _pick(likelier, peak, sampling, uniforms)
        return token, outside(token), count + 1

    first = (token, outside(token), jnp.int32(0))
    return jax.lax.while_loop(lambda state: state[1], again, first)[0]


def _kept(logits: Array, peak: Array, sampling: SamplingParams) -> Bool[Array, "V"]:
    """Which tokens top-p, min-p and typical-p leave, each found outright (no rejection)."""
    weights = _weights(logits, peak, sampling)
    kept = weights > 0
    if sampling.top_p is not None:
        edge = mass_threshold(logits, weights, sampling.top_p * weights.sum())
        kept &= (logits >= edge) | (sampling.top_p >= 1)
    if sampling.min_p is not None:
        kept &= weights >= sampling.min_p
    if sampling.typical_p is not None:
        weights = jnp.where(kept, weights, 0)
        surprise = jnp.log(weights.sum()) - jnp.log(jnp.where(kept, weights, 1))
        entropy = (weights * surprise).sum() / weights.sum()
        nearness = jnp.where(kept, -jnp.abs(surprise - entropy), -jnp.inf)
        edge = mass_threshold(nearness, weights, sampling.typical_p * weights.sum())
        kept &= (nearness >= edge) | (sampling.typical_p >= 1)
    return kept


def mass_threshold(
    scores: Float[Array, "V"], weights: Float[Array, "V"], mass: Float[Array, ""]
) -> Float[Array, ""]:
    """The lowest score whose strictly better scores weigh less than `mass`.

    A search over the bits of the score, exact, in 32 masked sums: no sort.
    """
    order = _ordered(scores)

    def narrow(place: Array, found: Array) -> Array:
        bit = jnp.uint32(31) - place.astype(jnp.uint32)
        highest = found | ((jnp.uint32(1) << bit) - jnp.uint32(1))
        enough = jnp.where(order > highest, weights, 0).sum() < mass
        return jnp.where(enough, found, found | (jnp.uint32(1) << bit))

    edge = jax.lax.fori_loop(0, 32, narrow, jnp.uint32(0))
    # The edge may fall between two scores; give the score above it, and no more than the best.
    best = scores.max()
    return jnp.minimum(jnp.where(order >= edge, scores, jnp.inf).min(), best)


def _ordered(x: Float[Array, "V"]) -> UInt32[Array, "V"]:
    """Unsigned integers in the order of the floats."""
    bits = jax.lax.bitcast_convert_type(x + 0.0, jnp.uint32)  # + 0.0: -0 and 0 are equal
    sign = jnp.uint32(0x80000000)
    return jnp.where(bits >= sign, ~bits, bits | sign)


def _in_blocks(x: Float[Array, "V"], block: int) -> Float[Array, "blocks block"]:
    return jnp.pad(x, (0, -x.shape[0] % block), constant_values=-jnp.inf).reshape(-1, block)
