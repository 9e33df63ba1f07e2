"""Losses of the two models of a text GAN, one for each estimator of the generator's gradient.

Text is discrete, so the gradient of a score cannot pass a sampled token as it is. The estimators:

    gumbel      straight through: forward the token, backward a softmax with the noise that made it
    rollouts    policy gradient; what a token is worth is the mean reward of texts continued from it
    dense       policy gradient; what a token is worth are the discounted rewards of the steps on

All are functions `(gan, params, extra, batch, key, step) -> (loss, LossAux)` to be bound to a
`TextGan`, of the parameters {"generator": ..., "discriminator": ...}. Texts are sampled by the loop
of `jaxgen.generate`, without a gradient; what has one is made anew from the sampled tokens, in one
pass over time.

`extra` is {"baseline": a number}, which `next_extra` moves after a step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.generation.roll_out import roll_out
from jaxgen.models.decoding import step_fn_of
from jaxgen.models.gan_losses import (
    AdversarialLoss,
    discriminator_loss,
    entropy,
    generator_loss,
    weighted_mean,
    weighted_sum,
)
from jaxgen.models.text_discriminator import TextDiscriminator, score_weights
from jaxgen.models.text_gan import (
    GeneratorCondition,
    TextGenerator,
    Texts,
    draw_condition,
    generator_nll,
    initial_carry_of,
    lengths_of,
    next_logits,
    real_texts,
    sample_texts,
    token_weights,
)
from jaxgen.ops.cross_entropy import cross_entropy
from jaxgen.types import Array, Float, Int, LossAux, PyTree, Sum


@dataclass(frozen=True)
class TextGan:
    """The two models, and how a text begins and ends."""

    generator: TextGenerator
    discriminator: TextDiscriminator
    start_id: int
    """The token before the first."""
    end_id: int | None = None
    """The token that ends a text; None: all are as long as the batch."""

    def sample(self, params: PyTree, like: Texts, key: Array) -> tuple[Texts, GeneratorCondition]:
        """Texts under the labels of others, and what they were made from."""
        noise_key, key = jax.random.split(key)
        condition = draw_condition(self.generator, noise_key, len(like.tokens), like.labels)
        texts = sample_texts(
            self.generator,
            params["generator"],
            like,
            condition,
            key,
            start_id=self.start_id,
            end_id=self.end_id,
        )
        return texts, condition

    def scores(
        self, params: PyTree, texts: Texts, key: Array | None = None, rows: Array | None = None
    ) -> tuple[Float[Array, "B S"], Float[Array, "B S"]]:
        """The discriminator's scores, and what each counts; `rows` take the place of the tokens."""
        scores: Any = self.discriminator.apply(
            {"params": params["discriminator"]},
            texts.tokens if rows is None else rows,
            texts.lengths,
            texts.labels,
            deterministic=key is None,
            rngs=None if key is None else {"dropout": key},
        )
        steps = texts.tokens.shape[1]
        return scores, score_weights(self.discriminator, steps, texts.lengths, texts.weights)


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


def straight_through(
    key: Array,
    logits: Float[Array, "*N V"],
    tokens: Int[Array, "*N"],
    temperature: Float[Array, ""] | float,
) -> Float[Array, "*N V"]:
    """One-hot rows of sampled tokens, with the gradient of the Gumbel-softmax that drew them.

    The noise is drawn after the token, from Gumbel noise under which the token is the one with
    the largest sum of logit and noise. The pair of both is distributed as if the noise had come first.

    Args:
        key: consumed.
        logits: that the tokens were drawn from.
        tokens: drawn from their softmax.
        temperature: of the softmax whose gradient is taken.

    Source: Maddison, Tarlow & Minka (2014) for the noise of a given maximum.
    """
    hit = jax.nn.one_hot(tokens, logits.shape[-1], dtype=jnp.float32)
    fixed = jax.lax.stop_gradient(logits)
    exponential = jax.random.exponential(key, logits.shape)
    log_p = jax.nn.log_softmax(fixed)
    # exp(-(log p + Gumbel)) is exponential with the rate p. The least of all is one of rate 1, and
    # the others, given that, are it and as much more as they would be without it.
    least = jnp.where(hit > 0, exponential, 0).sum(axis=-1, keepdims=True)
    times = least + jnp.where(hit > 0, 0, exponential * jnp.exp(-log_p))
    noise = -jnp.log(times) - log_p
    soft = jax.nn.softmax((jax.nn.log_softmax(logits) + noise) / temperature)
    return hit + soft - jax.lax.stop_gradient(soft)


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
    last = text_rewards(gan, params, fake)
    reward = Sum(weighted_sum(last, fake.weights), fake.weights.sum())
    return _policy_loss(gan, params, extra, fake, condition, returns, reward, entropy_bonus)


def rollout_returns(
    gan: TextGan,
    params: PyTree,
    texts: Texts,
    condition: GeneratorCondition,
    key: Array,
    rollouts: int,
) -> Float[Array, "B T"]:
    """What each token of some texts is worth, see `rollout_loss`."""
    params = jax.lax.stop_gradient(params)
    B, T = texts.tokens.shape
    last = text_rewards(gan, params, texts)
    if T == 1:
        return last[:, None]
    carry = initial_carry_of(gan.generator)(params["generator"], B, condition)
    continued = roll_out(
        step_fn_of(gan.generator),
        params["generator"],
        carry,
        jnp.full((B,), gan.start_id, jnp.int32),
        texts.tokens,
        jax.random.split(key, (T - 1, rollouts, B)),
    )

    def worth(tokens: Int[Array, "N B T"]) -> Float[Array, "B"]:
        rows = jax.tree.map(lambda x: jnp.tile(x, (rollouts, *[1] * (x.ndim - 1))), texts)
        tokens = tokens.reshape(-1, T)
        rows = rows._replace(tokens=tokens, lengths=lengths_of(tokens, gan.end_id))
        return text_rewards(gan, params, rows).reshape(rollouts, B).mean(axis=0)

    # One prefix after the other: the features of all texts at once would not fit the cache.
    before = jax.lax.map(worth, continued)
    return jnp.concatenate([before, last[None]]).T


def text_rewards(gan: TextGan, params: PyTree, texts: Texts) -> Float[Array, "B"]:
    """The probability that each text is real; of a score a step, their mean."""
    scores, weights = gan.scores(jax.lax.stop_gradient(params), texts)
    return jax.vmap(weighted_mean)(jax.nn.sigmoid(scores), jnp.float32(weights > 0))


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


def discounted(rewards: Float[Array, "B T"], discount: float) -> Float[Array, "B T"]:
    """At each step t, the sum over s >= t of discount^(s - t) * rewards[s]."""

    def step(later: Array, now: Array) -> tuple[Array, Array]:
        worth = now + discount * later
        return worth, worth

    return jax.lax.scan(step, jnp.zeros_like(rewards[:, 0]), rewards.T, reverse=True)[1].T


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
