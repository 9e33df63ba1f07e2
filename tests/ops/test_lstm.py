"""The recurrence against a loop written out, and its backward pass against autodiff."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.ops import scan
from jaxgen.ops.lstm import LSTMCarry, lstm, zero_carry


def problem(seed, T, B, H, masked, reset, dtype=jnp.float32):
    r = np.random.default_rng(seed)
    pre_activations = jnp.asarray(r.normal(size=(T, B, 4 * H)), dtype)
    kernel = jnp.asarray(r.normal(size=(H, 4 * H)) / H**0.5, dtype)
    carry = LSTMCarry(
        jnp.asarray(r.normal(size=(B, H)), jnp.float32), jnp.asarray(r.normal(size=(B, H)), dtype)
    )
    mask = jnp.asarray(r.random((T, B)) < 0.7) if masked else None
    resets = jnp.asarray(r.random((T, B)) < 0.3) if reset else None
    return pre_activations, kernel, carry, mask, resets


def loop(pre_activations, kernel, carry, mask=None, resets=None, reverse=False):
    """The cell's textbook equations, step by step, for autodiff to differentiate."""
    (c, h), T = carry, pre_activations.shape[0]
    outputs = [None] * T
    for t in reversed(range(T)) if reverse else range(T):
        c_in, h_in = c, h
        if resets is not None:
            c_in, h_in = (jnp.where(resets[t][:, None], 0.0, s) for s in (c, h))
        i, f, g, o = jnp.split(pre_activations[t] + h_in @ kernel, 4, axis=-1)
        c_new = jax.nn.sigmoid(f) * c_in + jax.nn.sigmoid(i) * jnp.tanh(g)
        h_new = jax.nn.sigmoid(o) * jnp.tanh(c_new)
        real = jnp.ones(c.shape[0], bool)[:, None] if mask is None else mask[t][:, None]
        c, h = jnp.where(real, c_new, c), jnp.where(real, h_new, h)
        outputs[t] = jnp.where(real, h_new, 0.0)
    return LSTMCarry(c, h), jnp.stack(outputs)


def objective(run, arguments, **options):
    """A scalar that reaches every output with weights of its own."""
    pre_activations, kernel, carry, mask, resets = arguments

    def scalar(pre_activations, kernel, carry):
        end, outputs = run(pre_activations, kernel, carry, mask=mask, resets=resets, **options)
        weights = jnp.cos(jnp.arange(outputs.size, dtype=jnp.float32)).reshape(outputs.shape)
        return (weights * outputs).sum() + (end.c * end.c).sum() + 3.0 * end.h.sum()

    return jax.jit(jax.value_and_grad(scalar, argnums=(0, 1, 2)))(pre_activations, kernel, carry)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("reset", [False, True])
def test_values_and_gradients_match_the_written_out_loop(masked, reset, reverse):
    arguments = problem(0, 6, 3, 5, masked, reset)
    ours = objective(lstm, arguments, reverse=reverse)
    theirs = objective(loop, arguments, reverse=reverse)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 4))
@pytest.mark.slow
def test_two_halves_through_the_carry_equal_the_whole(seed, cut):
    pre_activations, kernel, carry, mask, resets = problem(seed, 5, 2, 4, True, True)
    end, outputs = lstm(pre_activations, kernel, carry, mask=mask, resets=resets)
    middle, first = lstm(pre_activations[:cut], kernel, carry, mask=mask[:cut], resets=resets[:cut])
    last, second = lstm(pre_activations[cut:], kernel, middle, mask=mask[cut:], resets=resets[cut:])
    np.testing.assert_allclose(jnp.concatenate([first, second]), outputs, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(last.c, end.c, rtol=1e-6, atol=1e-7)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), length=st.integers(0, 4))
def test_padding_changes_nothing(seed, length):
    pre_activations, kernel, carry, _, _ = problem(seed, 4, 2, 4, False, False)
    mask = jnp.broadcast_to(jnp.arange(4)[:, None] < length, (4, 2))
    end, outputs = lstm(pre_activations, kernel, carry, mask=mask)
    short_end, short = (
        lstm(pre_activations[:length], kernel, carry) if length else (carry, outputs[:0])
    )
    np.testing.assert_allclose(outputs[:length], short, rtol=1e-6, atol=1e-7)
    assert not outputs[length:].any()
    for a, b in zip(end, short_end, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("T", [1, 8, 11])
def test_the_unrolled_loop_of_a_gpu_is_the_same(T, monkeypatch):
    arguments = problem(3, T, 2, 4, masked=True, reset=True)

    def both(pre_activations, kernel, carry, mask, resets):
        run = partial(lstm, carry=carry, mask=mask, resets=resets)
        out, back = jax.vjp(lambda x, k: run(x, k)[1], pre_activations, kernel)
        return out, back(out)

    plain = jax.jit(both)(*arguments)
    monkeypatch.setattr(scan, "steps_a_trip", lambda: 8)
    unrolled = jax.jit(lambda *arguments: both(*arguments))(*arguments)  # traced anew
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), unrolled, plain)


def test_a_reset_forgets_what_came_before():
    pre_activations, kernel, carry, _, _ = problem(1, 5, 2, 4, False, False)
    resets = jnp.zeros((5, 2), bool).at[3].set(True)
    _, outputs = lstm(pre_activations, kernel, carry, resets=resets)
    _, fresh = lstm(pre_activations[3:], kernel, zero_carry(2, 4))
    np.testing.assert_allclose(outputs[3:], fresh, rtol=1e-6, atol=1e-7)


def test_bfloat16_keeps_a_float32_cell_and_stays_near_float32():
    arguments = problem(2, 12, 3, 16, True, False)
    low = problem(2, 12, 3, 16, True, False, jnp.bfloat16)
    end, outputs = lstm(low[0], low[1], low[2], mask=low[3])
    _, wide = lstm(arguments[0], arguments[1], arguments[2], mask=arguments[3])
    assert outputs.dtype == end.h.dtype == jnp.bfloat16
    assert end.c.dtype == jnp.float32
    # bfloat16 rounds at 2**-9; twelve steps of a contracting cell stay within eight of those.
    np.testing.assert_allclose(outputs.astype(jnp.float32), wide, atol=8 * 2**-9)
    grads = jax.grad(lambda g, k: lstm(g, k, low[2])[1].astype(jnp.float32).sum(), (0, 1))(*low[:2])
    assert [g.dtype for g in grads] == [jnp.bfloat16, jnp.bfloat16]


def matmuls(jaxpr):
    """How many matmuls each scan of a program makes a step."""
    counts = []
    for equation in jaxpr.eqns:
        inner = [v for v in jax.tree.leaves(list(equation.params.values())) if hasattr(v, "jaxpr")]
        if equation.primitive.name == "scan":
            counts.append(str(equation.params["jaxpr"]).count("dot_general["))
        else:
            counts += [count for program in inner for count in matmuls(program.jaxpr)]
    return counts


def test_the_gradient_of_the_kernel_costs_no_matmul_inside_the_loops():
    pre_activations, kernel, carry, _, _ = problem(0, 6, 3, 5, False, False)
    ours = jax.make_jaxpr(jax.grad(lambda k: lstm(pre_activations, k, carry)[1].sum()))(kernel)
    assert matmuls(ours.jaxpr) == [1, 1]  # forward, backward
