"""Poolings: each row by NumPy from its real steps alone, and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.errors import UserError
from jaxgen.nn.pooling import POOLINGS, Pooling, attention

T, B, O = 5, 3, 4  # noqa: E741


def hidden_states(seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(T, B, O)), jnp.float32)


def parameters():
    random = np.random.default_rng(7)
    return {
        "attention_kernel": jnp.asarray(random.normal(size=(O, O // 2)), jnp.float32),
        "attention_vector": jnp.asarray(random.normal(size=(O // 2,)), jnp.float32),
    }


def by_numpy(row, bidirectional):
    """All poolings of the real steps [N, O] of one row."""
    if not len(row):
        return np.zeros(4 * O)
    half = O // 2
    ends = np.concatenate([row[-1, :half], row[0, half:]]) if bidirectional else row[-1]
    params = jax.tree.map(np.asarray, parameters())
    scores = np.exp(np.tanh(row @ params["attention_kernel"]) @ params["attention_vector"])
    attended = (scores / scores.sum()) @ row
    return np.concatenate([ends, row.mean(0), row.max(0), attended])


@jax.jit
def pooled(hidden, lengths):
    """In both directions; weighted by the cosine, with its gradient."""
    weights = jnp.cos(jnp.arange(B * 4 * O, dtype=jnp.float32)).reshape(B, 4 * O)

    def total(hidden):
        outputs = Pooling(POOLINGS, bidirectional=True).apply(
            {"params": parameters()}, hidden, lengths
        )
        return (outputs * weights).sum(), outputs

    gradient, outputs = jax.grad(total, has_aux=True)(hidden)
    return outputs, gradient


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, T), min_size=B, max_size=B), st.integers(0, 9))
def test_each_row_is_pooled_as_if_alone(lengths, seed):
    hidden = hidden_states(seed)
    outputs, gradient = pooled(hidden, jnp.asarray(lengths, jnp.int32))
    for row, length in enumerate(lengths):
        expected = by_numpy(np.asarray(hidden[:length, row]), bidirectional=True)
        np.testing.assert_allclose(outputs[row], expected, rtol=1e-5, atol=1e-6)
        assert np.isfinite(gradient).all()
        assert not np.asarray(gradient[length:, row]).any()  # and padding has no say


def test_one_direction_ends_at_the_last_real_step():
    hidden, lengths = hidden_states(0), jnp.asarray([5, 1, 0], jnp.int32)
    outputs = Pooling().apply({}, hidden, lengths)
    expected = np.stack([hidden[4, 0], hidden[0, 1], np.zeros(O)])
    np.testing.assert_array_equal(outputs, expected)


def test_attention_by_hand():
    """Its tanh keeps 0 and turns a large number to 1: scores 0 and log 3, weights 1/4 and 3/4."""
    hidden = jnp.asarray([[[0.0, 8.0]], [[100.0, 4.0]], [[100.0, 77.0]]])
    kernel, vector = jnp.asarray([[1.0], [0.0]]), jnp.log(jnp.asarray([3.0]))
    outputs = attention(hidden, jnp.asarray([2], jnp.int32), kernel, vector)
    np.testing.assert_allclose(outputs, [[75.0, 5.0]], rtol=1e-6)


def test_bfloat16_stays_and_its_largest_is_exact():
    hidden = hidden_states(1).astype(jnp.bfloat16)
    lengths = jnp.asarray([5, 2, 3], jnp.int32)
    outputs = Pooling(("max",)).apply({}, hidden, lengths)
    assert outputs.dtype == jnp.bfloat16
    expected = [np.asarray(hidden[:n, row]).max(0) for row, n in enumerate([5, 2, 3])]
    np.testing.assert_array_equal(outputs, np.stack(expected))


@pytest.mark.parametrize("kinds", [(), ("mean", "first")])
def test_unknown_poolings_are_refused(kinds):
    with pytest.raises(
        UserError, match=r"`pooling` must be one or more of last, .* got '(none|first)'"
    ):
        Pooling(kinds).apply({}, hidden_states(0), jnp.ones((B,), jnp.int32))
