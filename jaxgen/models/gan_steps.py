"""The losses of the phases of a text GAN, for `jaxgen.training.adversarial_step`.

Text is discrete, so the gradient of a score cannot pass a sampled token as it is. The estimators:

    gumbel      straight through: forward the token, backward a softmax with the noise that made it
    rollouts    policy gradient; what a token is worth is the mean reward of texts continued from it
    dense       policy gradient; what a token is worth are the discounted rewards of the steps on

All are functions `(gan, params, extra, batch, key, step) -> (loss, LossAux)` to be bound to a
`TextGan`, of the parameters {"generator": ..., "discriminator": ...}. `extra` is
{"baseline": a number}, which `next_extra` moves after a step.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.models.gan_estimators import (
    TextGan,
    discounted,
    rollout_returns,
    straight_through,
)
from jaxgen.models.gan_losses import (
    AdversarialLoss,
    discriminator_loss,
    entropy,
    generator_loss,
    weighted_mean,
    weighted_sum,
)
from jaxgen.models.text_gan import (
    GeneratorCondition,
    Texts,
    generator_nll,
    next_logits,
    real_texts,
    token_weights,
)
from jaxgen.ops.cross_entropy import cross_entropy
from jaxgen.types import Array, Float, Int, LossAux, PyTree, Sum


def mle_loss(
    gan: TextGan,
    params: PyTree,
    extra: PyTree,
    batch: Any,
    key: Array,
    step: Int[Array, ""],
    *,
    part: str = "generator",
) -> tuple[Float[Array, ""], LossAux]:
    """Maximum likelihood of the real texts, see `jaxgen.models.text_gan.generator_nll`.

    Args:
        gan: the models.
        params: of all parts.
        extra: not used.
        batch: see `jaxgen.models.text_gan.real_texts`.
        key: of dropout and noise.
        step: not used.
        part: whose parameters are those of the generator.

    Returns:
        The loss, and the sum "nll".
    """
    return generator_nll(gan.generator, params[part], (), batch, key, start_id=gan.start_id)


def discriminator_step_loss(
    gan: TextGan,
    params: PyTree,
    extra: PyTree,
    batch: Any,
    key: Array,
    step: Int[Array, ""],
    *,
    loss: AdversarialLoss = "non_saturating",
) -> tuple[Float[Array, ""], LossAux]:
    """The discriminator's loss of real texts and as many generated ones under their labels.

    Args:
        gan: the models.
        params: of both.
        extra: not used.
        batch: the real texts.
        key: of the samples and of dropout.
        step: not used.
        loss: what is minimised.

    Returns:
        The loss, and the sums "discriminator_loss", "discriminator_accuracy" (of scores above 0 of
        real texts and below of generated ones, each counting half) and "distinct_2".
    """
    sample_key, real_key, fake_key = jax.random.split(key, 3)
    real = real_texts(batch)
    fake, _ = gan.sample(params, real, sample_key)
    real_scores, real_weights = gan.scores(params, real, real_key)
    fake_scores, fake_weights = gan.scores(params, fake, fake_key)
    value = discriminator_loss(loss, real_scores, fake_scores, real_weights, fake_weights)
    hits = weighted_mean(jnp.float32(real_scores > 0), real_weights)
    hits += weighted_mean(jnp.float32(fake_scores < 0), fake_weights)
    count = real.weights.sum()
    sums = {
        "discriminator_loss": Sum(value * count, count),
        "discriminator_accuracy": Sum(hits / 2 * count, count),
        "distinct_2": distinct_bigrams(fake, gan.generator.vocab_size),
    }
    return value, LossAux((), sums, count)


def gumbel_loss(
    gan: TextGan,
    params: PyTree,
    extra: PyTree,
    batch: Any,
    key: Array,
    step: Int[Array, ""],
    *,
    loss: AdversarialLoss = "non_saturating",
    temperature: Callable[[Any], Any] = lambda step: 1.0,
    entropy_bonus: float = 0.0,
) -> tuple[Float[Array, ""], LossAux]:
    """The generator's loss of the scores of its texts, straight through Gumbel-softmax samples.

    What the generator reads are the sampled tokens, through which no gradient passes: it goes from
    the scores to the logits of every step, and on through the generator's states (as in RelGAN).

    Args:
        gan: the models.
        params: of both.
        extra: passed by.
        batch: the real texts, which the relativistic loss compares with.
        key: consumed.
        step: steps made so far.
        loss: what is minimised.
        temperature: of the softmax, given the step.
        entropy_bonus: what a nat of the entropy of a step's prediction is worth.

    Returns:
        The loss, and the sums "generator_loss" (without the bonus), "reward" (the share that the
        discriminator takes for real), "entropy" and "distinct_2".

    Source: Jang, Gu & Poole (2017), section 2.2; Nie, Narodytska & Patel (2019) for texts.
    """
    sample_key, noise_key = jax.random.split(key)
    real = real_texts(batch)
    fake, condition = gan.sample(params, real, sample_key)
    logits = next_logits(gan.generator, params["generator"], fake.tokens, condition, gan.start_id)
    with jax.numpy_dtype_promotion("standard"):  # a schedule may give a Python number
        heat = jnp.asarray(temperature(step), jnp.float32)
    rows = straight_through(noise_key, logits, fake.tokens, heat)
    scores, weights = gan.scores(params, fake, rows=rows)
    real_scores, real_weights = gan.scores(params, real)
    value = generator_loss(loss, real_scores, scores, real_weights, weights)
    reward = Sum(weighted_sum(jax.nn.sigmoid(scores), weights), weights.sum())
    return _generator_result(gan, value, fake, logits, {"reward": reward}, entropy_bonus)


def rollout_loss(
    gan: TextGan,
    params: PyTree,
    extra: PyTree,
    batch: Any,
    key: Array,
    step: Int[Array, ""],
    *,
    rollouts: int = 16,
    entropy_bonus: float = 0.0,
) -> tuple[Float[Array, ""], LossAux]:
    """Policy gradient with Monte-Carlo roll-outs.

    A token is worth the mean reward of so many texts that continue the text after it; the last one,
    that of the text. The reward of a text is the discriminator's probability that it is real, of a
    score a step their mean. `extra["baseline"]` is subtracted.

    Args:
        gan: the models.
        params: of both.
        extra: the baseline.
        batch: the number, labels and largest length of the texts.
        key: consumed.
        step: not used.
        rollouts: texts from each token.
        entropy_bonus: as in `gumbel_loss`.

    Returns:
        The loss, and the sums of `gumbel_loss` with "return", what a token is worth.

    Source: Yu et al. (2017), equations 4 and 6; the loss is the mean over tokens where they add up.
    """
    sample_key, rollout_key = jax.random.split(key)
    fake, condition = gan.sample(params, real_texts(batch), sample_key)
    returns = rollout_returns(gan, params, fake, condition, rollout_key, rollouts)
    # What the last place is worth is the reward of the text.
    reward = Sum(weighted_sum(returns[:, -1], fake.weights), fake.weights.sum())
    return _policy_loss(gan, params, extra, fake, condition, returns, reward, entropy_bonus)


def dense_loss(
    gan: TextGan,
    params: PyTree,
    extra: PyTree,
    batch: Any,
    key: Array,
    step: Int[Array, ""],
    *,
    discount: float = 0.23,
    entropy_bonus: float = 0.0,
) -> tuple[Float[Array, ""], LossAux]:
    """Policy gradient with a reward at every step: 2 sigmoid(score) - 1, discounted.

    A token at t is worth the sum of discount^(s - t) times the reward of s over the steps s from t
    on, less `extra["baseline"]`, the moving mean of the steps before: the present texts are not in
    it, which leaves the gradient unbiased.

    Args:
        gan: the models; the discriminator has a score a step.
        params: of both.
        extra: the baseline.
        batch: the number, labels and largest length of the texts.
        key: consumed.
        step: not used.
        discount: what a reward counts one step earlier.
        entropy_bonus: as in `gumbel_loss`.

    Returns:
        The loss, and the sums of `gumbel_loss` with "return", what a token is worth.

    Source: de Masson d'Autume et al. (2019), section 3, equations 3 to 5.
    """
    fake, condition = gan.sample(params, real_texts(batch), key)
    scores, weights = gan.scores(jax.lax.stop_gradient(params), fake)
    rewards = jnp.where(weights > 0, 2 * jax.nn.sigmoid(scores) - 1, 0)
    reward = Sum(weighted_sum(rewards, weights), weights.sum())
    returns = discounted(rewards, discount)
    return _policy_loss(gan, params, extra, fake, condition, returns, reward, entropy_bonus)


def next_extra(extra: PyTree, sums: dict[str, Sum], *, decay: float) -> PyTree:
    """The moving baseline after a step: decay * baseline + (1 - decay) * mean return.

    Args:
        extra: {"baseline": ...}.
        sums: of the step, over all devices.
        decay: 0 keeps the last mean alone.
    """
    mean = sums["return"].total / jnp.maximum(sums["return"].weight, 1)
    return {**extra, "baseline": decay * extra["baseline"] + (1 - decay) * mean}


def _policy_loss(
    gan: TextGan,
    params: PyTree,
    extra: PyTree,
    fake: Texts,
    condition: GeneratorCondition,
    returns: Float[Array, "B T"],
    reward: Sum,
    entropy_bonus: float,
) -> tuple[Float[Array, ""], LossAux]:
    """Minus the mean log-probability of the tokens, each times what it is worth."""
    logits = next_logits(gan.generator, params["generator"], fake.tokens, condition, gan.start_id)
    weights = token_weights(fake)
    advantages = jax.lax.stop_gradient(returns - extra["baseline"])
    value = weighted_mean(advantages * cross_entropy(logits, fake.tokens), weights)
    sums = {"reward": reward, "return": Sum(weighted_sum(returns, weights), weights.sum())}
    return _generator_result(gan, value, fake, logits, sums, entropy_bonus)


def _generator_result(
    gan: TextGan,
    value: Float[Array, ""],
    fake: Texts,
    logits: Float[Array, "B T V"],
    sums: dict[str, Sum],
    entropy_bonus: float,
) -> tuple[Float[Array, ""], LossAux]:
    weights, count = token_weights(fake), fake.weights.sum()
    found = entropy(logits if entropy_bonus else jax.lax.stop_gradient(logits))
    sums = sums | {
        "generator_loss": Sum(value * count, count),
        "entropy": Sum(weighted_sum(found, weights), weights.sum()),
        "distinct_2": distinct_bigrams(fake, gan.generator.vocab_size),
    }
    if entropy_bonus:
        value -= entropy_bonus * weighted_mean(found, weights)
    return value, LossAux((), sums, count)


def distinct_bigrams(texts: Texts, vocab_size: int) -> Sum:
    """Different pairs of neighbouring tokens in a batch, over all pairs.

    Above 65,535 tokens different pairs may have one number, and count once.
    """
    tokens = texts.tokens.astype(jnp.uint32)
    pairs = tokens[:, :-1] * jnp.uint32(vocab_size) + tokens[:, 1:]
    real = token_weights(texts)[:, 1:] > 0
    # What is no pair is a copy of the first that is one.
    pairs, real = pairs.reshape(-1), real.reshape(-1)
    if pairs.size == 0:
        return Sum(jnp.float32(0), jnp.float32(0))
    ordered = jnp.sort(jnp.where(real, pairs, pairs[jnp.argmax(real)]))
    different = 1 + (ordered[1:] != ordered[:-1]).sum()
    count = real.sum().astype(jnp.float32)
    return Sum(jnp.where(count > 0, different, 0).astype(jnp.float32), count)
