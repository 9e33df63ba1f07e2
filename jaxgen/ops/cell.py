"""The LSTM cell: its state, and one step of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.types import Array, Float


class LSTMCarry(NamedTuple):
    """State of one LSTM layer between two steps."""

    c: Float[Array, "*B H"]
    """Cell state, float32 whatever the compute type."""
    h: Float[Array, "*B H"]
    """Hidden state, in the compute type."""


class LSTMWeights(NamedTuple):
    """Parameters of one layer in one direction, gates in the order i, f, g, o."""

    input_kernel: Float[Array, "D G"]
    recurrent_kernel: Float[Array, "H G"]
    bias: Float[Array, "G"]


def zero_carry(batch_size: int, hidden_size: int, dtype: Any = jnp.float32) -> LSTMCarry:
    """The carry before the first step: `c` float32 and `h` of type `dtype`, each [B, H]."""
    return LSTMCarry(
        jnp.zeros((batch_size, hidden_size), jnp.float32),
        jnp.zeros((batch_size, hidden_size), dtype),
    )


def lstm_step(pre_activation: Float[Array, "*B G"], c: Float[Array, "*B H"]) -> LSTMCarry:
    """One step of the cell, from the summed pre-activations [*B, 4H]; `h` comes out float32."""
    c, h, _ = cell(pre_activation.astype(jnp.float32), c)
    return LSTMCarry(c, h)


def cell(pre_activation: Array, c: Array) -> tuple[Array, Array, tuple[Array, ...]]:
    """The new `c` and `h`, and the activations i, f, g, o that made them, all float32."""
    i, f, g, o = jnp.split(pre_activation, 4, axis=-1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    c = f * c + i * g
    return c, o * jnp.tanh(c), (i, f, g, o)
