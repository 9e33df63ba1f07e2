"""Adversarial training of texts: a loss at the worst small change of their embedded tokens.

Source: Miyato, Dai & Goodfellow (2017). They normalise the embedding to mean 0 and variance 1 over
the tokens of the corpus, so that a model cannot make a change small by making the embedding large.
Here the change is measured in the standard deviations of the embedding over the real tokens of the
batch, which is the same measure, and the model stays the one that is used without it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxgen.types import Array, Bool, Float

_TRIAL_NORM = 0.1
"""Norm of the random change from which the search starts, that of Miyato et al.'s program."""

Rows = Callable[[Array], Array]
"""What a model says of a batch, [T, B, E] -> one number a row or its logits [B, C]."""


def adversarial_loss(
    rows_of: Rows,
    fixed_rows_of: Rows,
    embedded: Float[Array, "T B E"],
    real: Bool[Array, "T B"],
    norm: float,
    key: Array | None,
) -> Float[Array, "B"]:
    """A loss of each row at the change of its embedded tokens that raises the loss most.

    Args:
        rows_of: the loss of each row, [B], given the embedded tokens.
        fixed_rows_of: the same with parameters whose gradient is not followed, to search with.
        embedded: the tokens as they are.
        real: tokens that may change.
        norm: L2 norm of the change of a whole row, in standard deviations of the embedding.
        key: draws where the search starts, as virtual adversarial training needs: a divergence has
            no gradient where nothing has changed. None starts there.

    Returns:
        The loss, whose gradient takes the change as given.
    """
    fixed = jax.lax.stop_gradient(embedded)
    unit = deviation(fixed, real)
    start = jnp.zeros_like(fixed)
    if key is not None:
        start = scaled_rows(jax.random.normal(key, fixed.shape, fixed.dtype), real, _TRIAL_NORM)
    worst = perturbation(lambda change: fixed_rows_of(fixed + unit * change), start, real, norm)
    return rows_of(embedded + unit * worst)


def perturbation(
    rows_of: Rows, start: Float[Array, "T B E"], real: Bool[Array, "T B"], norm: float
) -> Float[Array, "T B E"]:
    """The change of a given norm a row along which `rows_of` rises fastest at `start`.

    From a small random start and with a divergence, this is one step of the power iteration for
    the largest eigenvalue of its Hessian.
    """
    gradient = jax.grad(lambda change: rows_of(change).sum())(start)
    return jax.lax.stop_gradient(scaled_rows(gradient, real, norm))


def scaled_rows(
    values: Float[Array, "T B E"], real: Bool[Array, "T B"], norm: float
) -> Float[Array, "T B E"]:
    """Values of the real tokens, each row scaled to an L2 norm; a row of zeros stays so."""
    values = jnp.where(real[..., None], values, 0)
    # First to a largest value of 1: the squares of small gradients would vanish.
    largest = jnp.abs(values).max(axis=(0, 2), keepdims=True)
    values = values / jnp.where(largest > 0, largest, 1)
    length = jnp.sqrt(jnp.square(values).sum(axis=(0, 2), keepdims=True))
    return norm * values / jnp.where(length > 0, length, 1)


def deviation(embedded: Float[Array, "T B E"], real: Bool[Array, "T B"]) -> Float[Array, "E"]:
    """Standard deviation of each coordinate over the real tokens of a batch."""
    count = jnp.maximum(real.sum(), 1).astype(jnp.float32)
    mean = jnp.where(real[..., None], embedded, 0).sum(axis=(0, 1)) / count
    squares = jnp.where(real[..., None], jnp.square(embedded - mean), 0)
    return jnp.sqrt(squares.sum(axis=(0, 1)) / count)


def softmax_divergence(p: Float[Array, "B C"], q: Float[Array, "B C"]) -> Float[Array, "B"]:
    """KL(p || q) in nats of the classes of each row, given their logits."""
    log_p, log_q = jax.nn.log_softmax(p), jax.nn.log_softmax(q)
    return (jnp.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def sigmoid_divergence(p: Float[Array, "B C"], q: Float[Array, "B C"]) -> Float[Array, "B"]:
    """Mean over the labels of each row of KL(p || q), each of one sigmoid, given the logits."""
    yes = jax.nn.sigmoid(p) * (jax.nn.log_sigmoid(p) - jax.nn.log_sigmoid(q))
    no = jax.nn.sigmoid(-p) * (jax.nn.log_sigmoid(-p) - jax.nn.log_sigmoid(-q))
    return (yes + no).mean(axis=-1)
