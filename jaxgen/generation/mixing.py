"""Several next-token distributions made into one: weighted products and weighted averages.

The M distributions of a row are few. What joins them is written model by model, and not as a
reduction over an axis: so it becomes a single pass over the logits, which nothing is stored for.
"""

from functools import reduce
from operator import add

import jax
import jax.numpy as jnp

from jaxgen.types import Array, Float


def product(logits: Float[Array, "B M *T V"], weights: Float[Array, "B M"]) -> Array:
    """Logits of the product of M distributions, each to the power of its weight.

    A weight of 0 leaves a distribution out, whatever its logits. Tokens that one of the others
    makes impossible (-inf) stay so, also under a negative weight. The result is not normalised, as
    logits are not: log-probabilities up to one constant a row; a single weight of 1 beside zeros
    gives that model's own logits, to the bit.

    Args:
        logits: scores of M models a row; they need not be normalised.
        weights: any sign; they need not sum to 1.

    Returns:
        Float32 [B, *T, V]; NaN where a logit with a weight is NaN or +inf.
    """
    powers = weights.reshape(*weights.shape, *[1] * (logits.ndim - 2))

    def term(model: int) -> Array:
        scores, power = logits[:, model].astype(jnp.float32), powers[:, model]
        missing = jnp.where(scores == -jnp.inf, -jnp.inf, jnp.nan)
        return jnp.where(power == 0, 0, jnp.where(jnp.isfinite(scores), power * scores, missing))

    return reduce(add, map(term, range(logits.shape[1])))


def average(logits: Float[Array, "B M *T V"], weights: Float[Array, "B M"]) -> Array:
    """Logs of the weighted mean of M distributions.

    Args:
        logits: scores of M models a row; they need not be normalised.
        weights: 0 or more, not all 0; where they sum to 1, the result is log-probabilities, else
            it is those and one constant more.

    Returns:
        Float32 [B, *T, V]; NaN where the logits of a model with a weight have no softmax.
    """
    powers = weights.reshape(*weights.shape, *[1] * (logits.ndim - 2))
    logprobs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    logprobs = jnp.where(powers == 0, -jnp.inf, logprobs + jnp.log(powers))
    members = [logprobs[:, model] for model in range(logprobs.shape[1])]
    largest = jax.lax.stop_gradient(reduce(jnp.maximum, members))
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    return jnp.log(reduce(add, (jnp.exp(x - largest) for x in members))) + largest
