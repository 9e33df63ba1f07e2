"""The cuDNN backend: its packing on any machine, its numbers where there is an NVIDIA GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

from jaxgen.errors import UserError
from jaxgen.nn.lstm import LSTM
from jaxgen.ops.backends import compiling_for
from jaxgen.ops.cell import LSTMWeights
from jaxgen.ops.cudnn import cudnn_lstm, pack


def weights_of(seed, sizes, H):
    keys = jax.random.split(jax.random.key(seed), len(sizes))
    return [
        LSTMWeights(
            jax.random.normal(key, (D, 4 * H)),
            jax.random.normal(jax.random.fold_in(key, 1), (H, 4 * H)),
            jax.random.normal(jax.random.fold_in(key, 2), (4 * H,)),
        )
        for key, D in zip(keys, sizes, strict=True)
    ]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_jax_unpacks_what_we_pack(bidirectional):
    D, H, ways = 3, 5, 2 if bidirectional else 1
    weights = weights_of(0, [D] * ways + [ways * H] * ways, H)
    packed = pack(weights)
    assert packed.shape == (rnn.get_num_params_in_lstm(D, H, 2, bidirectional),)
    unpacked = rnn.unpack_lstm_weights(packed, D, H, 2, bidirectional)
    for index, layer in enumerate(weights):
        expected = (layer.input_kernel.T, layer.recurrent_kernel.T, layer.bias, 0 * layer.bias)
        for ours, theirs in zip(expected, unpacked, strict=True):
            np.testing.assert_array_equal(ours, theirs[index])


def reference(x, h, c, packed, lengths, D, H, layers, dropout, bidirectional, precision):
    """`rnn.lstm` as JAX's own reference computes it, without a GPU."""
    assert not dropout
    assert precision is None
    unpacked = rnn.unpack_lstm_weights(packed, D, H, layers, bidirectional)
    return rnn.lstm_ref(x, h, c, *unpacked, lengths, D, H, layers, 0.0, bidirectional)


def both(settings, run_cudnn, dropout_key=None):
    """Outputs, carries and gradients of a stack with cuDNN and with the scan."""
    inputs = jax.random.normal(jax.random.key(0), (3, 6, 4))
    plain = LSTM(**settings, backend="scan")
    params = jax.jit(plain.init)(jax.random.key(1), inputs)["params"]
    carry = jax.tree.map(lambda x: x + 0.3, plain.initial_carry(3))

    def run(module):
        def scalar(params, inputs, carry):
            options = {} if dropout_key is None else {"rngs": {"dropout": dropout_key}}
            ends, outputs = module.apply(
                {"params": params}, inputs, carry, deterministic=dropout_key is None, **options
            )
            weights = jnp.cos(jnp.arange(outputs.size, dtype=jnp.float32)).reshape(outputs.shape)
            total = (weights * outputs).sum() + sum(e.c.sum() + 2.0 * e.h.sum() for e in ends)
            return total, (ends, outputs)

        return jax.jit(jax.value_and_grad(scalar, (0, 1, 2), has_aux=True))(params, inputs, carry)

    return run_cudnn(lambda: run(plain.clone(backend="cudnn"))), run(plain)


STACKS = {
    "both directions": {"hidden_sizes": (5, 5), "bidirectional": True},
    "a call a layer": {
        "hidden_sizes": (5, 5),
        "residual": True,
        "dropout": 0.5,
        "weight_drop": 0.5,
    },
}


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.slow
def test_a_stack_through_jaxs_reference_equals_the_scan(name, monkeypatch):
    monkeypatch.setattr(rnn, "lstm", reference)
    monkeypatch.setattr(
        rnn.gpu_rnn, "compute_rnn_workspace_reserve_space_sizes", None, raising=False
    )
    key = jax.random.key(2) if "dropout" in STACKS[name] else None

    def run_cudnn(run):
        with compiling_for("cuda"):
            return run()

    ours, theirs = both(STACKS[name], run_cudnn, key)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_rows_of_some_lengths_through_jaxs_reference_equal_the_scan(monkeypatch):
    """Where the steps are real, and in all gradients of them."""
    monkeypatch.setattr(rnn, "lstm", reference)
    monkeypatch.setattr(
        rnn.gpu_rnn, "compute_rnn_workspace_reserve_space_sizes", None, raising=False
    )
    inputs, lengths = jax.random.normal(jax.random.key(0), (3, 6, 4)), jnp.asarray([6, 2, 3])
    plain = LSTM((5, 5), bidirectional=True, backend="scan")
    params = jax.jit(plain.init)(jax.random.key(1), inputs)["params"]
    real = (jnp.arange(6) < lengths[:, None])[..., None]

    def run(module):
        def scalar(params, inputs):
            outputs = module.apply({"params": params}, inputs, lengths=lengths)[1]
            weights = jnp.cos(jnp.arange(outputs.size, dtype=jnp.float32)).reshape(outputs.shape)
            outputs = jnp.where(real, outputs, 0)
            return (weights * outputs).sum(), outputs

        return jax.jit(jax.value_and_grad(scalar, (0, 1), has_aux=True))(params, inputs)

    with compiling_for("cuda"):
        ours = run(plain.clone(backend="cudnn"))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(run(plain)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", STACKS)
def test_a_stack_on_the_gpu_equals_the_scan(name):
    key = jax.random.key(2) if "dropout" in STACKS[name] else None
    with jax.default_matmul_precision("highest"):
        ours, theirs = both(STACKS[name], lambda run: run(), key)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="cuDNN is there")
def test_without_the_plugin_it_says_so():
    weights = weights_of(0, [3], 5)
    carry = LSTM((5,)).initial_carry(2)
    with pytest.raises(UserError, match="CUDA plugin"):
        cudnn_lstm(jnp.zeros((4, 2, 3)), weights, carry)
