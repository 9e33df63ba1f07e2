"""Sampled softmax against hand-worked numbers, brute force, and the softmax that it stands for."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.ops.output_loss import output_loss
from jaxgen.ops.sampled_loss import Candidates, log_uniform_loss, sampled_loss


def candidates_of(vocab: int, count: int) -> Candidates:
    """Token k has rank k."""
    return Candidates.by_frequency(np.arange(vocab)[::-1], count)


def test_log_uniform_of_hand_worked_numbers():
    """One of 3 ranks: log 2, log 3/2 and log 4/3 over log 4, which add up to 1."""
    found = candidates_of(3, 1)
    assert found.sure == 0
    np.testing.assert_allclose(
        jnp.exp(found.log_expected(jnp.arange(3))), [0.5, 0.29248125, 0.20751875], rtol=1e-6
    )


def test_frequent_ranks_are_sure():
    """Two of 3: rank 0 for certain (twice 1/2), and log 3/2 and log 4/3 over log 2 of the rest."""
    found = candidates_of(3, 2)
    assert found.sure == 1
    np.testing.assert_allclose(
        jnp.exp(found.log_expected(jnp.arange(3))), [1, 0.5849625, 0.4150375], rtol=1e-6
    )


@pytest.mark.parametrize(("vocab", "count"), [(20, 8), (33_278, 1024), (1_000_003, 8192)])
def test_what_is_drawn_is_different_and_as_likely_as_said(vocab, count):
    """Counts of 200 draws; 6 deviations of a sum of events, for 2e-9 false alarms a part."""
    found = candidates_of(vocab, count)
    probabilities = np.exp(np.asarray(found.log_expected(jnp.arange(vocab)), np.float64))
    np.testing.assert_allclose(probabilities.sum(), count, rtol=1e-4)
    keys = jax.random.split(jax.random.key(0), 200)
    drawn = np.sort(np.asarray(jax.jit(jax.vmap(found.draw))(keys)))
    assert drawn.shape == (200, count)
    assert drawn.min() == 0
    assert drawn.max() < vocab
    assert (np.diff(drawn) > 0).all()
    counts = np.bincount(drawn.reshape(-1), minlength=vocab)
    deviations = np.sqrt(200 * probabilities * (1 - np.minimum(probabilities, 1)))
    few = slice(0, 100)  # beyond, ranks are too rare for a normal deviation
    assert (np.abs(counts - 200 * probabilities) <= 6 * deviations + 1e-6)[few].all()


def test_candidates_by_frequency():
    candidates = Candidates.by_frequency(np.array([3, 7, 3, 9]), 2)
    np.testing.assert_array_equal(candidates.tokens, [3, 1, 0, 2])
    np.testing.assert_array_equal(candidates.ranks, [2, 1, 3, 0])


def test_sampled_loss_of_hand_worked_numbers():
    """One row that reads 1; logits log 6, log 4, log 1 and log 8 of tokens 0 to 3; target 0.

    Drawn: token 1, expected 2 times, and tokens 3 and 0, expected half a time; the target itself 3
    times. Corrected: 6 / 3 against 4 / 2 and 8 / (1/2), and the drawn 0 is the target: 2 / 20.
    """
    kernel = jnp.log(jnp.asarray([[6.0, 4.0, 1.0, 8.0]]))
    total = jax.jit(sampled_loss)(
        jnp.ones((1, 1)),
        kernel,
        jnp.zeros(4),
        jnp.asarray([0]),
        jnp.asarray([5.0]),
        jnp.asarray([1, 3, 0]),
        (jnp.log(jnp.asarray([3.0])), jnp.log(jnp.asarray([2.0, 0.5, 0.5]))),
    )
    np.testing.assert_allclose(total, 5 * np.log(10), rtol=1e-6)


def inputs(rows: int = 6, size: int = 4, vocab: int = 12) -> tuple:
    r = np.random.default_rng(0)
    arrays = r.normal(size=(rows, size)), r.normal(size=(size, vocab)), r.normal(size=vocab)
    targets = jnp.asarray(r.integers(0, vocab, rows), jnp.int32)
    weights = jnp.asarray([1, 1, 0, 1, 1, 0.5], jnp.float32)
    return *(jnp.asarray(x, jnp.float32) for x in arrays), targets, weights


def test_sampled_loss_and_its_gradients_by_brute_force():
    """Row by row, token by token, with autodiff of plain indexing."""
    *parameters, targets, weights = inputs()
    tokens = [int(target) for target in targets]
    drawn = [5, 5, 0, tokens[0], 11]
    r = np.random.default_rng(1)
    expected = r.uniform(0.1, 2, 6), r.uniform(0.1, 2, 5)
    log_expected = tuple(jnp.log(jnp.asarray(x, jnp.float32)) for x in expected)

    def by_hand(hidden, kernel, bias):
        total = jnp.float32(0)
        for row in range(6):
            token = tokens[row]
            scores = hidden[row] @ kernel + bias
            own = jnp.exp(scores[token]) / expected[0][row].astype(np.float32)
            others = [
                jnp.exp(scores[d]) / e.astype(np.float32)
                for d, e in zip(drawn, expected[1], strict=True)
                if d != token
            ]
            total -= weights[row] * jnp.log(own / (own + sum(others[1:], others[0])))
        return total

    def ours(*parameters):
        return sampled_loss(*parameters, targets, weights, jnp.asarray(drawn), log_expected)

    value, gradients = jax.jit(jax.value_and_grad(ours, argnums=(0, 1, 2)))(*parameters)
    wanted, theirs = jax.jit(jax.value_and_grad(by_hand, argnums=(0, 1, 2)))(*parameters)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    for one, other in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.peers("tensorflow")
def test_sampled_loss_is_that_of_tensorflow():
    import tensorflow as tf

    hidden, kernel, bias, targets, _ = inputs()
    drawn = np.array([5, 2, 0, 11])
    candidates = candidates_of(12, 4)
    log_expected = tuple(map(candidates.log_expected, (targets, jnp.asarray(drawn))))
    expected = [np.exp(np.asarray(x)) for x in log_expected]
    theirs = tf.nn.sampled_softmax_loss(
        np.asarray(kernel).T,
        np.asarray(bias),
        np.asarray(targets)[:, None].astype(np.int64),
        np.asarray(hidden),
        num_sampled=4,
        num_classes=12,
        sampled_values=(drawn, expected[0][:, None], expected[1]),
    )
    for row in range(6):
        weights = jnp.zeros(6).at[row].set(1)
        total = sampled_loss(
            hidden, kernel, bias, targets, weights, jnp.asarray(drawn), log_expected
        )
        np.testing.assert_allclose(total, theirs[row], rtol=1e-5)


def test_all_tokens_drawn_are_the_full_softmax():
    """And one token fewer comes near it, in the mean; tokens in the order of no frequency."""
    *parameters, targets, weights = inputs()
    counts = np.random.default_rng(2).permutation(12)

    def mean(count, *parameters):
        candidates = Candidates.by_frequency(counts, count)
        keys = jax.random.split(jax.random.key(0), 256)
        return jax.vmap(
            lambda key: log_uniform_loss(key, candidates, *parameters, targets, weights)
        )(keys).mean()

    def full(*parameters):
        return output_loss(*parameters, targets, weights).total

    theirs = jax.value_and_grad(full, argnums=(0, 1, 2))(*parameters)
    for count, tolerance in ((12, 1e-5), (11, 0.1)):
        run = jax.jit(jax.value_and_grad(partial(mean, count), argnums=(0, 1, 2)))
        ours = run(*parameters)
        np.testing.assert_allclose(ours[0], theirs[0], rtol=tolerance)
        for one, other in zip(ours[1], theirs[1], strict=True):
            np.testing.assert_allclose(one, other, atol=tolerance)
