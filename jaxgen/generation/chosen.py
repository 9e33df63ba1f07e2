"""What is said of a token that was chosen from logits, and tokens that are chosen beforehand."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgen.generation.largest import top_k
from jaxgen.types import Array, Float, Int


class Logprobs(NamedTuple):
    """Natural log-probabilities under the model itself, before any setting."""

    chosen: Float[Array, "B"]
    top_tokens: Any = None
    """Int[B, n], the most likely tokens; None where they are not asked for."""
    top: Any = None
    """Float[B, n], of these."""


def logprobs_of(logits: Float[Array, "B V"], token: Int[Array, "B"], num_logprobs: int) -> Logprobs:
    """Those of the chosen tokens, and of the `num_logprobs` most likely ones where above 0."""
    normaliser = jax.nn.logsumexp(logits, axis=1)
    chosen = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0] - normaliser
    if num_logprobs == 0:
        return Logprobs(chosen)
    values, tokens = jax.vmap(lambda row: top_k(row, num_logprobs))(logits)
    return Logprobs(chosen, tokens, values - normaliser[:, None])


def forced(token: Int[Array, ""], wanted: Int[Array, "F"], length: Int[Array, ""]) -> Array:
    """The forced token of this place of a text, if there is one, else `token`."""
    if wanted.shape[0] == 0:
        return token
    place = jnp.minimum(length, wanted.shape[0] - 1)
    return jnp.where((length < wanted.shape[0]) & (wanted[place] >= 0), wanted[place], token)
