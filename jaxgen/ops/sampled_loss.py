"""Sampled softmax: the loss against the target and some drawn tokens in place of all."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.ops.cross_entropy import cross_entropy
from jaxgen.ops.lookup import lookup
from jaxgen.types import Array, Float, Int

_SURE = 0.99
"""Ranks that would be drawn more often than this are always drawn, so that none is drawn twice."""


class Candidates(NamedTuple):
    """Tokens to draw from, frequent ones more often: by the log-uniform law over their ranks.

    Rank k is drawn with probability `scale * log((k + 2) / (k + 1))`, and the `sure` first always,
    for which that would be 1 or more; these probabilities add up to `size`.
    """

    size: int
    """Tokens that are drawn for all rows of a batch together, all of them different."""
    sure: int
    scale: float
    ranks: Int[Array, "V"]
    """Of each token, 0 for the most frequent."""
    tokens: Int[Array, "V"]
    """Of each rank."""

    @classmethod
    def by_frequency(cls, counts: Int[np.ndarray, " V"], count: int) -> "Candidates":
        """Ranks by how often each token occurs; the lower of two that tie comes first."""
        sure, scale = 0, 0.0
        while sure < count:
            scale = (count - sure) / math.log((len(counts) + 1) / (sure + 1))
            if scale * math.log((sure + 2) / (sure + 1)) < _SURE:
                break
            sure += 1
        tokens = np.argsort(-counts, kind="stable")
        ranks = np.argsort(tokens)
        return cls(
            count, sure, scale, jnp.asarray(ranks, jnp.int32), jnp.asarray(tokens, jnp.int32)
        )

    def log_expected(self, ranks: Int[Array, "*N"]) -> Float[Array, "*N"]:
        """Logarithm of the probability that each rank is among those drawn."""
        places = jnp.maximum(ranks, self.sure).astype(jnp.float32)  # the others' are not used
        rare = jnp.log(self.scale * jnp.log1p(1 / (places + 1)))
        return jnp.where(ranks < self.sure, 0, rare)

    def draw(self, key: Array) -> Int[Array, "S"]:
        """Ranks, of which each has the probability above.

        The ranks beyond the sure ones lie on a line, each as long as its probability, and points
        that are 1 apart fall on it from a random start (systematic sampling: Madow 1949).
        """
        rest = self.size - self.sure
        points = jnp.arange(rest, dtype=jnp.float32) + jax.random.uniform(key)
        ranks = (self.sure + 1) * jnp.exp(points / max(self.scale, 1e-9)) - 1
        ranks = jnp.clip(ranks.astype(jnp.int32), self.sure, len(self.ranks) - 1)
        return jnp.concatenate([jnp.arange(self.sure, dtype=jnp.int32), ranks])


def sampled_loss(
    hidden: Float[Array, "N H"],
    kernel: Float[Array, "H V"],
    bias: Float[Array, "V"],
    targets: Int[Array, "N"],
    weights: Float[Array, "N"],
    drawn: Int[Array, "S"],
    log_expected: tuple[Float[Array, "N"], Float[Array, "S"]],
) -> Float[Array, ""]:
    """Weighted sum of the nats of each target among itself and the drawn tokens.

    Each logit is lowered by the logarithm of the probability that its token is drawn, and a drawn
    token that is the target itself does not count: with all tokens drawn this is the softmax.

    Args:
        hidden: what the output layer reads.
        kernel: only the columns of the targets and of the drawn tokens are read.
        bias: of each token.
        targets: in [0, V).
        weights: of each row, at least 0; a row of weight 0 counts nowhere.
        drawn: tokens.
        log_expected: logarithm of how often the targets, and the drawn tokens, are expected among
            the drawn.

    Source: Jean et al. (2015); as `tf.nn.sampled_softmax_loss` defines it.
    """
    count = len(targets)
    tokens = jnp.concatenate([targets, drawn])
    rows = lookup(kernel.T, tokens).astype(hidden.dtype)
    offsets = bias[tokens] - jnp.concatenate(log_expected)
    chosen = (hidden.astype(jnp.float32) * rows[:count].astype(jnp.float32)).sum(axis=-1)
    others = jnp.matmul(hidden, rows[count:].T, preferred_element_type=jnp.float32)
    others = jnp.where(
        targets[:, None] == drawn, jnp.finfo(jnp.float32).min, others + offsets[count:]
    )
    logits = jnp.concatenate([(chosen + offsets[:count])[:, None], others], axis=1)
    nll = cross_entropy(logits, jnp.zeros_like(targets))
    return jnp.where(weights > 0, weights * nll, 0).sum()


def log_uniform_loss(
    key: Array,
    candidates: Candidates,
    hidden: Float[Array, "N H"],
    kernel: Float[Array, "H V"],
    bias: Float[Array, "V"],
    targets: Int[Array, "N"],
    weights: Float[Array, "N"],
) -> Float[Array, ""]:
    """`sampled_loss` with tokens drawn from the candidates."""
    ranks = candidates.draw(key)
    expected = (
        candidates.log_expected(candidates.ranks[targets]),
        candidates.log_expected(ranks),
    )
    drawn = candidates.tokens[ranks]
    return sampled_loss(hidden, kernel, bias, targets, weights, drawn, expected)
