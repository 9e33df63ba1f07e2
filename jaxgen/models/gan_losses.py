"""Adversarial losses of the scores of real and of generated texts, each weighted."""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxgen.types import Array, Float

AdversarialLoss = Literal["non_saturating", "hinge", "relativistic"]


def discriminator_loss(
    loss: AdversarialLoss,
    real: Float[Array, "*N"],
    fake: Float[Array, "*N"],
    real_weights: Float[Array, "*N"],
    fake_weights: Float[Array, "*N"],
) -> Float[Array, ""]:
    """What the discriminator minimises.

        non_saturating   mean softplus(-real) + mean softplus(fake)
        hinge            mean max(0, 1 - real) + mean max(0, 1 + fake)
        relativistic     mean softplus(fake - real), of pairs

    Args:
        loss: its name.
        real: scores of real texts, one a text or one a step.
        fake: scores of generated texts.
        real_weights: what each counts, 0 where it is none.
        fake_weights: the same of the generated ones. A pair counts the product of both.

    Sources: Goodfellow et al. (2014); Lim & Ye (2017); Jolicoeur-Martineau (2018), equation 3.
    """
    if loss == "relativistic":
        return weighted_mean(jax.nn.softplus(fake - real), real_weights * fake_weights)
    below = jax.nn.softplus if loss == "non_saturating" else _hinge
    return weighted_mean(below(-real), real_weights) + weighted_mean(below(fake), fake_weights)


def generator_loss(
    loss: AdversarialLoss,
    real: Float[Array, "*N"],
    fake: Float[Array, "*N"],
    real_weights: Float[Array, "*N"],
    fake_weights: Float[Array, "*N"],
) -> Float[Array, ""]:
    """What the generator minimises, through the scores of its texts; see `discriminator_loss`.

    non_saturating   mean softplus(-fake)
    hinge            mean -fake
    relativistic     mean softplus(real - fake), of pairs
    """
    if loss == "relativistic":
        return weighted_mean(jax.nn.softplus(real - fake), real_weights * fake_weights)
    each = jax.nn.softplus(-fake) if loss == "non_saturating" else -fake
    return weighted_mean(each, fake_weights)


def entropy(logits: Float[Array, "*N V"]) -> Float[Array, "*N"]:
    """Entropy in nats of the softmax of logits."""
    log_p = jax.nn.log_softmax(logits)
    return -(jnp.exp(log_p) * log_p).sum(axis=-1)


def weighted_sum(values: Float[Array, "*N"], weights: Float[Array, "*N"]) -> Float[Array, ""]:
    """Sum of values times weights; what has no weight may be anything."""
    return jnp.where(weights > 0, values * weights, 0).sum()


def weighted_mean(values: Float[Array, "*N"], weights: Float[Array, "*N"]) -> Float[Array, ""]:
    """Their sum over that of the weights; 0 where nothing has a weight."""
    total = weights.sum()
    return weighted_sum(values, weights) / jnp.where(total > 0, total, 1)


def _hinge(scores: Array) -> Array:
    return jnp.maximum(0.0, 1.0 + scores)
