"""Attention against NumPy row by row, PyTorch and hand-worked numbers; the bridge beside it."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import UserError
from jaxgen.nn.attention import Attention, Memory, attend, attention_weights
from jaxgen.nn.bridge import Bridge
from jaxgen.ops.lstm import LSTMCarry

S, T, B, O, H, A = 5, 3, 4, 6, 4, 7  # noqa: E741
LENGTHS = jnp.asarray([5, 1, 3, 0], jnp.int32)
SCORES = [
    *("additive", "scaled"),
    *(pytest.param(score, marks=pytest.mark.slow) for score in ("dot", "general")),
]


def numbers(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@cache
def attended(score):
    """Parameters, inputs, and what they make: memory, weights, attentional vectors."""
    size = H if score == "dot" else O
    module = Attention(score, size, H, A)
    outputs, hidden = numbers(0, S, B, size), numbers(1, B, T, H)

    def run(module):
        memory = module.memory(outputs, LENGTHS)
        return memory, module.weights(hidden, memory), module(hidden, memory)

    @jax.jit
    def found():
        variables = module.init(jax.random.key(0), method=run)
        params = jax.tree.map(lambda p: 2 * p, variables["params"])
        return params, outputs, hidden, *module.apply({"params": params}, method=run)

    return jax.tree.map(np.asarray, found())


def score_by_hand(score, params, h, e):
    if score == "dot":
        return h @ e
    if score == "additive":
        return params["vector"] @ np.tanh(h @ params["query_kernel"] + e @ params["key_kernel"])
    return h @ (e @ params["key_kernel"]) / (np.sqrt(H) if score == "scaled" else 1)


@pytest.mark.parametrize("score", SCORES)
def test_each_step_of_each_row_by_hand(score):
    params, outputs, hidden, _, weights, vectors = attended(score)
    joined_kernel = np.concatenate([params["value_kernel"], params["hidden_kernel"]])
    for row, length in enumerate(LENGTHS):
        for t in range(T):
            h, real = hidden[row, t], outputs[:length, row]
            scores = np.exp([score_by_hand(score, params, h, e) for e in real])
            expected = scores / scores.sum() if length else scores
            np.testing.assert_allclose(weights[row, t, :length], expected, rtol=1e-4, atol=1e-6)
            context = expected @ real if length else np.zeros(outputs.shape[-1])
            vector = np.tanh(np.concatenate([context, h]) @ joined_kernel)
            np.testing.assert_allclose(vectors[row, t], vector, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("score", SCORES)
def test_weights_are_shares_of_the_real_places(score):
    weights = attended(score)[4]
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(weights[row].sum(-1), float(length > 0), rtol=1e-6)
        assert not weights[row, :, length:].any()
        assert (weights[row, :, :length] > 0).all()


@pytest.mark.parametrize("score", SCORES)
def test_padding_has_no_say_and_no_gradient(score):
    params, _, hidden, memory, _, vectors = attended(score)
    real = np.arange(S) < np.asarray(LENGTHS)[:, None]
    filled = [np.where(real[..., None], x, np.float32(9)) for x in memory[:2]]

    @partial(jax.grad, has_aux=True)
    def total(kept, params, hidden):
        vectors = attend(score, params, hidden, Memory(*kept, LENGTHS))
        return (vectors * jnp.cos(jnp.arange(A, dtype=jnp.float32))).sum(), vectors

    gradient, ours = jax.jit(total)(filled, params, hidden)
    np.testing.assert_allclose(ours, vectors, rtol=1e-5, atol=1e-6)
    for leaf in gradient:
        assert np.isfinite(leaf).all()
        assert not np.asarray(leaf)[~real].any()


@pytest.mark.peers("torch")
def test_scaled_attention_equals_pytorch():
    import torch

    params, outputs, hidden, *_ = attended("scaled")
    rows = torch.from_numpy(outputs[:, :3].swapaxes(0, 1).copy())
    keys, values = (
        rows @ torch.from_numpy(params[x].copy()) for x in ("key_kernel", "value_kernel")
    )
    real = torch.arange(S) < torch.from_numpy(np.array(LENGTHS[:3]))[:, None]
    context = torch.nn.functional.scaled_dot_product_attention(
        torch.from_numpy(hidden[:3].copy()), keys, values, attn_mask=real[:, None]
    )
    expected = np.tanh(context.numpy() + hidden[:3] @ params["hidden_kernel"])
    np.testing.assert_allclose(attended("scaled")[5][:3], expected, rtol=1e-4, atol=1e-5)


def test_weights_of_hand_worked_numbers():
    """Scores log 1, log 3, and one beyond the length."""
    keys = jnp.log(jnp.asarray([[[1.0, 1.0], [3.0, 1.0], [99.0, 1.0]]]))
    memory = Memory(keys, keys, jnp.asarray([2], jnp.int32))
    weights = attention_weights("dot", {}, jnp.asarray([[[1.0, 0.0]]]), memory)
    np.testing.assert_allclose(weights, [[[0.25, 0.75, 0.0]]], rtol=1e-6)


def test_bfloat16_is_scored_in_float32():
    params, _, hidden, memory, weights, vectors = attended("additive")

    @jax.jit
    def low(params, hidden, keys, values):
        kept = Memory(keys.astype(jnp.bfloat16), values.astype(jnp.bfloat16), LENGTHS)
        arguments = ("additive", params, hidden.astype(jnp.bfloat16), kept)
        return attention_weights(*arguments), attend(*arguments)

    shares, ours = low(params, hidden, *memory[:2])
    assert (shares.dtype, ours.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(shares, weights, atol=0.02)
    np.testing.assert_allclose(ours.astype(jnp.float32), vectors, atol=0.05)


def test_dot_refuses_vectors_of_two_sizes():
    with pytest.raises(UserError, match=r"encoder gives 6 numbers .* decoder has 4; set `encoder_"):
        Attention("dot", O, H, A).init(jax.random.key(0), numbers(0, B, T, H), None)


def carries(seed, size):
    return LSTMCarry(numbers(seed, B, size), numbers(seed + 1, B, size))


def test_a_bridge_copies_what_fits():
    ends = (carries(0, 3), carries(2, 5))
    starts, variables = jax.jit(Bridge((3, 5)).init_with_output)(jax.random.key(0), ends)
    jax.tree.map(np.testing.assert_array_equal, starts, ends)
    assert not variables


def test_a_bridge_projects_directions_and_other_sizes():
    """Of both directions together; and of one, where the sizes differ."""
    both = (carries(0, 3), carries(2, 3))
    bridge = Bridge((3,), bidirectional=True)
    (start,), variables = jax.jit(bridge.init_with_output)(jax.random.key(0), both)
    for part in ("c", "h"):
        joined = np.concatenate([getattr(end, part) for end in both], axis=-1)
        expected = np.tanh(joined @ variables["params"][f"layer_0_{part}_kernel"])
        np.testing.assert_allclose(getattr(start, part), expected, rtol=1e-5, atol=1e-6)
    one = (carries(0, 3),)
    params = {
        **{f"layer_0_{part}_kernel": numbers(5, 3, 2) for part in ("c", "h")},
        "layer_0_c_bias": numbers(6, 2),
        "layer_0_h_bias": numbers(7, 2),
    }
    (start,) = jax.jit(Bridge((2,)).apply)({"params": params}, one)
    expected = np.tanh(one[0].c @ params["layer_0_c_kernel"] + params["layer_0_c_bias"])
    np.testing.assert_allclose(start.c, expected, rtol=1e-5, atol=1e-6)
    expected = np.tanh(one[0].h @ params["layer_0_h_kernel"] + params["layer_0_h_bias"])
    np.testing.assert_allclose(start.h, expected, rtol=1e-5, atol=1e-6)
