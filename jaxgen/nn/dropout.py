"""Dropout of units, of whole sequences, of words and of weights."""

import math

import jax
import jax.numpy as jnp

from jaxgen.types import Array, Float, Key


def drop(
    x: Float[Array, "*shape"], key: Key[Array, ""] | Array, rate: float, axes: tuple[int, ...] = ()
) -> Float[Array, "*shape"]:
    """Zero a share `rate` of `x` and scale the rest by 1 / (1 - rate).

    Args:
        x: activations, a table or a kernel.
        key: consumed.
        rate: in [0, 1).
        axes: axes along which one draw is shared. On a time-major [T, B, D], `(0,)` is variational
            dropout (Gal & Ghahramani, 2016); on a [V, E] embedding, `(1,)` drops whole words; on
            a recurrent kernel, `()` is DropConnect (Merity et al., 2018).
    """
    if rate == 0.0:
        return x
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape))
    keep = _random_halves(key, shape) >= round(rate * _HALVES)
    return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), 0).astype(x.dtype)


_HALVES = 2**16


def _random_halves(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform integers below 2**16: two of each random word, since words are what costs."""
    size = math.prod(shape)
    words = jax.random.bits(key, (-(-size // 2),), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)
    return halves[:size].reshape(shape)
