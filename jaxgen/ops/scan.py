"""The recurrence as a `lax.scan` over time with a backward pass of its own: runs everywhere."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.ops.backends import platform_here
from jaxgen.ops.cell import LSTMCarry, cell
from jaxgen.types import Array, Bool, Float


def scan_lstm(
    pre_activations: Float[Array, "T B G"],
    recurrent_kernel: Float[Array, "H G"],
    carry: LSTMCarry,
    *,
    mask: Bool[Array, "T B"] | None = None,
    resets: Bool[Array, "T B"] | None = None,
    reverse: bool = False,
) -> tuple[LSTMCarry, Float[Array, "T B H"]]:
    """As `jaxgen.ops.lstm.lstm`.

    The backward pass keeps the activations, walks time once with one matmul a step, and makes the
    gradient of the kernel in a single matmul after the walk (autodiff would add up T of them).
    """
    return _lstm(reverse, pre_activations, recurrent_kernel, carry, mask, resets)


def steps_a_trip() -> int:
    """Steps in one trip of the loop: more on a GPU, where a trip has launches of its own."""
    return 8 if platform_here().name in ("cuda", "rocm") else 1


def _enter(carry: LSTMCarry, reset: Array | None) -> LSTMCarry:
    """The carry a step starts from."""
    if reset is None:
        return carry
    return LSTMCarry(*(jnp.where(reset[:, None], 0, s).astype(s.dtype) for s in carry))


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def _walk(
    reverse: bool,
    pre_activations: Array,
    kernel: Array,
    carry: LSTMCarry,
    mask: Array | None,
    resets: Array | None,
    keep: bool,
) -> tuple[LSTMCarry, tuple[Array, Any]]:
    """Forward over time; with `keep`, also what the backward pass needs of each step."""

    def step(carry: LSTMCarry, now: tuple) -> tuple[LSTMCarry, tuple[Array, Any]]:
        pre_activations, real, reset = now
        start = _enter(carry, reset)
        pre_activations = pre_activations.astype(jnp.float32) + _matmul(start.h, kernel)
        c, h, activations = cell(pre_activations, start.c)
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

    now = (pre_activations, mask, resets)
    return jax.lax.scan(step, carry, now, reverse=reverse, unroll=steps_a_trip())


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _lstm(
    reverse: bool,
    pre_activations: Array,
    kernel: Array,
    carry: LSTMCarry,
    mask: Array | None,
    resets: Array | None,
) -> tuple[LSTMCarry, Array]:
    carry, (outputs, _) = _walk(reverse, pre_activations, kernel, carry, mask, resets, keep=False)
    return carry, outputs


def _forward(
    reverse: bool,
    pre_activations: Array,
    kernel: Array,
    carry: LSTMCarry,
    mask: Array | None,
    resets: Array | None,
) -> tuple[tuple[LSTMCarry, Array], tuple]:
    end, (outputs, (c, h, activations)) = _walk(
        reverse, pre_activations, kernel, carry, mask, resets, keep=True
    )
    h = outputs if h is None else h  # without a mask the outputs are the hidden states
    dtype = jnp.zeros((), pre_activations.dtype)  # a residual must be an array
    return (end, outputs), (kernel, carry, mask, resets, c, h, activations, dtype)


def _backward(reverse: bool, residuals: tuple, cotangents: tuple[LSTMCarry, Array]) -> tuple:
    kernel, carry, mask, resets, c, h, activations, dtype = residuals
    d_end, d_outputs = cotangents
    c_before, h_before = shifted(c, carry.c, reverse), shifted(h, carry.h, reverse)
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
        d_pre_activations = jnp.concatenate(
            [
                d_c * g * (i * (1 - i)),
                d_c * c_before * (f * (1 - f)),
                d_c * i * (1 - g * g),
                d_h * tanh_c * (o * (1 - o)),
            ],
            axis=-1,
        )
        if real is not None:
            d_pre_activations = jnp.where(real[:, None], d_pre_activations, 0)
        d_pre_activations = d_pre_activations.astype(kernel.dtype)
        before = LSTMCarry(d_c * f, _matmul(d_pre_activations, kernel_t))
        before = _enter(before, reset)
        if real is not None:
            before = jax.tree.map(partial(jnp.where, real[:, None]), before, d_carry)
        return before, d_pre_activations

    d_end = LSTMCarry(*(d.astype(jnp.float32) for d in d_end))
    now = (d_outputs, c, c_before, activations, mask, resets)
    d_start, d_pre_activations = jax.lax.scan(
        step, d_end, now, reverse=not reverse, unroll=steps_a_trip()
    )
    # All steps at once; as plain matrices, since a contraction over two axes would copy both.
    d_kernel = _matmul(
        h_before.reshape(-1, kernel.shape[0]).T, d_pre_activations.reshape(-1, kernel.shape[1])
    )
    d_start = LSTMCarry(d_start.c, d_start.h.astype(carry.h.dtype))
    return d_pre_activations.astype(dtype.dtype), d_kernel.astype(kernel.dtype), d_start, None, None


def shifted(states: Array, first: Array, reverse: bool) -> Array:
    """The state before each step, given the state after each."""
    if reverse:
        return jnp.concatenate([states[1:], first[None]])
    return jnp.concatenate([first[None], states[:-1]])


_lstm.defvjp(_forward, _backward)
