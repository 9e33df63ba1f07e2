"""The layer-normalised LSTM recurrence (Ba, Kiros & Hinton, 2016)."""

import jax
import jax.numpy as jnp

from jaxgen.ops.cell import LSTMCarry, activate
from jaxgen.types import Array, Bool, Float


def layer_norm(x: Float[Array, "*B D"], scale: Float[Array, "D"]) -> Float[Array, "*B D"]:
    """Zero mean and unit variance over the last axis, in float32, times `scale`."""
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5) * scale


def layernorm_lstm(
    pre_activations: Float[Array, "T B G"],
    recurrent_kernel: Float[Array, "H G"],
    recurrent_scale: Float[Array, "G"],
    cell_scale: Float[Array, "H"],
    cell_bias: Float[Array, "H"],
    carry: LSTMCarry,
    *,
    mask: Bool[Array, "T B"] | None = None,
    resets: Bool[Array, "T B"] | None = None,
    reverse: bool = False,
) -> tuple[LSTMCarry, Float[Array, "T B H"]]:
    """As `jaxgen.ops.lstm.lstm`, with the recurrent input and the cell's output normalised.

    `pre_activations` holds the input part, already normalised and with the bias added:

        a = pre_activations[t] + recurrent_scale * norm(h[t-1] @ recurrent_kernel)
        h[t] = o * tanh(cell_scale * norm(c[t]) + cell_bias)

    The backward pass is autodiff's: the statistics of every step stand between the steps, so
    there is no single matmul to win.
    """
    dtype = recurrent_kernel.dtype

    def step(carry: LSTMCarry, now: tuple) -> tuple[LSTMCarry, Array]:
        pre_activations, real, reset = now
        c, h = carry
        if reset is not None:
            c, h = (jnp.where(reset[:, None], 0, s).astype(s.dtype) for s in carry)
        recurrent = jnp.matmul(h, recurrent_kernel, preferred_element_type=jnp.float32)
        a = pre_activations.astype(jnp.float32) + layer_norm(recurrent, recurrent_scale)
        i, f, g, o = activate(a)
        c = f * c + i * g
        h = o * jnp.tanh(layer_norm(c, cell_scale) + cell_bias)
        h = h.astype(dtype)
        if real is None:
            return LSTMCarry(c, h), h
        real = real[:, None]
        end = LSTMCarry(jnp.where(real, c, carry.c), jnp.where(real, h, carry.h))
        return end, jnp.where(real, h, 0).astype(dtype)

    return jax.lax.scan(step, carry, (pre_activations, mask, resets), reverse=reverse)
