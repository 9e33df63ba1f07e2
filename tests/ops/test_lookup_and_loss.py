"""Lookups and the cross-entropy against what autodiff makes of their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxgen.ops.cross_entropy import cross_entropies, cross_entropy, logsumexp_by_stretches
from jaxgen.ops.lookup import lookup, one_hot_sums, scattered_sums


def test_lookup_and_its_gradient():
    r = np.random.default_rng(0)
    table = jnp.asarray(r.normal(size=(7, 3)), jnp.float32)
    tokens = jnp.asarray(r.integers(0, 7, (4, 5)), jnp.int32)
    weights = jnp.asarray(r.normal(size=(4, 5, 3)), jnp.float32)
    np.testing.assert_array_equal(lookup(table, tokens), np.asarray(table)[np.asarray(tokens)])
    ours = jax.grad(lambda t: (lookup(t, tokens) * weights).sum())(table)
    expected = np.zeros((7, 3))
    np.add.at(expected, np.asarray(tokens), np.asarray(weights))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sums", [scattered_sums, one_hot_sums])
def test_sums_of_each_token(sums):
    """Whichever the device takes."""
    r = np.random.default_rng(0)
    tokens = jnp.asarray(r.integers(0, 7, 20))
    values = jnp.asarray(r.normal(size=(20, 3)), jnp.float32)
    expected = np.zeros((9, 3))
    np.add.at(expected, tokens, values)
    np.testing.assert_allclose(sums(9, tokens, values), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sums", [scattered_sums, one_hot_sums])
def test_sums_of_bfloat16_are_float32(sums):
    """In bfloat16 a sum of ones ends at 256."""
    total = sums(1, jnp.zeros(600, jnp.int32), jnp.ones((600, 1), jnp.bfloat16))
    assert total.dtype == jnp.float32
    assert total == 600


@pytest.mark.parametrize("size", [256, 300, 2100])
def test_logsumexp_by_stretches(size):
    x = 30 * jax.random.normal(jax.random.key(0), (3, 2, size))
    expected = scipy.special.logsumexp(np.asarray(x, np.float64), axis=-1)
    np.testing.assert_allclose(logsumexp_by_stretches(x), expected, rtol=1e-6)


def test_cross_entropy_of_hand_worked_numbers():
    logits = jnp.log(jnp.asarray([[1.0, 2.0, 5.0], [1.0, 1.0, 2.0]]))
    nll = cross_entropy(logits, jnp.asarray([2, 0]))
    np.testing.assert_allclose(nll, [np.log(8 / 5), np.log(4)], rtol=1e-6)


def test_cross_entropies_of_hand_worked_numbers():
    """The second is the mean over all tokens: of -log 1/8, 2/8 and 5/8."""
    logits = jnp.log(jnp.asarray([[1.0, 2.0, 5.0], [1.0, 1.0, 2.0]]))
    nll, even = cross_entropies(logits, jnp.asarray([2, 0]))
    np.testing.assert_allclose(nll, [np.log(8 / 5), np.log(4)], rtol=1e-6)
    expected = [np.log(8 * 4 * 8 / 5) / 3, np.log(4 * 4 * 2) / 3]
    np.testing.assert_allclose(even, expected, rtol=1e-6)


def test_cross_entropies_gradient():
    """Of both results at once, each with weights of its own."""
    r = np.random.default_rng(0)
    logits = jnp.asarray(r.normal(size=(6, 4, 9)) * 5, jnp.float32)
    targets = jnp.asarray(r.integers(0, 9, (6, 4)), jnp.int32)
    weights = jnp.asarray(r.normal(size=(2, 6, 4)), jnp.float32)

    def plain(logits):
        log_p = jax.nn.log_softmax(logits)
        picked = jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]
        return -(weights[0] * picked + weights[1] * log_p.mean(-1)).sum()

    def ours(logits):
        nll, even = cross_entropies(logits, targets)
        return (weights[0] * nll + weights[1] * even).sum()

    value, grad = jax.jit(jax.value_and_grad(ours))(logits)
    expected = jax.jit(jax.value_and_grad(plain))(logits)
    np.testing.assert_allclose(value, expected[0], rtol=1e-5)
    np.testing.assert_allclose(grad, expected[1], rtol=1e-4, atol=1e-5)


def test_cross_entropy_gradient():
    r = np.random.default_rng(0)
    logits = jnp.asarray(r.normal(size=(6, 4, 9)) * 5, jnp.float32)
    targets = jnp.asarray(r.integers(0, 9, (6, 4)), jnp.int32)
    weights = jnp.asarray(r.normal(size=(6, 4)), jnp.float32)

    def plain(logits):
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], -1)
        return -(weights * picked[..., 0]).sum()

    ours = jax.value_and_grad(lambda x: (weights * cross_entropy(x, targets)).sum())(logits)
    value, grad = jax.value_and_grad(plain)(logits)
    np.testing.assert_allclose(ours[0], value, rtol=1e-5)
    np.testing.assert_allclose(ours[1], grad, rtol=1e-5, atol=1e-6)


def test_cross_entropy_of_a_large_vocabulary():
    """As large as those whose normaliser a CPU sums in stretches, with a rest."""
    size = 8192 + 100
    logits = 5 * jax.random.normal(jax.random.key(0), (3, size))
    targets = jnp.asarray([0, 8191, size - 1])
    value, grad = jax.value_and_grad(lambda x: cross_entropy(x, targets).sum())(logits)
    wide = np.asarray(logits, np.float64)
    log_p = wide - scipy.special.logsumexp(wide, axis=-1, keepdims=True)
    expected = np.exp(log_p)
    expected[np.arange(3), targets] -= 1
    np.testing.assert_allclose(value, -log_p[np.arange(3), targets].sum(), rtol=1e-6)
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-7)


def test_cross_entropy_of_bfloat16_is_computed_in_float32():
    logits = (5 * jax.random.normal(jax.random.key(0), (3, 300))).astype(jnp.bfloat16)
    targets = jnp.asarray([0, 17, 299])
    value, grad = jax.value_and_grad(lambda x: cross_entropy(x, targets).sum())(logits)
    assert (value.dtype, grad.dtype) == (jnp.float32, jnp.bfloat16)
    wide = jax.value_and_grad(lambda x: cross_entropy(x, targets).sum())(logits.astype(jnp.float32))
    np.testing.assert_allclose(value, wide[0], rtol=1e-6)
    np.testing.assert_allclose(grad.astype(jnp.float32), wide[1], rtol=2**-8, atol=1e-7)


def test_cross_entropy_of_huge_logits_is_finite():
    logits = jnp.asarray([[1e30, -1e30, 0.0]])
    value, grad = jax.value_and_grad(lambda x: cross_entropy(x, jnp.asarray([0])).sum())(logits)
    assert value == 0.0
    assert jnp.isfinite(grad).all()
