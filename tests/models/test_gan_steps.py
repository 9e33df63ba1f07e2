"""The losses of a text GAN's phases against what they are made of, by hand."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_gan import (
    START,
    batch_of,
    logits_of,
    made_gan,
    nll_of,
    sample_of,
    scores_of,
    texts_of,
)

from jaxgen.models.gan_estimators import straight_through
from jaxgen.models.gan_losses import discriminator_loss, generator_loss
from jaxgen.models.gan_steps import (
    dense_loss,
    discriminator_step_loss,
    distinct_bigrams,
    gumbel_loss,
    mle_loss,
    next_extra,
    rollout_loss,
)
from jaxgen.models.text_gan import next_logits, real_texts
from jaxgen.types import Sum

V, T, ROWS = 5, 4, 6
EXTRA, STEP, KEY = {"baseline": jnp.float32(0.3)}, jnp.int32(3), jax.random.key(9)


def softmax(x: Any) -> np.ndarray:
    return np.asarray(jax.nn.softmax(x), np.float64)


def test_the_discriminator_compares_real_texts_with_samples() -> None:
    gan, params = made_gan(V, T, labels=2, end_id=1)
    batch = batch_of(V, ROWS, T, labels=2, ragged=True)
    loss_fn = jax.jit(partial(discriminator_step_loss, gan, loss="hinge"))
    value, aux = loss_fn(params, EXTRA, batch, KEY, STEP)
    real = real_texts(batch)
    fake, _ = sample_of(gan, params, real, jax.random.split(KEY, 3)[0])
    scores = [scores_of(gan, params, texts) for texts in (real, fake)]
    (a, real_weights), (b, fake_weights) = scores
    expected = discriminator_loss("hinge", a, b, real_weights, fake_weights)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert aux.weight == batch.weights.sum() == ROWS - 1
    right = (np.asarray(a) > 0)[real_weights > 0].mean(), (np.asarray(b) < 0)[fake_weights > 0]
    accuracy = aux.sums["discriminator_accuracy"]
    np.testing.assert_allclose(
        accuracy.total / accuracy.weight, (right[0] + right[1].mean()) / 2, rtol=1e-5
    )


@pytest.mark.slow
def test_no_gradient_reaches_the_other_model() -> None:
    gan, params = made_gan(V, T)
    batch = batch_of(V, ROWS, T)
    for loss_fn, other in (
        (discriminator_step_loss, "generator"),
        (rollout_loss, "discriminator"),
        (dense_loss, "discriminator"),
    ):
        grad: Any = jax.jit(jax.grad(partial(loss_fn, gan), has_aux=True))
        grads, _ = grad(params, EXTRA, batch, KEY, STEP)
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads.pop(other))), loss_fn
        assert all((leaf != 0).any() for leaf in jax.tree.leaves(grads)), loss_fn


@pytest.mark.parametrize(
    "loss", ["relativistic", pytest.param("non_saturating", marks=pytest.mark.slow)]
)
def test_the_gumbel_loss_is_that_of_straight_through_samples(loss: Any) -> None:
    gan, params = made_gan(V, T, discriminator="cnn")
    batch = batch_of(V, ROWS, T)
    heat = lambda step: 2.0 / (1 + step)  # noqa: E731
    loss_fn: Any = partial(gumbel_loss, gan, loss=loss, temperature=heat)
    (value, aux), grads = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(
        params, EXTRA, batch, KEY, STEP
    )
    sample_key, noise_key = jax.random.split(KEY)
    fake, condition = sample_of(gan, params, real_texts(batch), sample_key)

    def logits(generator: Any) -> Any:
        return next_logits(gan.generator, generator, fake.tokens, condition, START)

    def of_rows(rows: Any) -> Any:
        score, weights = gan.scores(params, fake, rows=rows)
        real, real_weights = gan.scores(params, real_texts(batch))
        return generator_loss(loss, real, score, real_weights, weights)

    @jax.jit
    def by_parts(generator: Any) -> Any:
        scores, pull_generator = jax.vjp(logits, generator)
        made = partial(straight_through, noise_key, tokens=fake.tokens, temperature=0.5)
        rows, pull_rows = jax.vjp(made, scores)
        value, d_rows = jax.value_and_grad(of_rows)(rows)
        return value, *pull_generator(*pull_rows(d_rows))

    expected, wanted = by_parts(params["generator"])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
        grads["generator"],
        wanted,
    )
    assert aux.sums["generator_loss"].total == pytest.approx(float(value) * ROWS, rel=1e-5)


def test_the_dense_loss_weighs_log_probabilities_by_what_tokens_are_worth() -> None:
    gan, params = made_gan(V, T, end_id=1)
    batch = batch_of(V, ROWS, T, ragged=True)
    loss_fn: Any = jax.jit(partial(dense_loss, gan, discount=0.5, entropy_bonus=0.25))
    value, aux = loss_fn(params, EXTRA, batch, KEY, STEP)
    fake, condition = sample_of(gan, params, real_texts(batch), KEY)
    p = softmax(logits_of(gan.generator, params["generator"], fake.tokens, condition, START))
    scores, _ = scores_of(gan, params, fake)
    total = returned = entropy = count = 0.0
    for row in range(ROWS - 1):  # the last row only fills the batch
        length = int(fake.lengths[row])
        rewards = 2 / (1 + np.exp(-np.asarray(scores[row, :length], np.float64))) - 1
        for t in range(length):
            worth = sum(0.5 ** (s - t) * rewards[s] for s in range(t, length))
            total -= (worth - 0.3) * np.log(p[row, t, fake.tokens[row, t]])
            returned += worth
            entropy -= (p[row, t] * np.log(p[row, t])).sum()
            count += 1
    assert count < (ROWS - 1) * T
    np.testing.assert_allclose(value, (total - 0.25 * entropy) / count, rtol=1e-4)
    for name, expected in (("return", returned), ("entropy", entropy)):
        np.testing.assert_allclose(aux.sums[name], [expected, count], rtol=1e-4)
    loss_sum = aux.sums["generator_loss"]
    np.testing.assert_allclose(loss_sum.total / loss_sum.weight, total / count, rtol=1e-4)


def test_the_moving_baseline() -> None:
    extra: Any = {"baseline": jnp.float32(0)}
    for total, expected in ((6.0, 0.9 * 2), (3.0, 0.1 * 1.8 + 0.9)):
        sums = {"return": Sum(jnp.float32(total), jnp.float32(3))}
        extra = next_extra(extra, sums, decay=0.1)
        assert float(extra["baseline"]) == pytest.approx(expected)


def test_maximum_likelihood_is_that_of_the_part() -> None:
    gan, params = made_gan(V, T)
    batch = batch_of(V, ROWS, T)
    params["mle"] = jax.tree.map(lambda x: 2 * x, params["generator"])
    loss_fn = jax.jit(partial(mle_loss, gan, part="mle"))
    found, aux = loss_fn(params, (), batch, KEY, STEP)
    expected, _ = nll_of(gan.generator, params["mle"], (), batch, KEY, start_id=START)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert set(aux.sums) == {"nll"}


def test_distinct_bigrams_are_counted_within_texts() -> None:
    texts = texts_of([[0, 1, 0, 1], [2, 2, 2, 2], [1, 0, 4, 4], [3, 3, 3, 3]])
    texts = texts._replace(lengths=jnp.array([4, 3, 2, 4]), weights=jnp.array([1.0, 1, 1, 0]))
    pairs = [(0, 1), (1, 0), (0, 1), (2, 2), (2, 2), (1, 0)]
    assert distinct_bigrams(texts, V) == Sum(len(set(pairs)), len(pairs))
    nothing = texts._replace(weights=jnp.zeros(4))
    assert distinct_bigrams(nothing, V) == Sum(0, 0)
    assert distinct_bigrams(texts_of([[1], [2]]), V) == Sum(0, 0)
