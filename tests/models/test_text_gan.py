"""The generator of a text GAN: noise as joined inputs, samples, and the likelihood of texts."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_gan import START, batch_of, logits_of, made_gan, nll_of, texts_of

from jaxgen.generation.generate import generate
from jaxgen.models.conditional import conditional_loss
from jaxgen.models.decoding import step_fn_of
from jaxgen.models.text_gan import (
    GeneratorCondition,
    draw_condition,
    initial_carry_of,
    lengths_of,
    real_texts,
    sample_texts,
)
from jaxgen.ops.lstm import LSTMCarry

V, T, Z = 5, 4, 2


@pytest.mark.parametrize("labels", [pytest.param(0, marks=pytest.mark.slow), 3])
def test_reading_at_once_is_stepping(labels: int) -> None:
    gan, parts = made_gan(V, T, noise=Z, labels=labels)
    model, params = gan.generator, parts["generator"]
    condition = draw_condition(model, jax.random.key(4), 3, jnp.array([0, 2, 1]))
    assert (condition.labels is None) == (labels == 0)
    tokens = jax.random.randint(jax.random.key(5), (3, T), 0, V)
    logits = logits_of(model, params, tokens, condition, START)
    carry, token = initial_carry_of(model)(params, 3, condition), jnp.full((3,), START)
    step_fn = jax.jit(step_fn_of(model))
    for place in range(T):
        carry, one = step_fn(params, carry, token)
        np.testing.assert_allclose(logits[:, place], one, rtol=1e-4, atol=1e-5)
        token = tokens[:, place]


def test_noise_is_joined_to_every_input() -> None:
    """A model without noise whose inputs are the embedding with the noise beside it."""
    gan, parts = made_gan(V, T, noise=Z)
    params = parts["generator"]
    noise = jnp.array([[0.3, -2.0]])
    layer = params["lstm"]["layer_0"]
    joined = jnp.concatenate([params["embedding"], jnp.broadcast_to(noise, (V, Z))], axis=1)
    kernel = jnp.concatenate([layer["input_kernel"], params["noise_gates"]])
    plain = {name: params[name] for name in ("output_kernel", "output_bias")}
    plain |= {"embedding": joined, "lstm": {"layer_0": layer | {"input_kernel": kernel}}}
    model = gan.generator.clone(noise_size=0, embedding_size=3 + Z)
    c, h = jnp.split(noise @ params["noise_carry"], 2, axis=1)
    carry = model.initial_carry(1)._replace(layers=(LSTMCarry(c, jnp.tanh(h)),))
    tokens = jnp.array([[START, 4, 1, 2]])
    _, expected = jax.jit(model.apply)({"params": plain}, tokens, carry)
    found = logits_of(
        gan.generator, params, jnp.roll(tokens, -1), GeneratorCondition(None, noise), START
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_samples_end_with_the_end_token_and_follow_their_labels() -> None:
    gan, parts = made_gan(V, T, labels=2, end_id=1)
    params = parts["generator"]
    like = real_texts(batch_of(V, 64, T, labels=2, ragged=True))
    condition = draw_condition(gan.generator, jax.random.key(0), 64, like.labels)
    texts = jax.jit(partial(sample_texts, gan.generator, start_id=START, end_id=1))(
        params, like, condition, jax.random.key(1)
    )
    output = generate(  # the same loop as everyone's
        step_fn_of(gan.generator),
        params,
        initial_carry_of(gan.generator)(params, 64, condition),
        np.full((64, 1), START),
        None,
        jax.random.key(1),
        max_new_tokens=T,
    )
    for row in range(64):
        made = np.asarray(output.tokens[row]).tolist()
        length = made.index(1) + 1 if 1 in made else T
        assert int(texts.lengths[row]) == length
        assert texts.tokens[row, :length].tolist() == made[:length]
    assert 5 < (texts.lengths < T).sum() < 60
    np.testing.assert_array_equal(texts.labels, like.labels)
    np.testing.assert_array_equal(texts.weights, like.weights)


def test_lengths_end_with_the_first_end_token() -> None:
    tokens = jnp.array([[1, 2, 1], [2, 2, 1], [2, 2, 2]])
    assert lengths_of(tokens, 1).tolist() == [1, 3, 3]
    assert lengths_of(tokens, None).tolist() == [3, 3, 3]


def test_the_loss_without_noise_is_that_of_a_conditional_model() -> None:
    gan, parts = made_gan(V, T, labels=3)
    batch = batch_of(V, 6, T, labels=3, ragged=True)
    arguments: Any = (gan.generator, parts["generator"], (), batch, None)
    loss, aux = nll_of(*arguments, start_id=START)
    expected, expected_aux = jax.jit(conditional_loss, static_argnums=0)(*arguments)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(aux.sums["nll"], expected_aux.sums["nll"], rtol=1e-5)
    assert aux.weight == expected_aux.weight == float((batch.lengths - 1).clip(0).sum())


def test_the_loss_with_noise_is_of_the_noise_that_was_drawn() -> None:
    gan, parts = made_gan(V, T, noise=Z)
    model, params, key = gan.generator, parts["generator"], jax.random.key(7)
    batch = batch_of(V, 2, T)
    loss, _ = nll_of(model, params, (), batch, key, start_id=START)
    condition = draw_condition(model, jax.random.split(key)[0], 2)
    texts = texts_of(batch.tokens[:, 1:])
    log_p = jax.nn.log_softmax(logits_of(model, params, texts.tokens, condition, START))
    chosen = jnp.take_along_axis(log_p, texts.tokens[..., None], axis=-1)
    np.testing.assert_allclose(loss, -chosen.mean(), rtol=1e-5)
