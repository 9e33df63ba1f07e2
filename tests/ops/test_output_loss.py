"""The loss of an output layer in blocks of rows against its definition in NumPy's float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxgen.ops import output_loss as module
from jaxgen.ops.output_loss import loss_of_logits, output_logits, output_loss


def case(rows: int = 11, size: int = 3, vocab: int = 13, seed: int = 0) -> tuple[jax.Array, ...]:
    r = np.random.default_rng(seed)
    arrays = (r.normal(size=(rows, size)), r.normal(size=(size, vocab)), r.normal(size=vocab))
    weights = r.uniform(size=rows) * (r.uniform(size=rows) > 0.3)
    targets = jnp.asarray(r.integers(0, vocab, rows), jnp.int32)
    return *(jnp.asarray(x, jnp.float32) for x in (*arrays,)), targets, jnp.float32(weights)


def reference(hidden, kernel, bias, targets, weights, smoothing=0.0):
    """Total, gradients of hidden, kernel and bias, nll and hits, all in float64."""
    hidden, kernel, bias, weights = (np.asarray(x, float) for x in (hidden, kernel, bias, weights))
    logits = hidden @ kernel + bias
    log_p = logits - scipy.special.logsumexp(logits, axis=1, keepdims=True)
    wanted = np.full_like(logits, smoothing / len(bias))
    wanted[np.arange(len(targets)), targets] += 1 - smoothing
    total = -(weights[:, None] * wanted * log_p).sum()
    d_logits = weights[:, None] * (np.exp(log_p) - wanted)
    gradients = d_logits @ kernel.T, hidden.T @ d_logits, d_logits.sum(0)
    nll = -log_p[np.arange(len(targets)), targets]
    return total, gradients, nll, logits.argmax(1) == targets


def with_gradients(targets, weights, **options):
    def total(*parameters):
        loss = output_loss(*parameters, targets, weights, **options)
        return loss.total, loss

    return jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("block_rows", [1, 4, 11, 100])
def test_blocks_of_rows(block_rows, smoothing):
    """Blocks that divide the rows and that do not, and all of them at once; some weights are 0."""
    *parameters, targets, weights = case()
    run = jax.jit(
        with_gradients(targets, weights, label_smoothing=smoothing, block_rows=block_rows)
    )
    (total, loss), gradients = run(*parameters)
    expected = reference(*parameters, targets, weights, smoothing)
    np.testing.assert_allclose(total, expected[0], rtol=1e-5)
    for ours, theirs in zip(gradients, expected[1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss.nll, expected[2], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(loss.hits, expected[3])
    alone = output_loss(
        *parameters, targets, weights, label_smoothing=smoothing, block_rows=block_rows
    )
    np.testing.assert_allclose(alone.total, expected[0], rtol=1e-5)
    np.testing.assert_array_equal(alone.nll, loss.nll)


@pytest.mark.parametrize("block_rows", [4, 11])
def test_logits_of_any_function(block_rows):
    *parameters, targets, weights = case()

    def total(hidden, kernel, bias):
        logits_of = lambda rows: output_logits(rows, kernel, bias)  # noqa: E731
        options = {"label_smoothing": 0.1, "block_rows": block_rows}
        loss = loss_of_logits(logits_of, hidden, targets, weights, **options)
        return 3 * loss.total + loss.nll.sum(), loss

    grad = jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))
    gradients, loss = grad(*parameters)
    expected = reference(*parameters, targets, weights, 0.1)
    np.testing.assert_allclose(loss.total, expected[0], rtol=1e-5)
    for ours, theirs in zip(gradients, expected[1], strict=True):
        np.testing.assert_allclose(ours, 3 * theirs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss.nll, expected[2], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(loss.hits, expected[3])


def test_the_gradient_of_what_is_made_of_the_total():
    """Training divides by the weights; the nll beside it has no gradient."""
    *parameters, targets, weights = case()

    def mean(*parameters):
        loss = output_loss(*parameters, targets, weights, block_rows=4)
        return 3 * loss.total / weights.sum() + loss.nll.sum()

    gradients = jax.grad(mean, argnums=(0, 1, 2))(*parameters)
    expected = reference(*parameters, targets, weights)[1]
    for ours, theirs in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, 3 * theirs / weights.sum(), rtol=1e-4, atol=1e-5)


def test_a_row_of_weight_zero_may_hold_anything():
    *parameters, targets, weights = case()
    assert (weights == 0).any()
    broken = jnp.where(weights[:, None] == 0, jnp.float32(1e38), parameters[0])
    expected = output_loss(*parameters, targets, weights, block_rows=4).total
    total = output_loss(broken, *parameters[1:], targets, weights, block_rows=4).total
    np.testing.assert_array_equal(total, expected)


def test_blocks_over_seeds():
    """`vmap` over the parameters of several runs."""
    cases = [case(seed=seed) for seed in range(3)]
    stacked = [jnp.stack(parts) for parts in zip(*cases, strict=True)]

    def run(*arguments):
        *parameters, targets, weights = arguments
        return with_gradients(targets, weights, block_rows=4)(*parameters)

    (total, _), gradients = jax.jit(jax.vmap(run))(*stacked)
    for seed, one in enumerate(cases):
        expected = reference(*one)
        np.testing.assert_allclose(total[seed], expected[0], rtol=1e-5)
        for ours, theirs in zip(gradients, expected[1], strict=True):
            np.testing.assert_allclose(ours[seed], theirs, rtol=1e-4, atol=1e-5)


def test_blocks_over_devices():
    """`shard_map` over the rows; gradients of what all devices hold are summed."""
    *parameters, targets, weights = case(rows=12)

    def run(hidden, kernel, bias, targets, weights):
        (total, _), gradients = with_gradients(targets, weights, block_rows=4)(hidden, kernel, bias)
        return jax.lax.psum(total, "data"), gradients[0], jax.lax.psum(gradients[1:], "data")

    rows, whole = P("data"), P()
    divided = jax.shard_map(
        run,
        mesh=Mesh(jax.devices()[:2], ("data",)),
        in_specs=(rows, whole, whole, rows, rows),
        out_specs=(whole, rows, whole),
        check_vma=False,
    )
    total, d_hidden, rest = jax.jit(divided)(*parameters, targets, weights)
    expected = reference(*parameters, targets, weights)
    np.testing.assert_allclose(total, expected[0], rtol=1e-5)
    for ours, theirs in zip((d_hidden, *rest), expected[1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_blocks_in_bfloat16():
    """Matmuls in bfloat16, sums and losses in float32; as near to float64 as all rows at once."""
    hidden, *parameters, targets, weights = case(rows=64)
    narrow = hidden.astype(jnp.bfloat16)
    (total, loss), gradients = with_gradients(targets, weights, block_rows=8)(narrow, *parameters)
    assert [x.dtype for x in (total, loss.nll, *gradients)] == [
        *(jnp.float32, jnp.float32, jnp.bfloat16, jnp.float32, jnp.float32)
    ]
    rounded = np.asarray(parameters[0].astype(jnp.bfloat16), np.float32)
    expected = reference(np.asarray(narrow, np.float32), rounded, parameters[1], targets, weights)
    np.testing.assert_allclose(total, expected[0], rtol=1e-5)
    for ours, theirs in zip(gradients, expected[1], strict=True):
        ours = np.asarray(ours, np.float64)
        np.testing.assert_allclose(ours, theirs, rtol=2**-6, atol=2**-7)


def test_blocks_of_a_large_vocabulary_hold_few_logits(monkeypatch):
    """By itself, and counted by the compiler: less than a third of what all logits take."""
    monkeypatch.setattr(module, "BLOCK_LOGITS", 8 * 9000)
    *parameters, targets, weights = case(rows=64, vocab=9000)
    run = jax.jit(with_gradients(targets, weights)).lower(*parameters).compile()
    held = run.memory_analysis()
    if held is not None:
        assert held.temp_size_in_bytes < 64 * 9000 * 4 / 3
    (total, _), gradients = run(*parameters)
    expected = reference(*parameters, targets, weights)
    np.testing.assert_allclose(total, expected[0], rtol=1e-5)
    for ours, theirs in zip(gradients, expected[1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
