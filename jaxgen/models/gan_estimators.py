"""What the gradient of a text GAN's generator is estimated from.

Texts are sampled by the loop of `jaxgen.generate`, without a gradient; what has one is made anew
from the sampled tokens, in one pass over time, in `jaxgen.models.gan_steps`.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.generation.roll_out import roll_out
from jaxgen.models.decoding import step_fn_of
from jaxgen.models.gan_losses import weighted_mean
from jaxgen.models.text_discriminator import TextDiscriminator, score_weights
from jaxgen.models.text_gan import (
    GeneratorCondition,
    TextGenerator,
    Texts,
    draw_condition,
    initial_carry_of,
    lengths_of,
    sample_texts,
)
from jaxgen.types import Array, Float, Int, PyTree


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


def straight_through(
    key: Array,
    logits: Float[Array, "*N V"],
    tokens: Int[Array, "*N"],
    temperature: Float[Array, ""] | float,
) -> Float[Array, "*N V"]:
    """One-hot rows of sampled tokens, with the gradient of the Gumbel-softmax that drew them.

    Args:
        key: consumed.
        logits: that the tokens were drawn from.
        tokens: drawn from their softmax.
        temperature: of the softmax whose gradient is taken.

    Source: Jang, Gu & Poole (2017), section 2.2.
    """
    noise = gumbel_noise_given(key, jax.lax.stop_gradient(logits), tokens)
    soft = jax.nn.softmax((logits + noise) / temperature)
    return jax.nn.one_hot(tokens, logits.shape[-1]) + soft - jax.lax.stop_gradient(soft)


def gumbel_noise_given(
    key: Array, logits: Float[Array, "*N V"], tokens: Int[Array, "*N"]
) -> Float[Array, "*N V"]:
    """Gumbel noise under which each token has the largest sum of logit and noise.

    So a token that another sampler drew gets its noise afterwards: the pair of both is distributed
    as if the noise had come first.

    Source: Maddison, Tarlow & Minka (2014), section 3, in other terms: exp(-(log p + noise)) is
    exponential with the rate p; the least of all has rate 1, and each of the others exceeds it by
    what it would be alone.
    """
    log_p = jax.nn.log_softmax(logits)
    exponential = jax.random.exponential(key, logits.shape)
    hit = jnp.arange(logits.shape[-1]) == tokens[..., None]
    least = jnp.where(hit, exponential, 0).sum(axis=-1, keepdims=True)
    times = least + jnp.where(hit, 0, exponential * jnp.exp(-log_p))
    return -jnp.log(times) - log_p


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


def discounted(rewards: Float[Array, "B T"], discount: float) -> Float[Array, "B T"]:
    """At each step t, the sum over s >= t of discount^(s - t) * rewards[s]."""

    def step(later: Array, now: Array) -> tuple[Array, Array]:
        worth = now + discount * later
        return worth, worth

    return jax.lax.scan(step, jnp.zeros_like(rewards[:, 0]), rewards.T, reverse=True)[1].T
