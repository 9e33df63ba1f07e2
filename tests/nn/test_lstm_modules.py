"""LSTM modules: folding, stacks, directions, dropout, and Flax's own cell as the reference."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxgen.nn import LSTM, LSTMCarry, LSTMCell
from jaxgen.nn.dropout import drop
from jaxgen.nn.initializers import drawn_as_keras
from jaxgen.nn.inputs import TokenInputs, project
from jaxgen.nn.lstm import LSTMLayer
from jaxgen.ops.lstm import zero_carry

B, T, D, H = 3, 5, 4, 6


def inputs(seed=0, shape=(B, T, D)):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def init(module, *arguments):
    """The module's variables, by one program instead of one an operation."""
    return jax.jit(module.init)(jax.random.key(0), *arguments)


def flax_parameters(layer):
    """Our fused matrices as the per-gate parameters of Flax's cell."""
    names = {}
    for position, gate in enumerate("ifgo"):
        columns = slice(position * H, (position + 1) * H)
        names[f"i{gate}"] = {"kernel": layer["input_kernel"][:, columns]}
        names[f"h{gate}"] = {
            "kernel": layer["recurrent_kernel"][:, columns],
            "bias": layer["bias"][columns],
        }
    return names


def test_a_layer_equals_flax():
    x = inputs()
    module = LSTM((H,))
    params = init(module, x)["params"]
    (carry,), outputs = jax.jit(module.apply)({"params": params}, x)
    reference = nn.RNN(nn.OptimizedLSTMCell(H), return_carry=True)
    theirs = {"cell": flax_parameters(params["layer_0"])}
    (c, _), expected = jax.jit(reference.apply)({"params": theirs}, x)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(carry.c, c, rtol=1e-5, atol=1e-6)


def test_the_input_projection_equals_its_definition():
    """Values and gradients, to the order of the sums: it flattens the axes before its features."""
    x = inputs()
    kernel, bias, weights = inputs(1, (D, 4 * H)), inputs(2, (4 * H,)), inputs(3, (B, T, 4 * H))

    def plain(x, kernel, bias):
        return jnp.einsum("btd,dg->btg", x, kernel) + bias

    def total(run, *arguments):
        return (run(*arguments) * weights).sum()

    def ours(x, kernel, bias):
        return project(x, kernel, bias, jnp.float32)

    grads = jax.grad(partial(total, ours), (0, 1, 2))(x, kernel, bias)
    expected = jax.grad(partial(total, plain), (0, 1, 2))(x, kernel, bias)
    np.testing.assert_allclose(ours(x, kernel, bias), plain(x, kernel, bias), rtol=1e-5, atol=1e-6)
    for a, b in zip(grads, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["lstm", "layernorm_lstm"])
def test_a_cell_is_one_step_of_a_layer(kind):
    """In a loop, under Flax's `nn.RNN` with lengths, and with its own parameters for a layer."""
    x, lengths = inputs(), jnp.asarray([5, 2, 3])
    cell, module = LSTMCell(H, kind), LSTM((H,), cell=kind)
    rnn = nn.RNN(cell, return_carry=True)
    params = init(rnn, x)["params"]["cell"]
    whole = jax.tree.structure(jax.eval_shape(module.init, jax.random.key(0), x)["params"])
    assert jax.tree.structure({"layer_0": params}) == whole
    mask = jnp.arange(T) < lengths[:, None]
    (end,), expected = jax.jit(module.apply)({"params": {"layer_0": params}}, x, mask=mask)
    step = jax.jit(lambda carry, now: cell.apply({"params": params}, carry, now))
    carry = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
    for t in range(T):
        carry, hidden = step(carry, x[:, t])
        outputs = jnp.where(mask[:, t, None], hidden, 0)
        np.testing.assert_allclose(outputs, expected[:, t], rtol=1e-5, atol=1e-6)
    carry, outputs = jax.jit(rnn.apply)({"params": {"cell": params}}, x, seq_lengths=lengths)
    np.testing.assert_allclose(jnp.where(mask[..., None], outputs, 0), expected, atol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), carry, end)


@pytest.mark.parametrize("shape", [(), (2,), (2, 1)], ids=str)
def test_a_cell_takes_any_leading_axes(shape):
    """As Flax's own cells do: no batch, one axis of it, or more."""
    x = inputs(shape=(2, D))
    cell = LSTMCell(H, dtype=jnp.bfloat16)
    params = init(cell, zero_carry(2, H, jnp.bfloat16), x)
    carry = cell.initialize_carry(jax.random.key(0), (*shape, D))
    assert [leaf.shape for leaf in carry] == [(*shape, H)] * 2
    assert (carry.c.dtype, carry.h.dtype) == (jnp.float32, jnp.bfloat16)
    rows = x if shape else x[:1]
    _, expected = cell.apply(params, zero_carry(len(rows), H, jnp.bfloat16), rows)
    end, hidden = cell.apply(params, carry, rows.reshape(*shape, D))
    np.testing.assert_array_equal(hidden, expected.reshape(*shape, H))
    assert end.h.shape == end.c.shape == (*shape, H)


def test_a_fresh_cell_remembers():
    params = init(LSTM((H,)), inputs())["params"]["layer_0"]
    expected = np.zeros(4 * H)
    expected[H : 2 * H] = 1.0
    np.testing.assert_array_equal(params["bias"], expected)
    gate = params["recurrent_kernel"][:, :H]
    np.testing.assert_allclose(gate @ gate.T, np.eye(H), atol=1e-5)  # orthogonal, gate by gate
    for name in ("input_kernel", "recurrent_kernel"):
        assert len(np.unique(params[name])) == params[name].size  # each gate has its own draw


def test_kernels_drawn_as_keras_does():
    """Glorot, Orthogonal and RandomUniform(0.05) of Keras on whole matrices [D, 4H] and [H, 4H]."""
    given = init(LSTM((H,)), inputs())["params"] | {"embedding": jnp.ones((50, D))}
    params = drawn_as_keras(given, jax.random.key(1))
    layer = params["layer_0"]
    for matrix, limit in [
        (layer["input_kernel"], np.sqrt(6 / (D + 4 * H))),
        (params["embedding"], 0.05),
    ]:
        assert 0.8 * limit < np.abs(matrix).max() <= limit
    kernel = layer["recurrent_kernel"]
    np.testing.assert_allclose(kernel @ kernel.T, np.eye(H), atol=1e-5)
    np.testing.assert_array_equal(layer["bias"], given["layer_0"]["bias"])


@pytest.mark.parametrize("vocab_size", [4, 40], ids=["folded", "gathered"])
def test_folding_the_embedding_changes_nothing(vocab_size):
    r = np.random.default_rng(0)
    tokens = jnp.asarray(r.integers(0, vocab_size, (T, B)), jnp.int32)
    table = jnp.asarray(r.normal(size=(vocab_size, D)), jnp.float32)
    layer = LSTMLayer(H)
    params = init(layer, table[tokens], zero_carry(B, H))

    def total(table, params, fold):
        x = TokenInputs(tokens, table, vocab_size) if fold else table[tokens]
        outputs = layer.apply(params, x, zero_carry(B, H))[1]
        return (
            outputs * jnp.cos(jnp.arange(outputs.size, dtype=jnp.float32)).reshape(T, B, H)
        ).sum()

    run = jax.jit(jax.value_and_grad(total, (0, 1)), static_argnums=2)
    ours, plain = run(table, params, True), run(table, params, False)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("vocab_size", [4, 40], ids=["folded", "gathered"])
def test_tokens_read_in_both_directions_equal_their_vectors(vocab_size):
    r = np.random.default_rng(1)
    tokens = jnp.asarray(r.integers(0, vocab_size, (T, B)), jnp.int32)
    table = jnp.asarray(r.normal(size=(vocab_size, D)), jnp.float32)
    module = LSTM((H,), bidirectional=True, time_major=True)
    params = init(module, table[tokens])

    def total(table, lookup):
        x = TokenInputs(tokens, table, vocab_size) if lookup else table[tokens]
        outputs = module.apply(params, x)[1]
        return (outputs * jnp.cos(jnp.arange(2.0 * H))).sum()

    run = jax.jit(jax.value_and_grad(total), static_argnums=1)
    ours, plain = run(table, True), run(table, False)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_one_hot_tokens_equal_one_hot_vectors():
    tokens = jnp.asarray([[0, 2, 1], [3, 3, 0]], jnp.int32)
    layer = LSTMLayer(H)
    one_hot = jax.nn.one_hot(tokens, 4)
    params = init(layer, one_hot, zero_carry(3, H))
    expected = layer.apply(params, one_hot, zero_carry(3, H))[1]
    ours = layer.apply(params, TokenInputs(tokens, None, 4), zero_carry(3, H))[1]
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", ["lstm", pytest.param("layernorm_lstm", marks=pytest.mark.slow)])
def test_padding_in_both_directions_equals_each_row_alone(cell):
    x, lengths = inputs(), jnp.asarray([5, 2, 2])
    mask = jnp.arange(T) < lengths[:, None]
    module = LSTM((H, H), bidirectional=True, residual=True, cell=cell)
    variables = init(module, x)
    apply = jax.jit(module.apply)
    carry, outputs = apply(variables, x, mask=mask)
    for row, length in enumerate(lengths.tolist()):
        alone_carry, alone = apply(variables, x[row : row + 1, :length])
        np.testing.assert_allclose(outputs[row, :length], alone[0], rtol=1e-5, atol=1e-6)
        for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(alone_carry), strict=True):
            np.testing.assert_allclose(a[row], b[0], rtol=1e-5, atol=1e-6)
    by_lengths = jax.jit(partial(module.apply, keep_ends=True))(variables, x, lengths=lengths)
    jax.tree.map(np.testing.assert_array_equal, by_lengths, (carry, outputs))


@pytest.mark.parametrize("kind", ["lstm", pytest.param("layernorm_lstm", marks=pytest.mark.slow)])
def test_a_reset_splits_a_row_in_two_documents_in_both_directions(kind):
    """A document begins at the first step too: that ends nothing for the walk from the end."""
    x = inputs()
    module = LSTM((H,), bidirectional=True, cell=kind)
    variables = init(module, x)
    apply, fresh = jax.jit(module.apply), module.initial_carry(B)
    carry = tuple(LSTMCarry(*inputs(seed, (2, B, H))) for seed in (1, 2))
    resets = jnp.zeros((B, T), bool).at[:, jnp.asarray([0, 2])].set(True)
    ends, outputs = apply(variables, x, carry, resets=resets)
    first_ends, first = apply(variables, x[:, :2], fresh)
    # The backward walk enters with the carry at the last step, and only there.
    second_ends, second = apply(variables, x[:, 2:], (fresh[0], carry[1]))
    expected = jnp.concatenate([first, second], axis=1)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    for mine, theirs in zip(ends, (second_ends[0], first_ends[1]), strict=True):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), mine, theirs)


def layer_norm_by_hand(v):
    return (v - v.mean()) / np.sqrt(v.var() + 1e-5)


def test_layer_normalised_step_by_hand():
    x = inputs(shape=(1, 1, D))
    module = LSTM((H,), cell="layernorm_lstm")
    params = init(module, x)["params"]["layer_0"]
    params = {**params, "cell_bias": params["cell_bias"] + 0.25}
    (carry,), outputs = module.apply({"params": {"layer_0": params}}, x)
    a = layer_norm_by_hand(np.asarray(x[0, 0] @ params["input_kernel"])) + params["bias"]
    i, _, g, o = np.split(np.asarray(a), 4)
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    c = sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(layer_norm_by_hand(c) + 0.25)
    np.testing.assert_allclose(carry.c[0], c, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs[0, 0], h, rtol=1e-5, atol=1e-6)


def test_dropout_masks_share_the_axes_they_should():
    x = jnp.ones((7, 50, 40))
    key = jax.random.key(0)
    sequence = drop(x, key, 0.5, axes=(0,))
    assert (sequence == sequence[0]).all()
    words = drop(x[0], key, 0.5, axes=(1,))
    assert set(np.unique(words.sum(1))) == {0.0, 80.0}
    units = drop(x, key, 0.25)
    # 14,000 draws: a sound mask strays more than 0.02 from 0.75 less than once in 10**7 runs.
    assert abs((units > 0).mean() - 0.75) < 0.02
    np.testing.assert_allclose(units[units > 0], 1 / 0.75, rtol=1e-6)


def test_weight_drop_and_layer_dropout_only_in_training():
    x = inputs()
    module = LSTM((H, H), dropout=0.5, weight_drop=0.5)
    variables = init(module, x)
    _, still = module.apply(variables, x)
    _, again = module.apply(variables, x)
    np.testing.assert_array_equal(still, again)
    _, dropped = module.apply(
        variables, x, deterministic=False, rngs={"dropout": jax.random.key(1)}
    )
    assert not np.allclose(still, dropped)
