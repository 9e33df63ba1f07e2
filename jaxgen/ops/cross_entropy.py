"""Softmax cross-entropy of dense targets: one exponential an element, forward and backward."""

import jax
import jax.numpy as jnp

from jaxgen.types import Array, Float, Int


@jax.custom_vjp
def cross_entropy(logits: Float[Array, "*N V"], targets: Int[Array, "*N"]) -> Float[Array, "*N"]:
    """Negative log-likelihood of each target in nats, computed in float32 whatever the input."""
    return _forward(logits, targets)[0]


def _forward(logits: Array, targets: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    wide = logits.astype(jnp.float32)
    normaliser = jax.nn.logsumexp(wide, axis=-1)
    chosen = jnp.take_along_axis(wide, targets[..., None], axis=-1)[..., 0]
    return normaliser - chosen, (logits, targets, normaliser)


def _backward(residuals: tuple[Array, Array, Array], d_nll: Array) -> tuple[Array, None]:
    logits, targets, normaliser = residuals
    probabilities = jnp.exp(logits.astype(jnp.float32) - normaliser[..., None])
    hit = jnp.arange(logits.shape[-1], dtype=targets.dtype) == targets[..., None]
    d_logits = (probabilities - hit.astype(jnp.float32)) * d_nll[..., None]
    return d_logits.astype(logits.dtype), None


cross_entropy.defvjp(_forward, _backward)
