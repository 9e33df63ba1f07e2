"""The TPU kernel, interpreted on the CPU, against the scan: values, gradients, cuts and types."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.ops.backends import compiling_for
from jaxgen.ops.cell import LSTMCarry
from jaxgen.ops.pallas_lstm import pallas_lstm
from jaxgen.ops.scan import scan_lstm
from jaxgen.ops.tpu import Blocks


def problem(T, B, H, flagged, dtype=jnp.float32):
    r = np.random.default_rng(0)
    carry = LSTMCarry(
        jnp.asarray(r.normal(size=(B, H)), jnp.float32), jnp.asarray(r.normal(size=(B, H)), dtype)
    )
    arrays = (
        jnp.asarray(r.normal(size=(T, B, 4 * H)), dtype),
        jnp.asarray(r.normal(size=(H, 4 * H)) / H**0.5, dtype),
        carry,
    )
    flags = {
        "mask": jnp.asarray(r.random((T, B)) < 0.7),
        "resets": jnp.asarray(r.random((T, B)) < 0.3),
    }
    return arrays, {name: flags[name] for name in flagged}


@partial(jax.jit, static_argnums=0)
def everything(run, arrays, flags):
    """Outputs, carry, and the gradients of a scalar that reaches all of them."""

    def scalar(pre_activations, kernel, carry):
        end, outputs = run(pre_activations, kernel, carry, **flags)
        weights = jnp.cos(jnp.arange(outputs.size, dtype=jnp.float32)).reshape(outputs.shape)
        total = (weights * outputs.astype(jnp.float32)).sum() + (end.c * end.c).sum()
        return total + 3.0 * end.h.astype(jnp.float32).sum(), (end, outputs)

    return jax.value_and_grad(scalar, (0, 1, 2), has_aux=True)(*arrays)


@pytest.mark.parametrize(
    ("flagged", "reverse"),
    [((), False), ((), True), (("mask",), False), (("mask", "resets"), True)],
    ids=str,
)
def test_values_and_gradients_match_the_scan(flagged, reverse):
    arrays, flags = problem(6, 4, 8, flagged)
    kernel = partial(pallas_lstm, blocks=Blocks(2, 3, 0), interpret=True, reverse=reverse)
    ours = everything(kernel, arrays, flags)
    theirs = everything(partial(scan_lstm, reverse=reverse), arrays, flags)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_the_planned_blocks_give_the_same_as_one_block():
    arrays, flags = problem(5, 3, 8, ("resets",))
    with compiling_for("tpu", "TPU v5 lite"):
        planned = everything(partial(pallas_lstm, interpret=True), arrays, flags)
    one = everything(partial(pallas_lstm, blocks=Blocks(3, 1, 0), interpret=True), arrays, flags)
    for a, b in zip(jax.tree.leaves(planned), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_bfloat16_keeps_the_types_of_the_scan_and_stays_near_it():
    arrays, flags = problem(8, 4, 16, ("mask",), jnp.bfloat16)
    kernel = partial(pallas_lstm, blocks=Blocks(4, 2, 0), interpret=True)
    ours, theirs = everything(kernel, arrays, flags), everything(scan_lstm, arrays, flags)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        scale = float(jnp.abs(b.astype(jnp.float32)).max())
        # Both round activations to bfloat16 (2**-9); eight steps stay within eight of those.
        np.testing.assert_allclose(
            a.astype(jnp.float32), b.astype(jnp.float32), atol=8 * 2**-9 * max(scale, 1.0)
        )


def test_what_does_not_fit_is_named():
    big = jax.ShapeDtypeStruct((4096, 4 * 4096), jnp.bfloat16)
    pre_activations = jax.ShapeDtypeStruct((2, 1, 4 * 4096), jnp.bfloat16)
    state = jax.ShapeDtypeStruct((1, 4096), jnp.float32)
    carry = LSTMCarry(state, jax.ShapeDtypeStruct(state.shape, jnp.bfloat16))
    with pytest.raises(UserError, match=r"H=4096 in bfloat16 does not fit"):
        jax.eval_shape(pallas_lstm, pre_activations, big, carry)
