"""Estimators of the generator's gradient against definitions, loops and exact enumeration."""

from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_gan import START, batch_of, made_gan, scores_of, texts_of

from jaxgen.generation.generate import generate
from jaxgen.models.decoding import step_fn_of
from jaxgen.models.gan_estimators import (
    TextGan,
    discounted,
    gumbel_noise_given,
    rollout_returns,
    straight_through,
    text_rewards,
)
from jaxgen.models.gan_steps import dense_loss, rollout_loss
from jaxgen.models.text_gan import (
    GeneratorCondition,
    Texts,
    draw_condition,
    initial_carry_of,
    lengths_of,
    next_logits,
)
from jaxgen.types import PyTree

LOGITS = jnp.array([1.0, -1.0, 0.3, -4.0])


def test_noise_of_a_drawn_token_is_gumbel_noise_that_draws_it() -> None:
    """Bounds of 5 standard errors on 24 means: a false alarm in 70,000 keys."""
    n = 40_000
    keys = jax.random.split(jax.random.key(0))
    tokens = jax.random.categorical(keys[0], LOGITS, shape=(n,))
    logits = jnp.broadcast_to(LOGITS, (n, 4))
    noise = np.asarray(gumbel_noise_given(keys[1], logits, tokens), np.float64)
    np.testing.assert_array_equal((logits + noise).argmax(axis=1), tokens)
    uniform = np.exp(-np.exp(-noise))  # of independent uniform numbers if the noise is Gumbel's
    centred = uniform - 0.5
    for power, mean, variance in ((1, 0, 1 / 12), (2, 1 / 12, 1 / 180), (3, 0, 1 / 448)):
        error = np.abs((centred**power).mean(axis=0) - mean)
        assert (error < 5 * np.sqrt(variance / n)).all(), power
    both = np.corrcoef(uniform.T)[np.triu_indices(4, 1)]
    both_squares = np.corrcoef(np.square(centred).T)[np.triu_indices(4, 1)]
    assert (np.abs([both, both_squares]) < 5 / np.sqrt(n)).all()


def test_straight_through_is_one_hot_with_the_gradient_of_the_relaxed_sample() -> None:
    temperature, tokens = 0.7, jnp.array([0, 2])
    logits, key = jnp.stack([LOGITS, 2 * LOGITS]), jax.random.key(3)
    rows, pull = jax.vjp(lambda x: straight_through(key, x, tokens, temperature), logits)
    np.testing.assert_allclose(rows, np.eye(4)[np.array(tokens)], atol=1e-6)
    noise = np.asarray(gumbel_noise_given(key, logits, tokens))
    exponentials = np.exp((np.asarray(logits) + noise) / temperature)
    soft = exponentials / exponentials.sum(axis=1, keepdims=True)
    cotangent = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)
    for row in range(2):
        jacobian = (np.diag(soft[row]) - np.outer(soft[row], soft[row])) / temperature
        (found,) = pull(jnp.asarray(cotangent))
        np.testing.assert_allclose(found[row], jacobian @ cotangent[row], rtol=1e-4, atol=1e-6)


def test_a_hopeless_token_has_no_gradient_and_no_nan() -> None:
    logits = jnp.array([0.0, -200.0, 1.0])
    gradient = jax.grad(lambda x: straight_through(jax.random.key(0), x, jnp.array(0), 0.5)[1])
    np.testing.assert_allclose(gradient(logits), 0, atol=1e-6)


def test_discounted_rewards_by_hand() -> None:
    found = discounted(jnp.array([[1.0, 2.0, 4.0], [0.0, 0.0, 8.0]]), 0.5)
    np.testing.assert_allclose(found, [[1 + 1 + 1, 2 + 2, 4], [2, 4, 8]])


@pytest.mark.parametrize("end_id", [pytest.param(None, marks=pytest.mark.slow), 1])
def test_roll_outs_are_a_plain_loop(end_id: int | None) -> None:
    """Over prefixes and roll-outs, with the sampling loop of everyone and the same keys."""
    steps, rows, count, key = 4, 3, 2, jax.random.key(5)
    gan, params = made_gan(4, steps, discriminator="cnn", labels=2, noise=2, end_id=end_id)
    tokens = jax.random.randint(jax.random.key(6), (rows, steps), 0, 4)
    lengths = lengths_of(tokens, end_id)
    texts = Texts(tokens, lengths, jnp.array([0, 1, 1]), jnp.ones(rows))
    condition = draw_condition(gan.generator, jax.random.key(7), rows, texts.labels)
    found = jax.jit(rollout_returns, static_argnums=(0, 5))(
        gan, params, texts, condition, key, count
    )
    keys = jax.random.split(key, (steps - 1, count, rows))
    first = initial_carry_of(gan.generator)(params["generator"], rows, condition)
    starts = jnp.full((rows, 1), START)
    rewards = jax.jit(partial(text_rewards, gan))
    for place in range(steps):
        worth = np.zeros(rows)
        for n in range(count):
            whole = tokens
            if place + 1 < steps:
                output = generate(
                    step_fn_of(gan.generator),
                    params["generator"],
                    first,
                    np.concatenate([starts, tokens[:, : place + 1]], axis=1),
                    None,
                    keys[place, n],
                    max_new_tokens=steps - place - 1,
                )
                whole = jnp.concatenate([tokens[:, : place + 1], output.tokens], axis=1)
            ended = texts._replace(tokens=whole, lengths=lengths_of(whole, end_id))
            worth += np.asarray(rewards(params, ended)) / count
        np.testing.assert_allclose(found[:, place], worth, rtol=1e-5)


def all_texts(gan: TextGan, steps: int) -> Texts:
    texts = texts_of(list(product(range(gan.generator.vocab_size), repeat=steps)))
    return texts._replace(lengths=lengths_of(texts.tokens, gan.end_id))


def expected_reward(gan: TextGan, generator: PyTree, texts: Texts, rewards: Any) -> Any:
    """The sum over all texts of probability times reward."""
    logits = next_logits(gan.generator, generator, texts.tokens, GeneratorCondition(), START)
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), texts.tokens[..., None], axis=-1)[
        ..., 0
    ].sum(axis=1)
    return (jnp.exp(log_p) * rewards).sum()


@pytest.mark.parametrize(
    ("estimator", "vocab_size", "end_id"),
    [
        ("rollouts", 3, 1),
        pytest.param("rollouts", 2, None, marks=pytest.mark.slow),
        pytest.param("dense", 3, 1, marks=pytest.mark.slow),
        pytest.param("dense", 2, None, marks=pytest.mark.slow),
    ],
)
def test_policy_gradients_are_exact_in_the_mean(
    estimator: str, vocab_size: int, end_id: int | None
) -> None:
    """64 means of 1,024 texts each against the gradient of the expected reward of all texts.

    A bound of 6 standard errors of 63 degrees of freedom on some 200 coordinates: a false alarm in
    50,000 keys.
    """
    steps, rows, repeats = 3, 1024, 64
    kind = "cnn" if estimator == "rollouts" else "lstm"
    gan, params = made_gan(vocab_size, steps, discriminator=kind, end_id=end_id)
    # Rewards that differ much from text to text, so that there is a gradient to see.
    params["discriminator"] = jax.tree.map(lambda x: 3 * x, params["discriminator"])
    texts = all_texts(gan, steps)
    if estimator == "rollouts":
        loss_fn: Any = partial(rollout_loss, gan, rollouts=1)
        rewards = jax.jit(partial(text_rewards, gan))(params, texts)
    else:
        loss_fn = partial(dense_loss, gan, discount=1.0)
        scores, weights = scores_of(gan, params, texts)
        rewards = ((2 * jax.nn.sigmoid(scores) - 1) * weights).sum(axis=1)
    objective = partial(expected_reward, gan, texts=texts, rewards=rewards)
    mean, exact = jax.jit(jax.value_and_grad(objective))(params["generator"])
    extra, batch = {"baseline": 0.5 * mean}, batch_of(vocab_size, rows, steps)

    def estimate(key: Any) -> PyTree:
        def loss(generator: PyTree) -> Any:
            parts = params | {"generator": generator}
            return loss_fn(parts, extra, batch, key, jnp.int32(0))

        grads, aux = jax.grad(loss, has_aux=True)(params["generator"])
        tokens = aux.sums["return"].weight  # the loss is a mean over them
        return jax.tree.map(lambda g: -g * tokens / rows, grads)

    estimates = jax.jit(lambda keys: jax.lax.map(estimate, keys))(
        jax.random.split(jax.random.key(11), repeats)
    )
    flat, wanted = (
        np.concatenate([np.asarray(x).reshape(*lead, -1) for x in jax.tree.leaves(tree)], axis=-1)
        for tree, lead in ((estimates, (repeats,)), (exact, ()))
    )
    error = flat.mean(axis=0) - wanted
    bound = 6 * flat.std(axis=0, ddof=1) / np.sqrt(repeats)
    assert (np.abs(error) <= bound + 1e-6).all()
    # The bound is tight enough to tell: the whole error is a small part of the gradient.
    assert np.linalg.norm(error) < 0.1 * np.linalg.norm(wanted)
