"""The LSTM recurrence over time, with a backward pass of its own."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.types import Array, Bool, Float


class LSTMCarry(NamedTuple):
    """State of one LSTM layer between two steps."""

    c: Float[Array, "*B H"]
    """Cell state, float32 whatever the compute type."""
    h: Float[Array, "*B H"]
    """Hidden state, in the compute type."""


def zero_carry(batch_size: int, hidden_size: int, dtype: Any = jnp.float32) -> LSTMCarry:
    """The carry before the first step: `c` float32 and `h` of type `dtype`, each [B, H]."""
    return LSTMCarry(
        jnp.zeros((batch_size, hidden_size), jnp.float32),
        jnp.zeros((batch_size, hidden_size), dtype),
    )


def lstm(
    gates: Float[Array, "T B G"],
    recurrent_kernel: Float[Array, "H G"],
    carry: LSTMCarry,
    *,
    mask: Bool[Array, "T B"] | None = None,
    resets: Bool[Array, "T B"] | None = None,
    reverse: bool = False,
) -> tuple[LSTMCarry, Float[Array, "T B H"]]:
    """Run one LSTM layer over a time-major sequence.

    The input projection does not depend on the recurrence, so it is made outside, in one matmul
    or one table lookup for all steps. With gates in the order i, f, g, o (G = 4H):

        i, f, o = sigmoid(.), g = tanh(.)   of   gates[t] + h[t-1] @ recurrent_kernel
        c[t] = f * c[t-1] + i * g
        h[t] = o * tanh(c[t])

    The backward pass keeps the activations, walks time once with one matmul a step, and makes the
    gradient of the kernel in a single matmul after the walk (autodiff would add up T of them).

    Args:
        gates: input part of the pre-activations, bias included.
        recurrent_kernel: its type is the compute type. With bfloat16 the matmuls multiply in
            bfloat16 and accumulate in float32, and the cell state stays float32.
        carry: state before the first step.
        mask: True = real step. A padded step leaves the carry alone and its output is zero.
        resets: True = start from a zero carry at this step (a document begins).
        reverse: walk from the last step to the first; `carry` then enters at the last.

    Returns:
        The carry after the walk, and the hidden state of every step in the compute type.

    Source: Hochreiter & Schmidhuber (1997) with the forget gate of Gers et al. (2000); equal to
    `torch.nn.LSTM` with its two biases added.
    """
    return _lstm(reverse, gates, recurrent_kernel, carry, mask, resets)


def lstm_step(pre_activation: Float[Array, "*B G"], c: Float[Array, "*B H"]) -> LSTMCarry:
    """One step of the cell, from the summed pre-activations [*B, 4H]; `h` comes out float32."""
    c, h, _ = _cell(pre_activation.astype(jnp.float32), c)
    return LSTMCarry(c, h)


def _cell(pre_activation: Array, c: Array) -> tuple[Array, Array, tuple[Array, ...]]:
    i, f, g, o = jnp.split(pre_activation, 4, axis=-1)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    c = f * c + i * g
    return c, o * jnp.tanh(c), (i, f, g, o)


def _enter(carry: LSTMCarry, reset: Array | None) -> LSTMCarry:
    """The carry a step starts from."""
    if reset is None:
        return carry
    return LSTMCarry(*(jnp.where(reset[:, None], 0, s).astype(s.dtype) for s in carry))


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _walk(
    reverse: bool,
    gates: Array,
    kernel: Array,
    carry: LSTMCarry,
    mask: Array | None,
    resets: Array | None,
    keep: bool,
) -> tuple[LSTMCarry, tuple[Array, Any]]:
    """Forward over time; with `keep`, also what the backward pass needs of each step."""

    def step(carry: LSTMCarry, now: tuple) -> tuple[LSTMCarry, tuple[Array, Any]]:
        gates, real, reset = now
        start = _enter(carry, reset)
        c, h, activations = _cell(gates.astype(jnp.float32) + _matmul(start.h, kernel), start.c)
        h = h.astype(kernel.dtype)
        output, end = h, LSTMCarry(c, h)
        if real is not None:
            real = real[:, None]
            end = LSTMCarry(jnp.where(real, c, carry.c), jnp.where(real, h, carry.h))
            output = jnp.where(real, h, 0).astype(h.dtype)
        if not keep:
            return end, (output, None)
        activations = tuple(a.astype(kernel.dtype) for a in activations)
        return end, (output, (end.c, end.h if real is not None else None, activations))

    return jax.lax.scan(step, carry, (gates, mask, resets), reverse=reverse)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lstm(
    reverse: bool,
    gates: Array,
    kernel: Array,
    carry: LSTMCarry,
    mask: Array | None,
    resets: Array | None,
) -> tuple[LSTMCarry, Array]:
    carry, (outputs, _) = _walk(reverse, gates, kernel, carry, mask, resets, keep=False)
    return carry, outputs


def _forward(
    reverse: bool,
    gates: Array,
    kernel: Array,
    carry: LSTMCarry,
    mask: Array | None,
    resets: Array | None,
) -> tuple[tuple[LSTMCarry, Array], tuple]:
    end, (outputs, (c, h, activations)) = _walk(
        reverse, gates, kernel, carry, mask, resets, keep=True
    )
    h = outputs if h is None else h  # without a mask the outputs are the hidden states
    dtype = jnp.zeros((), gates.dtype)  # a residual must be an array
    return (end, outputs), (kernel, carry, mask, resets, c, h, activations, dtype)


def _backward(reverse: bool, residuals: tuple, cotangents: tuple[LSTMCarry, Array]) -> tuple:
    kernel, carry, mask, resets, c, h, activations, dtype = residuals
    d_end, d_outputs = cotangents
    c_before, h_before = _shift(c, carry.c, reverse), _shift(h, carry.h, reverse)
    if resets is not None:
        h_before = jnp.where(resets[..., None], 0, h_before).astype(h.dtype)
        c_before = jnp.where(resets[..., None], 0, c_before)
    kernel_t = kernel.T

    def step(d_carry: LSTMCarry, now: tuple) -> tuple[LSTMCarry, Array]:
        d_output, c, c_before, activations, real, reset = now
        i, f, g, o = (a.astype(jnp.float32) for a in activations)
        d_h = d_carry.h + d_output.astype(jnp.float32)
        tanh_c = jnp.tanh(c)
        d_c = d_carry.c + d_h * o * (1 - tanh_c * tanh_c)
        d_gates = jnp.concatenate(
            [
                d_c * g * (i * (1 - i)),
                d_c * c_before * (f * (1 - f)),
                d_c * i * (1 - g * g),
                d_h * tanh_c * (o * (1 - o)),
            ],
            axis=-1,
        )
        if real is not None:
            d_gates = jnp.where(real[:, None], d_gates, 0)
        d_gates = d_gates.astype(kernel.dtype)
        before = LSTMCarry(d_c * f, _matmul(d_gates, kernel_t))
        before = _enter(before, reset)
        if real is not None:
            before = jax.tree.map(partial(jnp.where, real[:, None]), before, d_carry)
        return before, d_gates

    d_end = LSTMCarry(*(d.astype(jnp.float32) for d in d_end))
    now = (d_outputs, c, c_before, activations, mask, resets)
    d_start, d_gates = jax.lax.scan(step, d_end, now, reverse=not reverse)
    # All steps at once; as plain matrices, since a contraction over two axes would copy both.
    d_kernel = _matmul(
        h_before.reshape(-1, kernel.shape[0]).T, d_gates.reshape(-1, kernel.shape[1])
    )
    d_start = LSTMCarry(d_start.c, d_start.h.astype(carry.h.dtype))
    return d_gates.astype(dtype.dtype), d_kernel.astype(kernel.dtype), d_start, None, None


def _shift(states: Array, first: Array, reverse: bool) -> Array:
    """The state before each step, given the state after each."""
    if reverse:
        return jnp.concatenate([states[1:], first[None]])
    return jnp.concatenate([first[None], states[:-1]])


_lstm.defvjp(_forward, _backward)
