"""Initializers of recurrent parameters, which draw the part of each gate on its own."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxgen.types import Array, PyTree


def per_gate(initializer: Callable) -> Callable:
    """Draw the four parts of a [D, 4H] matrix one by one with `initializer`."""

    def init(key: Array, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
        gate = (shape[0], shape[1] // 4)
        draw = jax.vmap(lambda key: initializer(key, gate, dtype))  # a quarter of the program
        return draw(jax.random.split(key, 4)).swapaxes(0, 1).reshape(shape)

    return init


def gate_bias(forget_bias: float) -> Callable:
    """Zeros, but `forget_bias` on the forget gate, so that a new cell keeps its state."""

    def init(key: Array, shape: tuple[int], dtype: Any = jnp.float32) -> Array:
        size = shape[0] // 4
        return jnp.zeros(shape, dtype).at[size : 2 * size].set(forget_bias)

    return init


input_kernel_init = per_gate(nn.initializers.glorot_uniform())
recurrent_kernel_init = per_gate(nn.initializers.orthogonal())

_KERAS: dict[str, Callable] = {
    "embedding": partial(jax.random.uniform, minval=-0.05, maxval=0.05),
    "input_kernel": nn.initializers.glorot_uniform(),
    "recurrent_kernel": nn.initializers.orthogonal(),
}


def drawn_as_keras(params: PyTree, key: Array) -> PyTree:
    """Embeddings and LSTM kernels drawn anew as Keras 3 draws them; all else stays.

    The kernel of the four gates is one matrix [D, 4H] there, whose entries are smaller than those
    of four matrices: Glorot's by sqrt((D + H) / (D + 4H)), the orthogonal ones by a half.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        _KERAS[path[-1].key](key, x.shape) if path[-1].key in _KERAS else x
        for key, (path, x) in zip(keys, leaves, strict=True)
    ]
    return jax.tree_util.tree_unflatten(structure, drawn)
